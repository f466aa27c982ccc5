"""Provenance: ints and floats that remember where they came from, through one recorded forward.

The sizes of tensors and the int attributes of modules are handed to the model's code as `Width`, an `int` that carries
its source; arithmetic on it gives further ones (`Real` is the same for floats). So what reaches a call of PyTorch is
known: it follows these dims and those attributes, or it is a plain number of the code. Comparisons are noted as guards,
and where a value leaves the numbers that can be followed (`int(w)`, NumPy), that is noted as an escape.

After the run these numbers are plain ints to everybody: arithmetic gives plain results, and so do copies and pickles.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx


class Site(NamedTuple):
    """A place in the model's code: the function, the instruction in it, and the module whose forward was running."""

    code: CodeType
    instruction: int
    module: str


class Reference(NamedTuple):
    """A tensor: a node of the recorded graph (and which of its results), or a parameter or buffer by name."""

    node: fx.Node | str
    item: int | None = None


class Dim(NamedTuple):
    """The length of a tensor's dim."""

    tensor: Reference
    axis: int
    value: int


class Attribute(NamedTuple):
    """An int that a module holds; dots lead into what its attributes hold (`config.sizes.0`)."""

    module: str
    name: str
    value: int


class Computed(NamedTuple):
    """The result of an operation of Python's on two sources; plain numbers stand for themselves."""

    operation: str
    left: Any
    right: Any
    site: Site
    value: float


Source: TypeAlias = "Dim | Attribute | Computed | int | float"


