"""Where other inputs leave out layers, or run them again, is told; what never changes is not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.verification.choices import one_way_choices


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.down, self.pool = nn.Conv2d(16, 16, 3, 2, 1), nn.MaxPool2d(2)
        self.blocks = nn.ModuleList([nn.Conv2d(16, 16, 1)])
        self.deep = True

    def halved(self, y: Tensor) -> Tensor:
        return self.down(y).relu()  # type: ignore[no-any-return]


class Loop(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        while min(y.shape[-2:]) > 8:
            y = self.halved(y)
        return self.head(y)


class Choice(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        if x.shape[-1] > 16:
            y = self.down(y).relu()
        return self.head(y)


class Expression(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        return self.head(y if x.size(2) * x.size(3) < 500 else self.halved(y))


class Blocks(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        if len(x) > 1:
            for block in self.blocks:
                y = block(y).relu()
        return self.head(y)


class Early(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(self.lower(self.stem(x).relu()))

    def lower(self, y: Tensor) -> Tensor:
        if y.shape[-1] <= 8:
            return y
        return self.halved(y)


class Named(Net):
    def forward(self, x: Tensor) -> Any:
        large = x.shape[-1] > 8
        y = self.stem(x).relu()
        if large:
            y = self.down(y)
        return self.head(y)


class Enabled(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        if self.deep and x.shape[-1] > 8:
            y = self.down(y)
        return self.head(y)


class Picked(Net):
    def forward(self, x: Tensor) -> Any:
        layer = self.down if x.shape[-1] > 8 else nn.Identity()
        return self.head(layer(self.stem(x).relu()))


class Optional(Net):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Any:
        y = self.stem(x).relu()
        if condition is not None:
            y = self.down(y + condition).relu()
        return self.head(y)


class Counted(Net):
    def forward(self, x: Tensor, rounds: int = 1) -> Any:
        y = self.stem(x).relu()
        for _ in range(rounds):
            y = self.down(y).relu()
        return self.head(y)


class Width(Net):
    """Decided by channels, which equations keep."""

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        if y.shape[1] != x.shape[1]:
            y = self.down(y)
        return self.head(y)


class Attribute(Net):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Any:
        y = self.stem(x).relu()
        if self.deep:
            y = self.down(y)
        if condition is None:
            condition = torch.ones(())
        return self.head(y * condition)


class Without(Net):
    """Layers without parameters."""

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        while y.shape[-1] > 8:
            y = self.pool(y)
        if len(x) > 8:
            raise ValueError("at most 8")
        return self.head(y)


def side(n: int) -> Tensor:
    return torch.randn(2, 3, n, n)


TOLD = [
    (Loop, side(8), "while min(y.shape"),
    (Loop, side(16), "while min(y.shape"),
    (Choice, side(16), "if x.shape"),
    (Choice, side(32), "if x.shape"),
    (Expression, side(16), "return self.head"),
    (Blocks, side(8), "if len"),
    (Early, side(16), "if y.shape[-1] <= 8"),
    (Named, side(16), "if large"),
    (Enabled, side(16), "if self.deep and"),
    (Picked, side(16), "layer = self.down"),
    (Optional, (side(8), torch.randn(2, 16, 8, 8)), "if condition is not None"),
    (Counted, side(8), "for _ in range"),
]


@pytest.mark.parametrize(("kind", "example", "line"), TOLD, ids=lambda v: getattr(v, "__name__", None))
def test_one_way_is_told(kind: type[Net], example: Any, line: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as told:  # of layers that are not reached, too
        warnings.simplefilter("always")
        result = fxprune.prune(kind().eval(), example, 0.5)
    assert len(result.report.one_way) == 1
    assert f"`{line}" in result.report.one_way[0]
    assert any("leave out layers, or run them again" in str(warning.message) for warning in told)


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Loop, side(32)),  # twice: what goes round is seen
        (Optional, side(8)),  # the layer is not reached, which is told of as such
        (Counted, (side(8), 2)),
        (Width, side(8)),
        (Attribute, side(8)),
        (Attribute, (side(8), torch.ones(()))),
        (Without, side(16)),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_what_is_seen_or_never_changes_is_not(kind: type[Net], example: Any) -> None:
    groups = fxprune.find_groups(fxprune.trace(kind().eval(), example))
    assert one_way_choices(groups) == ()


def test_what_was_seen_twice_is_tied() -> None:
    """The example's way decides what is tied: that of a loop which ran twice holds for others."""
    torch.manual_seed(0)
    model = Loop().eval()

    def deviation(n: int) -> float:
        groups = fxprune.find_groups(fxprune.trace(model, side(n)))
        plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
        return fxprune.verify(model, plan, side(64))

    assert deviation(32) < 1e-9
    assert deviation(16) > 1e-3
