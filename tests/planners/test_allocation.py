"""Allocation: constraints, one threshold for all groups, ratios by name, pools."""

from itertools import pairwise
from math import ceil
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from nets import Shuffled
from torch import Tensor, nn

import fxprune
from fxprune.planners import (
    AtBudget,
    Budget,
    Constraints,
    CumulativeContribution,
    GlobalThreshold,
    PerGroup,
    Uniform,
    as_they_are,
    same_pattern,
    same_shape,
)


def groups_of(*widths: int) -> fxprune.Groups:
    """Of a perceptron with the given hidden widths; they are called 0, 1, ..."""
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise([4, *widths, 2])])
    return fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))


class Tied(nn.Module):
    """Its code computes the width of `b` from that of `a`, so that both keep the same part: 24 and 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 24), nn.Linear(4, 12), nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Any:
        y, z = self.a(x), self.b(x)
        return self.d(self.c(z.reshape(len(x), 2, y.shape[1] // 4)).relu()), y.sum(1)


def tied_groups() -> fxprune.Groups:
    groups = fxprune.find_groups(fxprune.trace(Tied(), torch.zeros(1, 4)))
    assert {g.name: g.size for g in groups} == {"a": 24, "b": 6, "c": 9}
    assert groups.ties == (frozenset("ab"),)
    return groups


def scores_of(groups: fxprune.Groups, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.size, generator=generator) + 0.01 for g in groups}


# Constraints


def allowed(size: int, rules: Constraints) -> list[int]:
    """All allowed widths, one after another."""
    return [
        k
        for k in range(1, size + 1)
        if k == size
        or (
            k % rules.round_to == 0 and k >= rules.minimum and k >= ceil(round((1 - rules.max_pruning_ratio) * size, 6))
        )  # type: ignore[operator]
    ]


def rules() -> st.SearchStrategy[Constraints]:
    return st.builds(Constraints, st.integers(1, 9), st.integers(1, 30), st.sampled_from([0, 0.1, 0.35, 0.7, 0.9, 1]))


@settings(max_examples=settings.default.max_examples // 2)
@given(st.integers(2, 40), rules(), st.integers(0, 40))
def test_a_wish_is_raised_to_the_next_allowed_width(size: int, rules: Constraints, wish: int) -> None:
    wish = min(wish, size)
    assert rules.fit(groups_of(size), {"0": wish}) == {"0": min(k for k in allowed(size, rules) if k >= wish)}


@settings(max_examples=settings.default.max_examples // 3)
@given(st.floats(0, 0.99), rules(), st.integers(0, 5))
def test_every_planner_obeys_the_constraints(ratio: float, rules: Constraints, seed: int) -> None:
    groups = groups_of(20, 7, 33)
    scores = scores_of(groups, seed)
    for planner in (
        Uniform(ratio, rules),
        PerGroup({"0": ratio}, default=0.3, constraints=rules),
        GlobalThreshold(ratio, rules),
        CumulativeContribution(1 - ratio, rules),
        Budget(1, constraints=rules),
        AtBudget(Uniform, 1, constraints=rules),
    ):
        for name, count in planner(groups, scores).kept_counts().items():
            assert count in allowed(groups[name].size, rules)


def test_rounding_of_the_product_costs_no_channel() -> None:
    assert (1 - 0.7) * 10 > 3
    assert Constraints(max_pruning_ratio=0.7).fit(groups_of(10), {"0": 1}) == {"0": 3}


def test_bounds_by_pattern_and_protection() -> None:
    groups = groups_of(20, 20, 20, 20)
    rules = Constraints(minimum={"[01]": 7, "*": 3}, max_pruning_ratio={"1": 0.5, "2": 0.9}, ignored=("3.weight",))
    # 3.weight is read by group 2 and made by group 3: both stay whole.
    assert rules.fit(groups, dict.fromkeys("0123", 1)) == {"0": 7, "1": 10, "2": 20, "3": 20}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"round_to": 0}, "round_to must be a positive integer"),
        ({"minimum": 0}, "minimum width must be a positive integer"),
        ({"minimum": {"0": -1}}, "minimum width must be a positive integer"),
        ({"max_pruning_ratio": 1.01}, r"max_pruning_ratio is not a number in \[0, 1\]; seen: 1.01"),
        ({"max_pruning_ratio": float("nan")}, r"max_pruning_ratio is not a number in \[0, 1\]; seen: nan"),
    ],
)
def test_constraints_out_of_range(values: dict[str, Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        Constraints(**values)


@pytest.mark.parametrize("values", [{"ignored": ("9",)}, {"minimum": {"9": 2}}, {"max_pruning_ratio": {"9": 0.5}}])
def test_a_pattern_that_fits_nothing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(fxprune.InputError, match=r"name or pattern; seen: 9; remedy: groups: 0, 1 \.\.\."):
        Constraints(**values).fit(groups_of(3, 4), {})


# Ties


@settings(max_examples=settings.default.max_examples // 3)
@given(st.integers(1, 24), st.integers(1, 6), st.integers(1, 4), st.integers(1, 6))
def test_tied_groups_keep_the_same_part_and_obey_the_constraints(a: int, b: int, multiple: int, minimum: int) -> None:
    groups = tied_groups()
    rules = Constraints(round_to=multiple, minimum=minimum)
    kept = rules.fit(groups, {"a": a, "b": b})
    assert kept["a"] == 4 * kept["b"]
    assert all(kept[n] in allowed(groups[n].size, rules) for n in kept)
    wish = max(1, round((a + b) / 30 * 6))
    possible = [k for k in range(1, 7) if k in allowed(6, rules) and 4 * k in allowed(24, rules)]
    assert kept["b"] == min(k for k in possible if k >= wish)


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
@pytest.mark.parametrize(
    "planner",
    [
        Uniform(0.5),
        PerGroup({"a": 0.9}),
        GlobalThreshold(0.5),
        GlobalThreshold(0.5, pool=same_shape),
        CumulativeContribution(0.6),
        Budget(0.5),
        Budget(0.5, "parameters", tolerance=0.05),
        AtBudget(Uniform, 0.5),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_every_planner_keeps_ties(planner: Any) -> None:
    groups = tied_groups()
    counts = planner(groups, scores_of(groups)).kept_counts()
    assert counts["a"] == 4 * counts["b"] < 24


# One threshold


def test_threshold_by_hand() -> None:
    groups = groups_of(4, 4)
    scores = {"0": torch.tensor([8.0, 1, 2, 3]), "1": torch.tensor([4.0, 5, 6, 7])}
    raw = GlobalThreshold(0.5, normalise=as_they_are)(groups, scores)
    assert {n: g.kept.tolist() for n, g in raw.groups.items()} == {"0": [0], "1": [1, 2, 3]}
    # In units of the mean: 2.29 0.29 0.57 0.86 | 0.73 0.91 1.09 1.27
    relative = GlobalThreshold(0.5)(groups, scores)
    assert {n: g.kept.tolist() for n, g in relative.groups.items()} == {"0": [0], "1": [1, 2, 3]}
    assert GlobalThreshold(0.25)(groups, scores).kept_counts() == {"0": 2, "1": 4}


@given(st.lists(st.floats(-5, 5), min_size=12, max_size=12), st.floats(0, 0.999))
def test_what_goes_is_below_what_stays(values: list[float], ratio: float) -> None:
    groups = groups_of(5, 7)
    scores = {"0": torch.tensor(values[:5]), "1": torch.tensor(values[5:])}
    plan = GlobalThreshold(ratio, normalise=as_they_are)(groups, scores)
    kept = {n: set(g.kept.tolist()) for n, g in plan.groups.items()}
    stays = [float(scores[n][i]) for n in kept for i in kept[n] if len(kept[n]) > 1]
    goes = [float(scores[n][i]) for n in kept for i in range(len(scores[n])) if i not in kept[n]]
    assert not stays or not goes or max(goes) <= min(stays)
    removed = int(ratio * 12)
    assert len(goes) == removed or (len(goes) == removed - 1 and 1 in plan.kept_counts().values())


def test_a_group_without_importance_keeps_one_channel_under_raw_scores_and_its_part_under_relative_ones() -> None:
    groups = groups_of(4, 4)
    scores = {"0": torch.zeros(4), "1": torch.tensor([1.0, 2, 3, 4])}
    assert GlobalThreshold(0.5, normalise=as_they_are)(groups, scores).kept_counts() == {"0": 1, "1": 4}
    assert GlobalThreshold(0.5)(groups, scores).kept_counts() == {"0": 2, "1": 2}


def test_of_equals_the_later_ones_go() -> None:
    groups = groups_of(4, 4)
    scores = {"0": torch.ones(4), "1": torch.ones(4)}
    plan = GlobalThreshold(0.375)(groups, scores)
    assert {n: g.kept.tolist() for n, g in plan.groups.items()} == {"0": [0, 1, 2, 3], "1": [0]}


class Blocks(nn.Module):
    """Two blocks that are built alike and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 1) for i, o in ((3, 8), (8, 8), (8, 8), (8, 2)))
        self.n = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.n(self.c(self.b(self.a(x).relu()).relu())).relu())


