"""Collections are put off, and come back."""

import gc
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.module.garbage import no_collections


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)

    def forward(self, x: torch.Tensor) -> Any:
        if gc.isenabled():
            raise RuntimeError("collections are on")
        return self.last(self.first(x).relu())


def test_none_while_a_model_is_recorded_and_proven() -> None:
    with pytest.raises(RuntimeError, match="collections are on"):
        Net()(torch.zeros(1, 3, 8, 8))
    fxprune.prune(Net().eval(), torch.zeros(1, 3, 8, 8), 0.5)
    assert gc.isenabled()


def test_they_come_back_after_an_error() -> None:
    with pytest.raises(fxprune.TraceError):
        fxprune.trace(Net().eval(), torch.zeros(1, 4, 8, 8))
    assert gc.isenabled()


def test_who_has_switched_them_off_finds_them_off() -> None:
    gc.disable()
    try:
        with no_collections(), no_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
