"""Errors: each says what failed, where, what was seen, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

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


def check_function(what: str, value: object, remedy: str) -> None:
    """Refuse what cannot be called; None is fine.

    Raises:
        InputError: it cannot.
    """
    if value is not None and not callable(value):
        raise InputError(f"{what} is not a function", seen=repr(value)[:60], remedy=remedy)


def check_option(what: str, value: object, known: Sequence[object]) -> None:
    """Refuse an option that is none of the known ones.

    Raises:
        InputError: it is not, with the known ones as the remedy.
    """
    if value not in known:
        names = ", ".join(str(k) for k in known)
        raise InputError(f"unknown {what}", seen=str(value), remedy=f"one of {names}")


def check_data(where: str, tensor: Tensor) -> None:
    """Refuse a tensor on the meta device where numbers are needed.

    Raises:
        InputError: it is one.
    """
    if tensor.is_meta:
        raise InputError("a meta tensor holds no data", where=where, remedy="load the model's weights first")