def test_groups_compete_only_with_those_that_are_built_alike() -> None:
    groups = fxprune.find_groups(fxprune.trace(Blocks(), torch.zeros(1, 3, 4, 4)))
    scores = {"a": torch.arange(8) + 0.5, "b": torch.arange(8) + 100.0, "c": torch.arange(8) + 1.0}
    everyone = GlobalThreshold(0.5, normalise=as_they_are)(groups, scores)
    assert everyone.kept_counts() == {"a": 2, "b": 8, "c": 2}
    alike = GlobalThreshold(0.5, normalise=as_they_are, pool=same_pattern)(groups, scores)
    assert alike.kept_counts() == {"a": 1, "b": 8, "c": 4}
    alone = GlobalThreshold(0.5, normalise=as_they_are, pool=lambda g: g.name)(groups, scores)
    assert alone.kept_counts() == {"a": 4, "b": 4, "c": 4}


def test_shape_is_pattern_and_size() -> None:
    groups = groups_of(6, 6, 9)
    a, b, c = groups
    assert same_pattern(a) == same_pattern(b) == same_pattern(c)
    assert same_shape(a) == same_shape(b) != same_shape(c)


# Ratios by name


def test_the_first_pattern_that_fits_counts() -> None:
    groups = groups_of(10, 10, 10, 10)
    planner = PerGroup({"0": 0.2, "[012]": 0.5, "2": 0.9}, default=0.1)
    assert planner(groups, scores_of(groups)).kept_counts() == {"0": 8, "1": 5, "2": 5, "3": 9}


