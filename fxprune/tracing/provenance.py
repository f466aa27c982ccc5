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
        escapes: sources that left the numbers that can be followed, where, and to what.
        reads: the tensors whose sizes were read, and the code that did.
        tags: whether sizes and attributes carry their sources; if not, each size that is read counts as an escape.
        active: whether the run still goes on.
        inside: whether PyTorch's own code is running, which needs no following.
    """

    def __init__(self, stack: Sequence[str], *, tags: bool = True) -> None:
        self.calls: list[SizedCall] = []
        self.guards: list[Guard] = []
        self.escapes: list[tuple[Source, Site, str]] = []
        self.reads: list[tuple[Reference, CodeType]] = []
        self.tags, self.active, self.inside = tags, True, False
        self._stack = stack

    def note(self, frame: FrameType) -> Site:
        return Site(frame.f_code, frame.f_lasti, self._stack[-1] if self._stack else "")

    def escape(self, source: Source, frame: FrameType, to: str = "Python") -> None:
        if self.active and not self.inside:
            self.escapes.append((source, self.note(frame), to))

    def length(self) -> tuple[int, ...]:
        return len(self.calls), len(self.guards), len(self.escapes), len(self.reads)

    def asks_more(self, since: tuple[int, ...]) -> bool:
        """Whether code has given numbers that may be widths where it had given none when so much was noted."""
        calls = since[0]
        known = {call.site[:2] for call in self.calls[:calls]}
        return any(c.site[:2] not in known and _may_be_width((c.args, c.kwargs)) for c in self.calls[calls:])

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


def _may_be_width(value: Any) -> bool:
    """Whether it is, or holds, more than the length of a batch, and than 1 and -1."""
    if isinstance(value, Dim):
        return value.axis > 0
    if isinstance(value, Reference | Site):
        return False
    if isinstance(value, Attribute | Computed):
        return True
    if isinstance(value, slice):
        return _may_be_width((value.start, value.stop, value.step))
    if isinstance(value, list | tuple | dict):
        return any(map(_may_be_width, value.values() if isinstance(value, dict) else value))
    return type(value) is int and abs(value) > 1


def source_of(value: Any) -> Any:
    """The source of a number that carries one; other values stand for themselves."""
    return value.source if type(value) in TAGGED else value


class _Sourced:
    """A number with a source; arithmetic gives others."""

    plain: Any
    source: Source
    run: Run

    def __new__(cls, value: float, source: Source, run: Run) -> Any:
        made: Any = super().__new__(cls, value)  # type: ignore[call-arg]
        made.plain, made.source, made.run = value, source, run
        return made

    def _escaped(self, frame: FrameType) -> Any:
        """The plain number, which goes where it cannot be followed."""
        self.run.escape(self.source, frame)
        return self.plain

    def __int__(self) -> int:
        return int(self._escaped(sys._getframe(1)))

    def __float__(self) -> float:
        return float(self._escaped(sys._getframe(1)))

    def __divmod__(self, other: Any) -> Any:
        return (self // other, self % other) if type(other) in _NUMBERS else NotImplemented  # type: ignore[operator]

    def __rdivmod__(self, other: Any) -> Any:
        return (other // self, other % self) if type(other) in _NUMBERS else NotImplemented

    def __pos__(self) -> Any:
        return self

    def __neg__(self) -> Any:
        return self.run.made(-self.plain, "mul", self, -1, sys._getframe(1))

    def __abs__(self) -> Any:
        return -self if self < 0 else self  # type: ignore[operator]

    def __bool__(self) -> bool:
        return self.run.compared("ne", self, 0, self.plain != 0, sys._getframe(1))

    def __hash__(self) -> int:
        """That of the number. einops keeps shapes that it has computed, which would give one tensor the sources of
        another; lengths that it cannot hash it takes for symbols, and computes with them.
        """
        if sys._getframe(1).f_globals.get("__name__", "").startswith("einops."):
            raise TypeError("a length with a source")
        return hash(self.plain)

    def __repr__(self) -> str:
        return repr(self.plain)

    def __format__(self, how: str) -> str:
        return format(self.plain, how)

    def __copy__(self) -> Any:
        return self.plain

    def __deepcopy__(self, _: Any) -> Any:
        return self.plain

    def __reduce_ex__(self, _: Any) -> Any:
        return type(self.plain), (self.plain,)


class Width(_Sourced, int):
    """An int with a source."""

    __trunc__ = __floor__ = __ceil__ = _Sourced.__pos__

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None else round(self.plain, digits)


class Real(_Sourced, float):
    """A float with a source."""

    __trunc__ = _Sourced.__int__

    def __round__(self, digits: Any = None) -> Any:
        if digits is None and self.plain.is_integer():
            return self.__floor__()
        return round(self._escaped(sys._getframe(1)), digits)

    def __floor__(self) -> int:
        return self.run.made(math.floor(self.plain), "floor", self, 1, sys._getframe(1))  # type: ignore[no-any-return]

    def __ceil__(self) -> int:
        return -(-self).__floor__()  # type: ignore[no-any-return]


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


for _name in ("add sub mul truediv floordiv mod pow lshift rshift and_ or_ xor").split():
    _compute, _short = getattr(operator, _name), _name.rstrip("_")
    setattr(_Sourced, f"__{_short}__", _arithmetic(_name, _compute, turned=False))
    setattr(_Sourced, f"__r{_short}__", _arithmetic(_name, _compute, turned=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(_Sourced, f"__{_name}__", _comparison(_name, getattr(operator, _name)))


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


def asking(frame: FrameType) -> FrameType:
    """The frame of the code that made a call which fxprune's own code answers, given one of the latter's."""
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame


_OURS = str(Path(__file__).parent.parent) + os.sep
