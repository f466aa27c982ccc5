"""Planners: how many channels stay, and which."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from nets import CASES
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from fxprune.planners import Budget, Constraints, CumulativeContribution, ErrorCurves, Uniform
from fxprune.search import Bisection


def groups_of(widths: list[int]) -> tuple[nn.Module, fxprune.Groups]:
    """A perceptron with the given hidden widths; its groups are called 0, 1, ..."""
    sizes = [4, *widths, 2]
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)])
    return model, fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))


def kept(plan: fxprune.Plan) -> dict[str, list[int]]:
    return {name: g.kept.tolist() for name, g in plan.groups.items()}


MODEL, GROUPS = groups_of([8, 5])


# Uniform


@pytest.mark.parametrize(
    ("ratio", "counts"),
    [(0.0, (8, 5)), (0.1, (8, 5)), (0.125, (7, 5)), (0.2, (7, 4)), (0.5, (4, 3)), (0.9, (1, 1)), (0.999, (1, 1))],
)
def test_uniform_removes_the_floor_of_ratio_times_size(ratio: float, counts: tuple[int, int]) -> None:
    scores = {"0": torch.rand(8), "1": torch.rand(5)}
    assert tuple(Uniform(ratio)(GROUPS, scores).kept_counts().values()) == counts


def test_uniform_keeps_the_largest_scores_and_of_equals_the_first() -> None:
    scores = {"0": torch.tensor([3.0, -1, 5, 3, 3, 0, 9, 3]), "1": torch.zeros(5)}
    assert kept(Uniform(0.5)(GROUPS, scores)) == {"0": [0, 2, 3, 6], "1": [0, 1, 2]}


@pytest.mark.parametrize(
    ("size", "ratio", "multiple", "count"),
    [
        (32, 0.5, 8, 16),
        (32, 0.6, 8, 16),
        (32, 0.45, 8, 24),
        (20, 0.5, 8, 16),
        (20, 0.1, 8, 20),
        (6, 0.5, 8, 6),
        (32, 0.99, 8, 8),
        (32, 0.5, 1, 16),
    ],
)
def test_round_to_raises_to_a_multiple(size: int, ratio: float, multiple: int, count: int) -> None:
    _, groups = groups_of([size])
    assert Uniform(ratio, Constraints(round_to=multiple))(groups, {"0": torch.rand(size)}).kept_counts() == {"0": count}


@given(st.integers(2, 40), st.floats(0, 0.999), st.integers(1, 16))
def test_uniform_keeps_at_least_what_the_ratio_says(size: int, ratio: float, multiple: int) -> None:
    _, groups = groups_of([size])
    (count,) = Uniform(ratio, Constraints(round_to=multiple))(groups, {"0": torch.rand(size)}).kept_counts().values()
    assert max(1, size - int(ratio * size)) <= count <= size
    assert count % multiple == 0 or count == size


# Cumulative contribution


numbers = st.lists(st.floats(0, 1e6), min_size=8, max_size=8)
rates = st.floats(0.001, 1.0)


@given(numbers, rates, rates)
def test_kept_sets_are_nested(values: list[float], a: float, b: float) -> None:
    scores = {"0": torch.tensor(values, dtype=torch.float64), "1": torch.rand(5)}
    small, large = (kept(CumulativeContribution(r)(GROUPS, scores)) for r in sorted((a, b)))
    assert all(set(small[n]) <= set(large[n]) for n in small)


@given(numbers, rates)
def test_shares_of_the_kept_channels_reach_the_rate_and_with_one_less_do_not(values: list[float], rate: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    assume(float(scores.sum()) > 0)
    chosen = kept(CumulativeContribution(rate)(GROUPS, {"0": scores, "1": torch.rand(5)}))["0"]
    shares = (scores / scores.sum())[chosen].sort().values
    assert float(shares.sum()) >= rate - 1e-9
    assert len(chosen) == 1 or float(shares[1:].sum()) < rate + 1e-9
    rest = [i for i in range(8) if i not in chosen]
    assert not rest or float(scores[rest].max()) <= float(scores[chosen].min())


def test_contribution_by_hand() -> None:
    scores = {"0": torch.tensor([1.0, 4, 0, 2, 0, 0, 3, 0]), "1": torch.ones(5)}
    assert kept(CumulativeContribution(0.4)(GROUPS, scores)) == {"0": [1], "1": [0, 1]}
    assert kept(CumulativeContribution(0.7)(GROUPS, scores)) == {"0": [1, 6], "1": [0, 1, 2, 3]}
    assert kept(CumulativeContribution(0.71)(GROUPS, scores))["0"] == [1, 3, 6]


def test_contribution_of_scores_whose_sum_is_too_large_for_a_float() -> None:
    scores = {"0": torch.full((8,), 1e308, dtype=torch.float64), "1": torch.ones(5)}
    assert [len(channels) for channels in kept(CumulativeContribution(0.5)(GROUPS, scores)).values()] == [4, 3]


def test_a_rate_of_one_keeps_exactly_what_contributes() -> None:
    scores = {"0": torch.tensor([1.0, 4, 0, 2, 0, 0, 3, 0]), "1": torch.ones(5)}
    assert kept(CumulativeContribution(1.0)(GROUPS, scores)) == {"0": [0, 1, 3, 6], "1": [0, 1, 2, 3, 4]}


def test_without_any_importance_all_channels_are_equal() -> None:
    scores = {"0": torch.zeros(8), "1": torch.zeros(5)}
    assert kept(CumulativeContribution(0.5)(GROUPS, scores)) == {"0": [0, 1, 2, 3], "1": [0, 1, 2]}
    assert CumulativeContribution(1.0)(GROUPS, scores).kept_counts() == {"0": 8, "1": 5}


# Bisection


class Judge:
    """An `evaluate` that says what the widths deserve, and remembers what it was asked."""

    def __init__(self, score: Callable[[int], float]) -> None:
        self.score = score
        self.asked: list[tuple[int, int]] = []

    def __call__(self, model: Any) -> float:
        widths = (model[0].out_features, model[1].out_features)
        self.asked.append(widths)
        return self.score(sum(widths))


def search(judge: Judge, tune: Any = None, widths: tuple[int, int] = (64, 40), **options: Any) -> Any:
    model, groups = groups_of(list(widths))
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.size, generator=generator) + 0.1 for g in groups}
    given: Any = lambda *_: scores  # noqa: E731
    return Bisection(progress=False, **options)(model, groups, judge, scorer=given, tune=tune), model, groups, scores


@pytest.mark.parametrize(("precision", "steps"), [(0.01, 7), (0.1, 4), (0.5, 1), (0.001, 10)])
def test_number_of_probes(precision: float, steps: int) -> None:
    assert Bisection(precision=precision).probes_at_most() == steps
    judge = Judge(lambda total: 1.0 if total >= 50 else 0.0)
    found, *_ = search(judge, precision=precision, widths=(640, 400))
    assert len(found.history) == steps
    assert len(judge.asked) == steps + 1


@settings(max_examples=settings.default.max_examples // 3)
@given(st.integers(2, 104), st.sampled_from([0.1, 0.01, 0.001]))
def test_no_architecture_is_tried_twice(threshold: int, precision: float) -> None:
    judge = Judge(lambda total: float(total >= threshold))
    search(judge, precision=precision)
    assert len(judge.asked[1:]) == len(set(judge.asked[1:]))


@cache
def all_widths() -> list[int]:
    """The total widths at every rate that a bisection to 1/128 can reach."""
    _, _, groups, scores = search(Judge(lambda total: 1.0))
    return [sum(CumulativeContribution(k / 128)(groups, scores).kept_counts().values()) for k in range(1, 128)]


@settings(max_examples=settings.default.max_examples // 3)
@given(st.integers(2, 104))
def test_the_smallest_accepted_model_is_returned(threshold: int) -> None:
    judge = Judge(lambda total: float(total >= threshold))
    found, model, groups, scores = search(judge)
    accepted = [p for p in found.history if p.accepted]
    if not accepted:
        assert found.plan == groups.plan({})
        assert found.plan.kept_counts() == {"0": 64, "1": 40}
        assert found.model is model
        return
    smallest = min(accepted, key=lambda p: p.rate)
    assert found.plan == CumulativeContribution(smallest.rate)(groups, scores)
    assert (
        sum(found.plan.kept_counts().values()) == found.model[0].out_features + found.model[1].out_features >= threshold
    )
    assert fxprune.cost(groups, found.plan) == smallest.cost
    assert all(p.cost.macs >= smallest.cost.macs for p in accepted)
    assert sum(found.plan.kept_counts().values()) == min(n for n in all_widths() if n >= threshold)


def test_nothing_accepted_keeps_everything() -> None:
    judge = Judge(lambda total: float(total == 104))
    found, model, *_ = search(judge)
    assert found.model is model
    assert found.baseline == 1.0
    assert found.plan.kept_counts() == {"0": 64, "1": 40}
    assert [p.accepted for p in found.history] == [False] * len(found.history)
    assert [p.rate for p in found.history][:3] == [0.5, 0.75, 0.875]


def test_everything_accepted_goes_down_to_the_smallest_rate() -> None:
    found, *_ = search(Judge(lambda total: 1.0))
    assert found.history[0].rate == 0.5
    assert found.history[-1].rate <= 0.03
    assert found.plan.kept_counts() == {"0": 1, "1": 1}


@pytest.mark.parametrize(("tolerance", "accepted"), [(0.05, True), (0.15, True), (0.049, False), (0.0, False)])
def test_tolerance_is_in_the_unit_of_evaluate(tolerance: float, accepted: bool) -> None:
    judge = Judge(lambda total: 0.9 if total == 104 else 0.85 + 1e-12)
    found, *_ = search(judge, tolerance=tolerance)
    assert found.history[0].accepted is accepted
    assert found.history[0].score == pytest.approx(0.85)


def test_each_probe_is_tuned_before_it_is_judged_and_the_original_is_not() -> None:
    tuned: list[nn.Module] = []

    def tune(model: Any) -> None:
        tuned.append(model)
        with torch.no_grad():
            model[0].bias.fill_(7)

    class Fussy(Judge):
        def __call__(self, model: Any) -> float:
            full = model[0].out_features == 64 and model[1].out_features == 40
            assert full is not bool((model[0].bias == 7).all())
            return super().__call__(model)

    found, model, *_ = search(Fussy(lambda total: float(total >= 50)), tune)
    assert len(tuned) == len(found.history)
    assert found.model in tuned
    assert model not in tuned


def test_an_evaluation_that_is_not_a_number_accepts_nothing() -> None:
    found, model, *_ = search(Judge(lambda total: 1.0 if total == 104 else float("nan")))
    assert found.model is model


def test_planners_work_on_tied_and_grouped_channels() -> None:
    case = CASES["grouped_by_groups"]
    model, x = case.build(), case.inputs()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = CumulativeContribution(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    small = fxprune.rewrite(model, plan)
    assert small.g.groups == len(plan.groups["a"].kept) < 6
    assert fxprune.verify(model, plan, x) < 1e-9


def test_scores_of_other_types() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        scores: dict[str, Tensor] = {"0": torch.arange(8).to(dtype), "1": torch.arange(5).to(dtype).requires_grad_()}
        assert kept(Uniform(0.5)(GROUPS, scores)) == {"0": [4, 5, 6, 7], "1": [2, 3, 4]}
        assert kept(CumulativeContribution(0.5)(GROUPS, scores)) == {"0": [5, 6, 7], "1": [3, 4]}


KINDS = [Budget, ErrorCurves, CumulativeContribution, Uniform]


@pytest.mark.filterwarnings("ignore:the allowed widths")
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_any_real_number_and_no_text(kind: Any) -> None:
    groups = GROUPS
    scores = {g.name: torch.arange(1.0, g.size + 1) for g in groups}
    same = [kind(value)(groups, scores).kept_counts() for value in (0.5, np.float32(0.5))]
    assert same[0] == same[1]
    with pytest.raises(InputError, match=r"seen: '0\.5'"):
        kind("0.5")(groups, scores)


def test_one_name_is_ignored_as_a_tuple_of_one() -> None:
    assert Constraints(ignored="24") == Constraints(ignored=("24",))


def test_error_curves_refuse_what_is_no_error() -> None:
    groups = GROUPS
    scores = {g.name: -torch.arange(1.0, g.size + 1) for g in groups}
    with pytest.raises(InputError, match="scores are no errors, which are at least zero; seen: -"):
        ErrorCurves(0.5)(groups, scores)
