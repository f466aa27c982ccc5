"""Numbers in the closure of a function that a module holds, as in the shortcuts of CIFAR ResNets."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.module.attributes import int_of


class Lambda(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator,no-any-return]


class Block(nn.Module):
    """The shortcut adds channels of zeros, by a number that a lambda holds."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, planes, 3, 2, 1, bias=False)
        self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4)))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.shortcut(x))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 16, 3, padding=1), Block(16, 32), Block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(64, 10)).eval()


def test_the_number_follows_the_width(tmp_path: Path) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    before = model(x)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert result.plan.kept_counts()["0"] == 8
    assert int_of(result.model.get_submodule("1.shortcut"), "function.planes") == 16
    assert torch.equal(model(x), before)
    assert torch.equal(fxprune.rewrite(copy.deepcopy(model), result.plan)(x), result.model(x))


def test_steps_and_what_they_make_of_it() -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    result = fxprune.prune(model, x, pruning_ratio=0.5, steps=2)
    assert int_of(result.model.get_submodule("2.shortcut"), "function.planes") == 32
    assert fxprune.verify(model, result.plan, x) == pytest.approx(0, abs=1e-9)


class Shared(nn.Module):
    """Two functions hold one and the same variable."""

    def __init__(self) -> None:
        super().__init__()
        width = 8
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 2)
        self.flat = lambda x: x.reshape(-1, width, 16)
        self.again = lambda x: x.reshape(-1, width * 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(self.flat(self.conv(x)).relu()))  # type: ignore[no-any-return]


def test_a_variable_of_two_functions_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Shared()).eval()
    result = fxprune.prune(model, torch.randn(2, 3, 4, 4), 0.5)
    assert result.model.get_submodule("1.conv").out_channels == 8


class Table(nn.Module):
    """Holds functions under names that no dots can lead to."""

    def __init__(self) -> None:
        super().__init__()
        width = 8
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 2)
        self.ways = {"a.b": lambda x: x.reshape(-1, width, 16)}

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.ways["a.b"](self.conv(x)).flatten(1))  # type: ignore[no-any-return]


def test_names_with_dots_lead_nowhere() -> None:
    result = fxprune.prune(nn.Sequential(nn.Conv2d(3, 3, 1), Table()).eval(), torch.randn(2, 3, 4, 4), 0.5)
    assert result.model.get_submodule("1.conv").out_channels == 8
