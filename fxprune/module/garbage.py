"""Python's collection of cyclic garbage, put off while thousands of objects are made that all stay alive."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """Reference counts free what is done with; nobody searches for cycles meanwhile. Also a decorator.

    A graph of some thousand objects makes Python search all objects of the process, those of PyTorch with them, which
    takes longer than the graph.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
