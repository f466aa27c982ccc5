"""Autocast: code that asks for it by the device of its tensors may be asked to run on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import get_ident
from typing import Any
from unittest.mock import patch

import torch
from torch.amp.autocast_mode import autocast


@contextmanager
def autocast_on_meta() -> Iterator[None]:
    """`torch.autocast(x.device.type)` and the two questions about it know the device "meta", where nothing is cast.

    PyTorch refuses it there, even where `enabled=False`, as positions in transformers are computed. The names are the
    whole process's: other threads meet no difference on other devices.
    """
    init, enabled, dtype = autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype
    switched = patch.object(autocast, "__init__", _switched_off(init))
    asked = patch.multiple(
        torch, is_autocast_enabled=_knows(enabled, False), get_autocast_dtype=_knows(dtype, dtype("cpu"))
    )
    with switched, asked:
        yield


def _switched_off(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def make(self: autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == "meta":
            init(self, "cpu", enabled=False)
        else:
            init(self, device_type, *args, **kwargs)

    return make


def _knows(ask: Callable[..., Any], answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer if "meta" in (*args, *kwargs.values()) else ask(*args, **kwargs)


@contextmanager
def without_autocast() -> Iterator[list[str]]:
    """This thread computes in the tensors' own types: neither its own autocast counts nor any that its code enters.

    Under autocast a layer reads a cast copy of its weight, which nothing tells from other tensors.

    Yields:
        The types of those that the code has entered by then.
    """
    enter, here, entered = autocast.__enter__, get_ident(), list[str]()

    def disabled(self: autocast) -> Any:
        if get_ident() != here:
            return enter(self)
        wanted, self._enabled = self._enabled, False
        entered.extend([str(self.fast_dtype)] * wanted)
        try:
            return enter(self)
        finally:
            self._enabled = wanted

    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(patch.object(autocast, "__enter__", disabled))
        yield entered


_DEVICES = ("cpu", "cuda", "xpu", "mps")
