"""Channels that the code cuts by numbers, and widths that it tells apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from oracle import ROUNDING, check, deviation, random_plan, without_mixed
from torch import Tensor, nn

import fxprune

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def inputs(batch: int) -> tuple[Tensor, ...]:
    return (torch.cat([X] * batch),)


class Cut(nn.Module):
    """A layer between two convolutions of which the first makes `width` channels."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, width, 3), nn.Conv2d(width, 16, 3), nn.Conv2d(16, 4, 1)
        self.step = 4

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.cut(self.a(x).relu())).relu())  # type: ignore[no-any-return]

    def cut(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Shifts(Cut):
    """A part of the channels comes from a neighbour; as many as the width says."""

    def cut(self, x: Tensor) -> Tensor:
        fold, y = x.size(1) // 6, torch.zeros_like(x)
        y[:, :fold, :-1] = x[:, :fold, 1:]
        y[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
        y[:, 2 * fold :] = x[:, 2 * fold :]
        return y


class Multiples(Cut):
    """Parts of one length, a number of which are one part; the others are free."""

    def cut(self, x: Tensor) -> Tensor:
        n = self.step
        return torch.cat([x[:, :n] * 2, x[:, n : 2 * n].tanh(), x[:, 2 * n :]], 1)


class Halves(Cut):
    """Both halves by the width, in place of `chunk`."""

    def cut(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.cat((x[:, :half].sigmoid(), x[:, half:]), 1)


class Sections(Cut):
    """Equal parts by their number."""

    def cut(self, x: Tensor) -> Tensor:
        a, b, c = torch.tensor_split(x, 3, 1)
        return torch.cat([c.relu(), a.tanh(), b], 1)


class Sides(Cut):
    """Equal parts of the second dim."""

    def cut(self, x: Tensor) -> Tensor:
        a, b = x.hsplit(2)
        return torch.hstack([b, a.tanh()])


class Bounds(Cut):
    """Parts by where they begin."""

    def cut(self, x: Tensor) -> Tensor:
        a, b, c = torch.tensor_split(x, indices=(6, 8), dim=1)
        return torch.cat([c, a.tanh(), b], 1)


@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (Shifts, [2, 2, 8]),
        (Multiples, [2, 2, 8]),
        (Halves, [6, 6]),
        (Sections, [4, 4, 4]),
        (Sides, [6, 6]),
        (Bounds, [12]),
    ],
)
def test_parts_that_the_code_cuts_by_their_number_shrink_together(build: type[Cut], kept: list[int]) -> None:
    torch.manual_seed(0)
    plan = check(build, inputs, 0.5)
    assert [len(g.kept) for name, g in plan.groups.items() if name.split("#")[0] == "a"] == kept
    assert deviation(build().eval(), plan, (X,)) <= ROUNDING


def test_parts_without_a_common_step_stay() -> None:
    groups = fxprune.find_groups(fxprune.trace(Shifts(27).eval(), X))
    assert [g.name for g in groups] == ["b"]
    assert "holds this width: (relu.shape[1] // 6)" in str(groups.why("a"))


class Residual(nn.Module):
    """A shortcut where the shapes allow it, as the forward finds out."""

    def __init__(self, ask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 8, 8, 16, 16)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.last, self.ask = nn.Conv2d(16, 4, 1), ask

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x).relu()
            if x.shape == y.shape if self.ask == "shape" else x.size(1) == y.size(1):
                y = y + x
            x = y
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("ask", ["shape", "size"])
def test_widths_that_the_code_tells_apart_stay_apart(ask: str) -> None:
    model = Residual(ask).eval()
    groups = fxprune.find_groups(fxprune.trace(model, X))
    assert {g.name: g.size for g in groups} == {"layers.0": 8, "layers.2": 16}
    for ratio in (0.25, 0.5, 0.625, 0.875):  # 3 channels would be taken for the input's
        plan = random_plan(model, groups, ratio)
        assert len(plan.groups["layers.0"].kept) != 3
        assert deviation(model, without_mixed(groups, plan), (X,)) <= ROUNDING
    with pytest.raises(fxprune.InputError, match="cannot have this width"):
        groups.plan({"layers.0": [0, 1, 2], "layers.2": range(6)})
    assert groups.in_step({"layers.0": 3, "layers.2": 6}) in ({"layers.0": n, "layers.2": 2 * n} for n in (2, 4))


class Alone(nn.Module):
    """A single width that is told from the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y.relu())
        return z if y.shape != z.shape else z + y


def test_planners_leave_out_widths_that_are_told_apart() -> None:
    model, x = Alone().eval(), torch.zeros(2, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    found = {ratio: random_plan(model, groups, ratio).kept_counts()["a"] for ratio in (0.25, 0.5, 0.625, 0.8)}
    assert found == {0.25: 6, 0.5: 5, 0.625: 3, 0.8: 2}
    assert fxprune.verify(model, random_plan(model, groups, 0.5), x) <= ROUNDING
    assert fxprune.cost(groups, fxprune.prune(model, x, parameters=34).plan).parameters == 34
