"""What the contracts have in common: a promise that is broken, and the promises that are checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fxprune.errors import FxpruneError, InputError


class BrokenPromiseError(FxpruneError, AssertionError):
    """A plug-in breaks its contract.

    Attributes:
        promise: the name of the promise, such as a key of `PROMISES`.
    """

    def __init__(
        self, promise: str, what: str, *, of: str = "scorer", where: str = "", seen: str = "", remedy: str = ""
    ) -> None:
        self.promise = promise
        super().__init__(f"the {of} breaks the promise '{promise}': {what}", where=where, seen=seen, remedy=remedy)


def chosen(names: Iterable[str], known: Collection[str]) -> list[str]:
    """The named promises; all if none is named.

    Raises:
        InputError: an unknown promise.
    """
    names = list(names) or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError("no such promise", seen=", ".join(unknown), remedy=f"one of {', '.join(known)}")
    return names