def test_ratios_by_name_are_checked() -> None:
    with pytest.raises(fxprune.InputError, match=r"pruning ratio is not a number in \[0, 1\); seen: 1"):
        PerGroup({"0": 1.0})
    with pytest.raises(fxprune.InputError, match=r"pruning ratio is not a number in \[0, 1\); seen: -1"):
        PerGroup({}, default=-1)
    groups = groups_of(3)
    with pytest.raises(fxprune.InputError, match="no prunable group has the name or pattern; seen: conv"):
        PerGroup({"conv*": 0.5})(groups, scores_of(groups))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("constraints", [Constraints(), Constraints(round_to=4), Constraints(round_to=3, minimum=5)])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.6, 0.95])
def test_widths_are_raised_alike_whether_all_of_them_are_known_or_not(constraints: Constraints, ratio: float) -> None:
    """Balanced groups are recorded at the widths that are asked for alone, and give the same."""
    net = nn.Sequential(
        nn.Conv2d(3, 24, 1), Shuffled(24), Shuffled(24), nn.Conv2d(24, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1)
    )
    groups = fxprune.find_groups(fxprune.trace(net, torch.rand(1, 3, 4, 4)))  # nothing is known of them yet
    wished = {g.name: round((1 - ratio) * g.size) for g in groups}
    found = constraints.fit(groups, wished)
    units = constraints.units(groups)
    assert found == {name: n for u in units for name, n in u.counts(u.raised(wished)).items()}
