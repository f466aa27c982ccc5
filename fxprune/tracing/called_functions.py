"""Called functions: sees the functions of PyTorch that the model's code calls, before they reach the dispatcher."""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxprune.tracing import unseen_reads
from fxprune.tracing.functions import OF_NUMBERS, RECURRENT, SIZED, called
from fxprune.tracing.provenance import TAGGED, Reference, Site, SizedCall, caller, source_of
from fxprune.tracing.recorder import Recorder


class Functions(TorchFunctionMode):
    """Sees each function of PyTorch that is called.

    It tells the recorder their names (`flatten` and `x.view(2, 512)` issue the same ATen call, but only the second can
    hold a width), hands out sizes with their sources, and notes the calls that take sizes.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder, self._run = recorder, recorder.run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recorder, run, name = self._recorder, self._run, called(func.__name__, args)
        recorder.function = name
        if name in RECURRENT:
            args = recorder.on_one_device(args)
        func = as_recorded(func, args)
        if run is None:
            return func(*args, **(kwargs or {}))
        noted = name in SIZED or _is_tagged(args, kwargs)
        nodes, run.inside = recorder.count, True
        used = recorder.uses((args, kwargs))
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            run.inside = False
        unseen_reads.note(name, used, result)
        if name in _READS:
            return self._read(name, (*args, *(kwargs or {}).values()), result, caller(sys._getframe(1), func))
        if noted:
            made = range(nodes, recorder.count)
            self._note(name, args, kwargs or {}, result, run.note(caller(sys._getframe(1), func)), made)
        return result

    def _read(self, name: str, args: Any, result: Any, frame: FrameType) -> Any:
        """What the code has read of a tensor's sizes, with its source."""
        if name == "__get__" and type(result) is not torch.Size:
            return result
        tensor, run = self._recorder.refer_to(args[0]), self._run
        assert run is not None
        if tensor is not None:
            run.reads.append((tensor, frame.f_code))
        if type(result) is torch.Size:
            return torch.Size([run.dim(tensor, i, n, frame) for i, n in enumerate(result)])
        if name == "size":
            return run.dim(tensor, (args[1] if len(args) > 1 else -1) % args[0].dim(), result, frame)
        sizes = [run.dim(tensor, i, n, frame) for i, n in enumerate(args[0].size())]
        if name in ("numel", "nelement"):
            return math.prod(sizes)
        if name == "__len__" and type(sizes[0]) in TAGGED:  # Python makes a plain int of it
            run.escape(sizes[0].source, frame)  # type: ignore[attr-defined]
        return result

    def _note(self, name: str, args: Any, kwargs: Any, result: Any, site: Site, nodes: range) -> None:
        given = tuple([self._described(a) for a in args])
        named = {k: self._described(v) for k, v in kwargs.items()}
        several = result if isinstance(result, tuple | list) else (result,)
        if name in OF_NUMBERS and isinstance(result, Tensor):
            self._recorder.constant(result)
        found = tuple([self._recorder.refer_to(t) for t in several if isinstance(t, Tensor)])
        self._run.calls.append(SizedCall(name, given, named, found, site, nodes))  # type: ignore[union-attr]

    def _described(self, value: Any) -> Any:
        """An argument with references for tensors, and sources for numbers."""
        if isinstance(value, Tensor):
            return self._recorder.refer_to(value) or _CONSTANT
        if isinstance(value, list | tuple):
            return tuple([self._described(v) for v in value])
        if isinstance(value, slice):
            return slice(*(source_of(v) for v in (value.start, value.stop, value.step)))
        return source_of(value)


_CONSTANT = Reference("")  # a tensor that the code holds


_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]


def as_recorded(func: Any, args: Any) -> Any:
    """The function that is called in the place of one that calls no op to be recorded: of `p.data = p.data * 0.9`."""
    return _copied if func == _SET_DATA and _is_alike(*args) else func


def _copied(one: Tensor, other: Tensor) -> None:
    with torch.no_grad():
        one.detach().copy_(other)  # as code may write it: `p.data.copy_(…)`


def _is_alike(one: Tensor, other: Any) -> bool:
    """Whether a tensor's numbers may be copied into another one."""
    return isinstance(other, Tensor) and (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


_READS = frozenset(["__get__", "size", "numel", "nelement", "__len__", "stride"])


def _is_tagged(args: Any, kwargs: Any) -> bool:
    """Whether a number with a source is among a call's arguments."""
    for a in (*args, *kwargs.values()) if kwargs else args:
        kind = type(a)
        if kind in TAGGED or (kind in (tuple, list, torch.Size) and any(type(v) in TAGGED for v in a)):
            return True
        if kind is slice and (type(a.start) in TAGGED or type(a.stop) in TAGGED):
            return True
    return False
