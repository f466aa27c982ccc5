"""Errors: each says what failed, where, what was seen, and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor, nn


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose.

    Args:
        what: one sentence, what failed.
        where: the module, tensor, group or file concerned.
        seen: the offending value.
        remedy: what the caller can do about it.

    >>> raise InputError("pruning ratio out of range", seen="1.5", remedy="give a number in [0, 1)")
    Traceback (most recent call last):
    fxprune.errors.InputError: pruning ratio out of range; seen: 1.5; remedy: give a number in [0, 1)
    """

    def __init__(self, what: str, *, where: str = "", seen: str = "", remedy: str = "") -> None:
        self.what, self.where, self.seen, self.remedy = what, where, seen, remedy
        parts = [what + (f" in {where}" if where else "")]
        parts += [f"seen: {seen}"] if seen else []
        parts += [f"remedy: {remedy}"] if remedy else []
        super().__init__("; ".join(parts))


class TraceError(FxpruneError):
    """The model could not be run and recorded."""


class InputError(FxpruneError, ValueError):
    """An argument is out of range, of the wrong kind, or on the wrong device."""


class PlanError(FxpruneError):
    """A plan does not fit the model, is damaged, or cannot be applied."""


class StorageError(FxpruneError, OSError):
    """A file or folder cannot be read or written."""


class ProofError(FxpruneError):
    """A pruned model fails, or differs from the masked one, and no smaller choice of groups mends that."""


def check_model(what: str, value: object) -> None:
    """Refuse what is no model.

    Raises:
        InputError: it is none.
    """
    check_kind(what, value, nn.Module, "give a torch.nn.Module; of a result, its model")


def check_kind(what: str, value: object, kind: type, remedy: str) -> None:
    """Refuse an argument of another kind.

    Raises:
        InputError: it is none of this kind.
    """
    if not isinstance(value, kind):
        raise InputError(f"{what} is not of type {kind.__name__}", seen=type(value).__name__, remedy=remedy)


def check_several(what: str, value: object, remedy: str) -> None:
    """Refuse what are not several values one after another: one text, one tensor, a table, what cannot be iterated.

    Raises:
        InputError: it is one of these.
    """
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Tensor | nn.Module | Mapping):
        raise InputError(f"{what} are not several values", seen=shown(value), remedy=remedy)


def check_function(what: str, value: object, remedy: str, arguments: int | None = None) -> None:
    """Refuse what cannot be called, or not with so many arguments; None is fine.

    Raises:
        InputError: it cannot.
    """
    if value is not None:
        check_called(what, value, remedy, arguments)


def check_called(what: str, value: object, remedy: str, arguments: int | None = None) -> None:
    """Refuse what cannot be called, or not with so many arguments, and None.

    Raises:
        InputError: it cannot.
    """
    if not callable(value):
        raise InputError(f"{what} is not a function", seen=shown(value), remedy=remedy)
    if arguments is not None and not _takes(value, arguments):
        number = "1 argument" if arguments == 1 else f"{arguments} arguments"
        raise InputError(f"{what} cannot be called with {number}", seen=shown(value), remedy=remedy)


def check_of_model(what: str, value: object, remedy: str) -> None:
    """Refuse what is no function of a model, such as a model itself; None is fine.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, nn.Module):
        raise InputError(f"{what} is a model, not a function of one", seen=type(value).__name__, remedy=remedy)
    check_function(what, value, remedy, arguments=1)


def _takes(function: object, arguments: int) -> bool:
    """Whether a function can be called with so many arguments; those written in C do not always tell."""
    own = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(own)  # type: ignore[arg-type]  # whatever can be called
    except (ValueError, TypeError):
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def check_option(what: str, value: object, known: Sequence[object]) -> None:
    """Refuse an option that is none of the known ones.

    Raises:
        InputError: it is not, with the known ones as the remedy.
    """
    # Arrays and tensors compare element by element: only what is of an option's kind is compared with it.
    if not any(isinstance(value, type(k)) and value == k for k in known):
        names = ", ".join(str(k) for k in known)
        raise InputError(f"unknown {what}", seen=str(value)[:60], remedy=f"one of {names}")


def check_number(what: str, value: Any, within: str, remedy: str) -> None:
    """Refuse what is no number in an interval; NaN and booleans are none.

    Args:
        what: what is checked.
        value: any value.
        within: the interval, such as "[0, 1)" or "(0, inf)".
        remedy: what the caller can do about it.

    Raises:
        InputError: it is none.
    """
    low, high = (float(end) for end in within[1:-1].split(","))
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    above = number >= low if within[0] == "[" else number > low
    below = number <= high if within[-1] == "]" else number < high
    if not (above and below):
        raise InputError(f"{what} is not a number in {within}", seen=shown(value), remedy=remedy)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integer(what: str, value: Any, least: int, remedy: str) -> None:
    """Refuse what is no integer of at least `least`; booleans are none.

    Raises:
        InputError: it is none.
    """
    if not _is_integer(value) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise InputError(f"{what} must be {kind}", seen=shown(value), remedy=remedy)


def check_seed(value: Any, least: int = -(2**63)) -> None:
    """Refuse what is no seed; PyTorch takes negative ones, NumPy and so searches do not.

    Raises:
        InputError: it is none.
    """
    if not _is_integer(value) or not least <= value < 2**64:
        kind = "an integer of 64 bits" if least < 0 else "an integer in [0, 2**64)"
        raise InputError(f"the seed must be {kind}", seen=shown(value), remedy="give one such as 0")


def check_flag(what: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{what} is neither True nor False", seen=shown(value), remedy="give one of them")


_LONGEST = 200  # bits


def shown(value: object) -> str:
    """A value in one short line, as errors show it."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print the largest
    return " ".join(repr(value).split())[:60]


def check_data(where: str, tensor: Tensor) -> None:
    """Refuse a tensor on the meta device where numbers are needed.

    Raises:
        InputError: it is one.
    """
    if tensor.is_meta:
        raise InputError("a meta tensor holds no data", where=where, remedy="load the model's weights first")
