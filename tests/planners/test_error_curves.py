"""Widths from error curves against all widths that there are."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.planners import Constraints, ErrorCurves, Limit
from fxprune.planners.allocation.lagrangian import convex
from fxprune.scorers import ErrorCurve


def chain(*widths: int) -> tuple[fxprune.Groups, fxprune.Cost]:
    layers = [nn.Conv2d(a, b, 1, bias=False) for a, b in zip((3, *widths), (*widths, 4), strict=True)]
    groups = fxprune.find_groups(fxprune.trace(nn.Sequential(*layers), torch.zeros(1, 3, 2, 2)))
    return groups, fxprune.cost(groups)


def errors(groups: fxprune.Groups, seed: int) -> dict[str, Tensor]:
    """Rising errors, most of them convex, as joint elimination gives them."""
    rng = np.random.default_rng(seed)
    return {
        g.name: torch.from_numpy(rng.permutation(np.cumsum(np.sort(rng.exponential(size=g.size) ** 2)) / 10))
        for g in groups
    }


def total(scores: dict[str, Tensor], plan: fxprune.Plan, weights: dict[str, float] | None = None) -> float:
    """Σ a_g e_g: the error of a group is the largest score that goes."""
    result = 0.0
    for name, kept in plan.kept_counts().items():
        gone = scores[name].sort().values[: len(scores[name]) - kept]
        result += (weights or {}).get(name, 1.0) * (float(gone[-1]) if len(gone) else 0.0)
    return result


def best(groups: fxprune.Groups, scores: dict[str, Tensor], fits: Any, weights: Any = None) -> float:
    """By trying all widths."""
    found = np.inf
    for widths in product(*[range(1, g.size + 1) for g in groups]):
        plan = groups.plan({g.name: np.arange(w) for g, w in zip(groups, widths, strict=True)})
        if fits(fxprune.cost(groups, plan)):
            found = min(found, total(scores, plan, weights))
    return float(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_one_budget(seed: int, keep: float) -> None:
    groups, full = chain(6, 7, 5)
    scores = errors(groups, seed)
    plan = ErrorCurves(keep)(groups, scores)
    assert fxprune.cost(groups, plan).macs <= keep * full.macs
    assert total(scores, plan) <= 1.1 * best(groups, scores, lambda c: c.macs <= keep * full.macs) + 1e-9


def test_several_budgets_hold_together() -> None:
    groups, full = chain(6, 7, 5)
    scores = errors(groups, 9)
    for limits in (
        (Limit(0.5), Limit(at_most=0.4 * full.parameters, measure="parameters")),
        (Limit(0.5), Limit(at_most=10, measure=lambda counts: sum(counts.values()))),
    ):
        plan = ErrorCurves(limits)(groups, scores)
        cost, count = fxprune.cost(groups, plan), sum(plan.kept_counts().values())
        assert cost.macs <= 0.5 * full.macs
        assert (
            cost.parameters <= 0.4 * full.parameters
            if len(limits) == 2 and limits[1].measure == "parameters"
            else count <= 10
        )


def test_weights_say_what_counts() -> None:
    groups, full = chain(6, 6, 6)
    scores = errors(groups, 3)
    weights = {groups[1].name: 100.0, groups[0].name: 0.01}
    plan = ErrorCurves(0.4, weights)(groups, scores)
    plain = ErrorCurves(0.4)(groups, scores)
    assert plan.kept_counts()[groups[1].name] > plain.kept_counts()[groups[1].name]
    wanted = best(groups, scores, lambda c: c.macs <= 0.4 * full.macs, weights)
    assert total(scores, plan, weights) <= 1.1 * wanted


def test_other_scorers_curves_and_constraints() -> None:
    groups, full = chain(16, 16)
    scores = {g.name: torch.rand(16) for g in groups}
    plan = ErrorCurves(0.5, curve=ErrorCurve.of_scores, constraints=Constraints(round_to=4))(groups, scores)
    assert fxprune.cost(groups, plan).macs <= 0.5 * full.macs
    assert all(count % 4 == 0 for count in plan.kept_counts().values())
    for name, planned in plan.groups.items():
        gone = [i for i in range(16) if i not in planned.kept]
        assert max(scores[name][gone]) <= min(scores[name][planned.kept.tolist()])


def test_the_hull_is_the_least_concave_function_above() -> None:
    rng = np.random.default_rng(0)
    widths, values = np.arange(1, 30), np.cumsum(rng.exponential(size=29))
    hull = convex(widths, values)
    assert (hull >= values - 1e-12).all()
    assert (np.diff(hull, 2) <= 1e-12).all()
    pairs = [(i, j) for i in range(29) for j in range(i + 1, 29)]
    for k in range(29):
        reach = [values[i] + (values[j] - values[i]) * (k - i) / (j - i) for i, j in pairs if i <= k <= j]
        assert hull[k] == pytest.approx(max([*reach, values[k]]))


def test_bad_settings_are_refused() -> None:
    groups, _ = chain(4, 4)
    scores = errors(groups, 0)
    with pytest.raises(fxprune.InputError, match="either a part or an amount; seen: keep=None, at_most=None"):
        Limit()
    with pytest.raises(fxprune.InputError, match="either a part or an amount"):
        Limit(0.5, 10)
    with pytest.raises(fxprune.InputError, match=r"at_most is not a number in \(0, inf\)"):
        Limit(at_most=-1)
    with pytest.raises(fxprune.InputError, match="the part of the original's cost that may stay is not a number"):
        ErrorCurves(1.5)
    with pytest.raises(fxprune.InputError, match="no budget"):
        ErrorCurves(())
    with pytest.raises(fxprune.InputError, match="a weight for no prunable group; seen: nowhere"):
        ErrorCurves(0.5, {"nowhere": 1.0})(groups, scores)
    with pytest.raises(fxprune.InputError, match="the weight of 0 is not a number"):
        ErrorCurves(0.5, {"0": float("nan")})
    with pytest.raises(fxprune.InputError, match="cannot be reached; seen: the smallest widths cost"):
        ErrorCurves(0.01)(groups, scores)
