"""Balanced groups: splits and shuffles whose parts keep equally many channels, but not the same ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.analysis.grouping import recordings
from fxprune.analysis.grouping.balance import Balance, fit_together
from fxprune.tracing.trace import retrace


def shuffled(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class Units(nn.Module):
    """Shuffle units in a row: split, work on one half, concatenate, shuffle."""

    def __init__(self, width: int = 16, units: int = 3, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.branches = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(units))
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, groups=2 * width)
        self.head = nn.Conv2d(2 * width, 5, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for branch in self.branches:
            a, b = x.chunk(2, dim=1)
            x = shuffled(torch.cat([a, self.act(branch(b))], dim=1))
        return self.head(self.deep(x))


class Twice(nn.Module):
    """Two splits in a row; halves that differ only in what is done to them, not in the weights they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            p, q = (self.a(x) if x.shape[1] == 3 else x).chunk(2, dim=1)
            x = torch.cat([torch.relu(q), p], dim=1)
            x = shuffled(x)
        return self.b(x)


class Scaled(Units):
    """The grid is scaled row by row before it is turned: no mere move."""

    def __init__(self) -> None:
        super().__init__(16, 2)
        self.scale = nn.Parameter(torch.rand(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, dim=1)
            x = torch.cat([a, branch(b)], dim=1)
            n, c, h, w = x.shape
            x = (x.view(n, 2, c // 2, h, w) * self.scale).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.deep(x))


X = torch.rand(2, 3, 8, 8)


def groups_of(model: nn.Module, **options: object) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, X), **options)  # type: ignore[arg-type]


def plan_of(model: nn.Module, groups: fxprune.Groups, ratio: float, seed: int = 0) -> fxprune.Plan:
    return fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.Random(seed)(model, groups))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("build", [Units, Twice, lambda: Units(12, 2), lambda: Units(10, 4, torch.sigmoid)])
def test_pruned_equals_masked(build: Callable[[], nn.Module], ratio: float) -> None:
    model = build()
    groups = groups_of(model)
    for seed in range(3):
        plan = plan_of(model, groups, ratio, seed)
        assert fxprune.verify(model, plan, X) < 1e-9
        small = fxprune.rewrite(model, plan)
        small.load_state_dict(fxprune.rewrite(build(), fxprune.Plan.from_json(plan.to_json())).state_dict())
        with FlopCounterMode(display=False) as counter:
            small.eval()(X)
        assert fxprune.cost(groups, plan).macs * 2 == counter.get_total_flops()


def test_every_part_chooses_its_own_channels() -> None:
    model = Units()
    groups = groups_of(model)
    assert not [f for f in groups.fixed if f.tensor == "stem.weight" and f.dim == 0]
    (tie,) = (t for t in groups.ties if len(t) > 2)
    assert sum(groups[name].size for name in tie) == 32 + 3 * 16
    assert sum("stem" in name for name in tie) > 3
    plan = plan_of(model, groups, 0.5)
    small = fxprune.rewrite(model, plan)
    assert [b.weight.shape[:2] for b in small.branches] == [(8, 8)] * 3  # type: ignore[union-attr]
    assert small.deep.groups == 16
    assert plan.orders, "columns must be gathered in another order"


def test_a_balance_allows_what_the_code_allows() -> None:
    groups = groups_of(Units())
    (balance,) = groups.analysis.balances
    for part in balance.parts():
        counts = balance.counts(part)
        assert counts is not None
        assert balance.part_of(counts) == part
        assert sum(counts.values()) * balance.step == part * sum(groups[n].size for n in balance.names)
    assert len(balance.parts()) > 4


def test_counts_out_of_balance_are_refused() -> None:
    groups = groups_of(Units())
    name = max(groups, key=lambda g: g.size).name
    with pytest.raises(fxprune.InputError, match="tied groups must keep the same part"):
        groups.plan({name: np.arange(1)})


