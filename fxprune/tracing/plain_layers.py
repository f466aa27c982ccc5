"""The plainest layers of PyTorch, whose functions a recorded run need not look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxprune.module.isolation import walk
from fxprune.tracing.functions import PLAIN_LAYER
from fxprune.tracing.recorder import Recorder

# PyTorch's own layers whose functions take no size from anyone's code.
_PLAIN = frozenset(
    (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.ReLU6),
        *(nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    )
)


def spare_plain_layers(model: nn.Module, recorder: Recorder) -> None:
    """Hide the functions that the plainest layers call from `Functions`, which makes each take twice its time.

    Call it inside `isolated`, for a run on meta tensors only: tensors of other kinds may rely on seeing them.
    """
    for _, module in walk(model):
        if type(module) in _PLAIN and "forward" not in module.__dict__:
            module.__dict__["forward"] = _unseen(module.forward, recorder)


def _unseen(forward: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        recorder.function = PLAIN_LAYER
        with torch._C.DisableTorchFunction():
            result = forward(*args, **kwargs)
        recorder.function = ""
        return result

    return run
