"""What a scorer must leave as it was, as named values that can be compared."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Footprint = Mapping[tuple[str, str], Any]


def footprint(model: nn.Module, data: Any = ()) -> Footprint:
    """Everything about a model, its data and the process that a scorer's caller would notice, by kind and place."""
    return {**dict(_of_model(model)), **dict(_of_process()), **dict(_of_data(data))}


def changes(before: Footprint, after: Footprint) -> list[tuple[str, str]]:
    """Kind and place of what differs."""
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


def _of_model(model: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    for path, module in model.named_modules():
        yield ("mode", path), module.training
        yield ("attributes", path), {key: id(value) for key, value in vars(module).items() if key != "training"}
        for key, value in vars(module).items():
            if isinstance(value, dict):
                kind = "hooks" if "hooks" in key else "contents"
                yield (kind, f"{path}.{key}".lstrip(".")), [(str(k), id(v)) for k, v in value.items()]
    for name, p in model.named_parameters():
        yield ("parameters", name), _bits(p)
        yield ("gradients", name), None if p.grad is None else _bits(p.grad)
        yield ("requires_grad", name), p.requires_grad
    for name, b in model.named_buffers():
        yield ("buffers", name), _bits(b)


def _of_process() -> Iterator[tuple[tuple[str, str], Any]]:
    yield ("random state", "torch"), _bytes(torch.get_rng_state())
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002, the user's global state is meant
    yield ("random state", "numpy"), (kind, np.asarray(keys).tobytes(), *rest)
    yield ("random state", "python"), random.getstate()
    if torch.cuda.is_initialized():
        yield ("random state", "cuda"), [_bytes(s) for s in torch.cuda.get_rng_state_all()]
    yield ("switch", "grad mode"), torch.is_grad_enabled()
    yield ("switch", "default dtype"), torch.get_default_dtype()
    yield ("switch", "threads"), torch.get_num_threads()


def _of_data(data: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    for i, batch in enumerate(data):
        for j, t in enumerate(batch):
            yield ("data", f"batch {i}, tensor {j}"), _bits(t)


def _bits(t: Tensor) -> Any:
    return id(t), tuple(t.shape), t.dtype, _bytes(t)


def _bytes(t: Tensor) -> bytes:
    return t.detach().cpu().contiguous().view(-1).numpy().tobytes()