def test_protecting_a_part_fixes_the_whole_balance() -> None:
    groups = groups_of(Units(), ignored=["branches.1"])
    assert {g.name for g in groups} == set()
    assert any("ignored by the caller" in f.reason for f in groups.fixed)


def test_a_grid_that_is_read_is_no_mere_move() -> None:
    model = Scaled()
    groups = groups_of(model)
    assert len(groups)
    plan = plan_of(model, groups, 0.5)
    assert fxprune.rewrite(model, plan).scale.shape == (2, 1, 1, 1)
    assert fxprune.verify(model, plan, X) < 1e-9


def test_damaged_orders_are_refused() -> None:
    model = Units()
    text = plan_of(model, groups_of(model), 0.5).to_json()
    plan = fxprune.Plan.from_json(text)
    tensor, dims = next(iter(plan.orders.items()))
    dim, order = next(iter(dims.items()))
    dims = {**dims, dim: np.append(order[1:], order[1])}  # type: ignore[dict-item]
    object.__setattr__(plan, "orders", {**plan.orders, tensor: dims})
    with pytest.raises(fxprune.PlanError, match=f"the order of {tensor} is not one of what it keeps"):
        fxprune.Plan.from_json(plan.to_json())


class Refusing(nn.Module):
    """Shuffles whose code accepts the full width only, so that no smaller one is possible."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.a, self.b = width, nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1, groups=2)
        self.c = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b):
            x = layer(shuffled(x) if x.shape[1] > 3 else x)
            if x.shape[1] != self.width:
                raise ValueError("unknown width")
        return self.c(shuffled(x))  # type: ignore[no-any-return]


def test_few_widths_are_tried_where_none_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = recordings_of(monkeypatch)
    graph = fxprune.trace(Refusing(512), torch.zeros(1, 3, 4, 4))
    fxprune.find_groups(graph)
    assert 0 < len(tries) <= 50


class Stages(nn.Module):
    """Three shuffled stages that share no dim of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Units(width) for width in (8, 12, 16))
        self.joints = nn.ModuleList(nn.Conv2d(5, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for stage, joint in zip(self.stages, self.joints, strict=True):
            x = joint(stage(F.pad(x, (2, 2, 2, 2))))
        return x


def recordings_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def counting(*args: object) -> object:
        made.append(1)
        return retrace(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(recordings, "retrace", counting)
    return made


def test_sets_that_share_no_dim_are_recorded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recordings_of(monkeypatch)
    groups = fxprune.find_groups(fxprune.trace(Stages(), X))
    assert len(groups.analysis.balances) == 3
    assert len(made) <= 6  # of what is asked for at first, and of two choices of widths, each at most twice
    made.clear()
    tables = [b.parts() for b in groups.analysis.balances]
    assert min(map(len, tables)) > 2
    assert len(made) <= sum(map(len, tables)) * 2 / 3


def test_what_is_recorded_together_fits_as_it_does_alone() -> None:
    analysis = fxprune.find_groups(fxprune.trace(Stages(), X)).analysis
    sets = analysis.balances
    assert isinstance(sets[0], Balance)
    for fraction in (0.25, 0.5, 0.75):
        parts = {Balance(analysis, b.members): round(fraction * b.step) for b in sets}  # type: ignore[attr-defined]
        assert fit_together(parts)
        for together, part in parts.items():
            alone = Balance(analysis, together.members).fit(part)
            found = together.fit(part)
            assert found is not None
            assert alone is not None
            assert found.counts == alone.counts
            assert found.positions.keys() == alone.positions.keys()
            assert all(np.array_equal(found.positions[k], alone.positions[k]) for k in alone.positions)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
def test_stages_are_pruned_exactly(ratio: float) -> None:
    torch.manual_seed(0)
    result = fxprune.prune(Stages(), X, pruning_ratio=ratio)
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-10
    assert not result.report.proof.disproved  # type: ignore[union-attr]
