"""Widths that modules hold beside the forward: they stay, and the report says so."""

from abc import ABC
from typing import Any

import pytest
import torch
from footprints import no_footprints
from torch import Tensor, nn

import fxprune
from fxprune.verification.stale_widths import StaleWidth, stale_widths

KINDS: list[type] = []


class Block(nn.Module):
    """Knows its width for a reshape, and again for others who ask; and its inner width."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.width, self.shape, self.inner, self.other = width, (width,), inner, width + 1
        self.a, self.b = nn.Linear(width, inner), nn.Linear(inner, width)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        KINDS.append(cls)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.reshape(x.shape[0], -1, self.width)).relu())


class Net(nn.Module):
    def __init__(self, follows_data: bool) -> None:
        super().__init__()
        self.num_features, self.classes, self.follows_data = 64, 10, follows_data
        self.stem, self.block, self.head = nn.Linear(5, 64), Block(64, 48), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.follows_data and x.max() > 1e9:
            x = -x
        return self.head(self.block(self.stem(x)).mean(1))


@pytest.mark.parametrize("follows_data", [False, True])
def test_what_the_forward_does_not_read_is_listed(follows_data: bool) -> None:
    model, x = Net(follows_data).eval(), torch.rand(2, 3, 5)
    with no_footprints(model, x):
        result = fxprune.prune(model, x, 0.5)
    assert result.report.kept == {"stem": 32, "block.a": 24, "block.b": 32}
    assert set(result.report.stale) == {
        StaleWidth("", "num_features", 64, (32,)),
        StaleWidth("block", "shape", 64, (32,)),
        StaleWidth("block", "inner", 48, (24,)),
    }
    told = str(result.report)
    assert "not read by this forward and as before: " in told
    assert "block.inner = 48" in told
    assert result.model.block.inner == 48
    assert result.model.block.width == 32
    assert KINDS == []


def test_where_nothing_shrinks_or_nothing_is_held_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net(False).eval(), torch.rand(2, 3, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plain = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    others = fxprune.find_groups(fxprune.trace(plain, torch.rand(1, 5)))
    monkeypatch.setattr(nn.Module, "__call__", None)
    assert stale_widths(groups.graph, groups.plan({})) == ()
    assert stale_widths(others.graph, others.plan({"0": [0, 1]})) == ()


class Uneven(nn.Module):
    """Two widths of the same number, and one attribute that says which."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 16
        self.a, self.b, self.c = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


def test_all_numbers_that_a_width_may_have_become_are_named() -> None:
    model, x = Uneven().eval(), torch.rand(2, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    (stale,) = stale_widths(groups.graph, groups.plan({"a": range(7), "b": range(9)}))
    assert stale == StaleWidth("", "channels", 16, (7, 9))
    assert "still 16, where 7 or 9 channels stay" in str(stale)


class Interface(ABC, nn.Module):
    """Python does not let an object of such a class become one of a class that watches."""


class Abstract(Interface):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.inside, self.out = 8, nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inside(x).relu())  # type: ignore[no-any-return]


def test_abstract_classes_are_not_watched() -> None:
    result = fxprune.prune(Abstract().eval(), torch.randn(2, 3), pruning_ratio=0.5)
    assert result.report.stale == ()
    assert "groups pruned" in str(result.report)
