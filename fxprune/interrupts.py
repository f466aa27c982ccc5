"""Ctrl-C, also where PyTorch makes another error of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt where Ctrl-C was pressed within and an error came out that it caused.

    PyTorch looks for handlers in C++ while it reads a call's arguments, or takes a mode from a stack that an
    interruption left without it; what Ctrl-C raises there becomes an internal error, which would be blamed on the
    model or the data. A handler of the caller's own is left alone, and so are other threads than the main one, which
    gets all signals.
    """
    presses = signal.getsignal(signal.SIGINT)
    own = presses is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if own:
        presses = _Presses()
        signal.signal(signal.SIGINT, presses)
    before = presses.count if isinstance(presses, _Presses) else 0
    try:
        yield
    except Exception as error:
        if isinstance(presses, _Presses) and presses.count > before and _interrupted(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if own:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Presses:
    """Counts how often Ctrl-C is pressed, and raises what it always raises."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        signal.default_int_handler(number, frame)


def _interrupted(error: BaseException) -> bool:
    """An interruption, or an internal error of PyTorch, led to this error."""
    found: dict[int, BaseException] = {}
    ahead: list[BaseException | None] = [error]
    while ahead:
        led = ahead.pop()
        if led is not None and id(led) not in found:  # errors may lead to each other
            found[id(led)] = led
            ahead += [led.__cause__, led.__context__]
    return any(isinstance(e, KeyboardInterrupt) or _INTERNAL in str(e) for e in found.values())


_INTERNAL = "INTERNAL ASSERT FAILED"
