"""Autocast: code that asks for it by the device of its tensors may be asked to run on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
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