class SizedCall(NamedTuple):
    """A call of PyTorch's that takes sizes, or was given a number with a source.

    Attributes:
        name: of the function.
        args: as given; `Reference` stands for tensors, and sources for numbers that have one.
        kwargs: likewise.
        results: what it returned.
        site: where it was called.
        nodes: which of the recorded calls were made in it.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Reference | None, ...]
    site: Site
    nodes: range


class Guard(NamedTuple):
    """A comparison that the code made, and its outcome."""

    operation: str
    left: Source
    right: Source
    outcome: bool
    site: Site


class Run:
    """One recorded forward, as far as numbers are concerned.

    Attributes:
        calls: the calls that took sizes.
        guards: the comparisons.
        escapes: sources that left the numbers that can be followed, and where.
        reads: the tensors whose sizes were read, and the code that did.
        tags: whether sizes and attributes carry their sources; if not, each size that is read counts as an escape.
        active: whether the run still goes on.
        inside: whether PyTorch's own code is running, which needs no following.
    """

    def __init__(self, stack: Sequence[str], *, tags: bool = True) -> None:
        self.calls: list[SizedCall] = []
        self.guards: list[Guard] = []
        self.escapes: list[tuple[Source, Site]] = []
        self.reads: list[tuple[Reference, CodeType]] = []
        self.tags, self.active, self.inside = tags, True, False
        self._stack = stack

    def note(self, frame: FrameType) -> Site:
        return Site(frame.f_code, frame.f_lasti, self._stack[-1] if self._stack else "")

    def escape(self, source: Source, frame: FrameType) -> None:
        if self.active and not self.inside:
            self.escapes.append((source, self.note(frame)))

    def length(self) -> tuple[int, ...]:
        return len(self.calls), len(self.guards), len(self.escapes), len(self.reads)

    def cut(self, length: tuple[int, ...]) -> None:
        """Forget what was noted since there was so much."""
        notes: tuple[list[Any], ...] = (self.calls, self.guards, self.escapes, self.reads)
        for noted, n in zip(notes, length, strict=True):
            del noted[n:]

    def dim(self, tensor: Reference | None, index: int, value: int, frame: FrameType) -> int:
        """The length of a dim that the code has read."""
        if tensor is None:
            return value
        if not self.tags:
            self.escape(Dim(tensor, index, value), frame)
            return value
        return Width(value, Dim(tensor, index, value), self)

    def made(self, value: Any, operation: str, left: Any, right: Any, frame: FrameType) -> Any:
        if not self.active:
            return value
        source = Computed(operation, source_of(left), source_of(right), self.note(frame), value)
        return Width(value, source, self) if type(value) is int else Real(value, source, self)

    def compared(self, operation: str, left: Any, right: Any, outcome: bool, frame: FrameType) -> bool:
        if self.active and not self.inside:
            self.guards.append(Guard(operation, source_of(left), source_of(right), outcome, self.note(frame)))
        return outcome


def source_of(value: Any) -> Any:
    """The source of a number that carries one; other values stand for themselves."""
    return value.source if type(value) in TAGGED else value


class Width(int):
    """An int with a source."""

    def __new__(cls, value: int, source: Source, run: Run) -> Width:
        made = int.__new__(cls, value)
        made.plain, made.source, made.run = value, source, run
        return made

    plain: int
    source: Source
    run: Run

    def __int__(self) -> int:
        self.run.escape(self.source, sys._getframe(1))
        return self.plain

    def _same(self) -> Width:
        return self

    __pos__ = __trunc__ = __floor__ = __ceil__ = _same

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None else round(self.plain, digits)


class Real(float):
    """A float with a source."""

    def __new__(cls, value: float, source: Source, run: Run) -> Real:
        made = float.__new__(cls, value)
        made.plain, made.source, made.run = value, source, run
        return made

    plain: float
    source: Source
    run: Run

    def __int__(self) -> int:
        self.run.escape(self.source, sys._getframe(1))
        return int(self.plain)

    __trunc__ = __int__

    def __round__(self, digits: Any = None) -> Any:
        self.run.escape(self.source, sys._getframe(1))
        return round(self.plain, digits)

    def __floor__(self) -> int:
        return self.run.made(math.floor(self.plain), "floor", self, 1, sys._getframe(1))  # type: ignore[no-any-return]

    def __ceil__(self) -> int:
        return -(-self).__floor__()

    def __pos__(self) -> Real:
        return self


TAGGED = (Width, Real)
_NUMBERS = frozenset([int, float, bool, Width, Real])


def plain(value: Any) -> Any:
    return value.plain if type(value) in TAGGED else value


def _arithmetic(name: str, compute: Callable[[Any, Any], Any], *, turned: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any, *_: Any) -> Any:
        if type(other) not in _NUMBERS:
            if isinstance(other, list | tuple | str):  # repeated so many times
                self.run.escape(self.source, sys._getframe(1))
            return NotImplemented
        left, right = (other, self) if turned else (self, other)
        return self.run.made(compute(plain(left), plain(right)), name, left, right, sys._getframe(1))

    return method


def _comparison(name: str, compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if type(other) not in _NUMBERS:
            return NotImplemented
        return self.run.compared(name, self, other, compute(self.plain, plain(other)), sys._getframe(1))

    return method


def _both(**methods: Callable[..., Any]) -> None:
    for name, method in methods.items():
        for kind in TAGGED:
            setattr(kind, f"__{name}__", method)


_ARITHMETIC = {
    **{n: getattr(operator, n) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")},
    **{n: getattr(operator, n) for n in ("lshift", "rshift", "and_", "or_", "xor")},
}
for _name, _compute in _ARITHMETIC.items():
    _short = _name.rstrip("_")
    _both(
        **{_short: _arithmetic(_name, _compute, turned=False), f"r{_short}": _arithmetic(_name, _compute, turned=True)}
    )
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _both(**{_name: _comparison(_name, getattr(operator, _name))})


def _divided(self: Any, other: Any) -> Any:
    return (self // other, self % other) if type(other) in _NUMBERS else NotImplemented


def _divides(self: Any, other: Any) -> Any:
    return (other // self, other % self) if type(other) in _NUMBERS else NotImplemented


def _float(self: Any) -> float:
    self.run.escape(self.source, sys._getframe(1))
    return float(self.plain)


_both(
    divmod=_divided,
    rdivmod=_divides,
    float=_float,
    neg=lambda self: self.run.made(-self.plain, "mul", self, -1, sys._getframe(1)),
    abs=lambda self: -self if self < 0 else self,
    bool=lambda self: self.run.compared("ne", self, 0, self.plain != 0, sys._getframe(1)),
    hash=lambda self: hash(self.plain),
    repr=lambda self: repr(self.plain),
    str=lambda self: str(self.plain),
    format=lambda self, how: format(self.plain, how),
    copy=lambda self: self.plain,
    deepcopy=lambda self, _: self.plain,
    reduce_ex=lambda self, _: (type(self.plain), (self.plain,)),
)


_TORCH = str(Path(torch.__file__).parent) + os.sep


def is_torchs(code: CodeType) -> bool:
    """Whether it is code of PyTorch's own."""
    return code.co_filename.startswith(_TORCH)


def caller(frame: FrameType, func: Any) -> FrameType:
    """The frame that called a function of PyTorch's, given the one that its overriding has led to."""
    code = getattr(func, "__code__", None)
    while frame.f_back is not None and (frame.f_code is code or frame.f_code.co_filename.endswith(_OVERRIDES)):
        frame = frame.f_back
    return frame


_OVERRIDES = str(Path("torch") / "overrides.py")
