"""Dispatch: modes that see ATen calls, without PyTorch's compiler."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A mode for ATen calls that does not import PyTorch's compiler.

    PyTorch wraps the `__torch_dispatch__` of every mode so that it is not compiled, and imports the compiler for that
    at the first call, which takes more than a second. A process that has not imported it compiles nothing.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        wrapped = cls.__dict__.get("__torch_dispatch__")
        if hasattr(wrapped, "__wrapped__"):
            cls.__torch_dispatch__ = _Handler(wrapped)  # type: ignore[method-assign, assignment]


class _Handler:
    """Gives the handler as it was written, but where a compiled function runs: the wrapper takes time in every call."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped, self._plain = wrapped, wrapped.__wrapped__

    def __get__(self, mode: Any, kind: Any = None) -> Any:
        return (self._wrapped if _compiles() else self._plain).__get__(mode, kind)


_callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", None)
"""What compiles the functions that this thread calls; older releases do not tell."""


def _compiles() -> bool:
    return "torch._dynamo" in sys.modules and (_callback is None or _callback() is not None)
