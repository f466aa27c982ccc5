"""Libraries that some calls need and most do not: imported by those calls, so that `import fxprune` is quick."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress


def require(module: str, extra: str) -> Any:
    """Import a module of a library that an extra of this package brings.

    Args:
        module: such as "sklearn.linear_model".
        extra: its name, such as "lasso".

    Raises:
        InputError: the library is not installed; the remedy names the extra.

    >>> require("not_there.at_all", extra="lasso")
    Traceback (most recent call last):
    fxprune.errors.InputError: not_there cannot be imported; seen: No module named 'not_there'; remedy: pip install \
'fxprune[lasso]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        library, _, _ = module.partition(".")
        remedy = f"pip install 'fxprune[{extra}]'"
        raise InputError(f"{library} cannot be imported", seen=str(error), remedy=remedy) from error


_inside = threading.local()


@contextmanager
def progress_bar(show: bool | None = None, unit: str = "") -> Iterator[Progress]:
    """A bar on standard error; inside another one of the same thread, it shows nothing.

    Args:
        show: whether anything is shown; default is to show a bar that goes away, on a terminal only.
        unit: of what is counted, such as "samples"; empty for parts of a whole.
    """
    drawn = random.getstate()  # the library draws a number when it is imported
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    random.setstate(drawn)
    console, outer = Console(stderr=True), getattr(_inside, "bar", False)
    shown = (console.is_terminal if show is None else show) and not outer
    words, units = TextColumn("{task.description}"), TextColumn(unit)
    counted = words, BarColumn(), MofNCompleteColumn(), units, TimeRemainingColumn()
    _inside.bar = outer or shown
    try:
        with Progress(*(counted if unit else ()), console=console, disable=not shown, transient=show is None) as bar:
            yield bar
    finally:
        _inside.bar = outer
