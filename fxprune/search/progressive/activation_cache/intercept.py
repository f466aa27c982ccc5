"""Interception of module calls, in one thread and for one block, without touching any module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from torch import nn


class Looks(Protocol):
    """Gives the result of a module's call; `run(module, *args, **kwargs)` is the call itself."""

    def call(self, run: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any: ...


_SESSION: ContextVar[Looks | None] = ContextVar("session", default=None)


class _Interception:
    """`nn.Module.__call__` asks the session of its thread, while there is any session."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._original: Callable[..., Any] = nn.Module.__call__

    def start(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                original = self._original = nn.Module.__call__

                def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                    session = _SESSION.get()
                    if session is None:
                        return original(module, *args, **kwargs)
                    return session.call(original, module, args, kwargs)

                nn.Module.__call__ = call  # type: ignore[method-assign]

    def stop(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                nn.Module.__call__ = self._original  # type: ignore[method-assign]


INTERCEPTION = _Interception()


@contextmanager
def looking_at(session: Looks) -> Iterator[None]:
    """Inside the block, and in this thread, calls of modules go through the session.

    Modules are not touched, so that copies that are made of them inside the block are ordinary.
    """
    INTERCEPTION.start()
    token = _SESSION.set(session)
    try:
        yield
    finally:
        _SESSION.reset(token)
        INTERCEPTION.stop()
