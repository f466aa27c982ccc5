"""Chunked convolution: a real run's convolutions in parts, so that tracing needs little memory beside the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PART = 2**21  # bytes of a part's input; its output may take four times that, the library's scratch five times more


def run(op: Any, args: Any, kwargs: Any) -> Any:
    """What `op(*args, **kwargs)` gives, a convolution of a large batch some samples at a time.

    A detector's heads see a hundred regions as one batch: there the scratch of a transposed convolution, several times
    its output, is the highest peak of the whole forward.
    """
    parts = _parts(*args) if op is torch.ops.aten.convolution.default else 1
    if parts == 1:
        return op(*args, **kwargs)
    x, *rest = args
    first, *others = x.chunk(parts)
    done = op(first, *rest, **kwargs)
    out, start = done.new_empty((len(x), *done.shape[1:])), len(first)
    out[:start] = done
    for part in others:
        out[start : start + len(part)] = op(part, *rest, **kwargs)
        start += len(part)
    return out


def _parts(x: Tensor, *_: Any) -> int:
    return max(1, min(len(x), x.numel() * x.element_size() // _PART))
