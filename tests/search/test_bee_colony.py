"""Bee colony: what it finds, what it evaluates, and the corrections of the released code."""

import math
from collections import Counter
from itertools import count, product
from typing import Any

import numpy as np
import pytest
import torch
from search_toys import Given, Judged, jitter, perceptron, widths_of
from torch import nn

import fxprune
from fxprune.planners import Constraints
from fxprune.search import BeeColony, CurveFitness


def hunt(evaluate: Any, *widths: int, tune: Any = None, **settings: Any) -> Any:
    model, groups, scores = perceptron(*widths)
    return (
        BeeColony(progress=False, **settings)(model, groups, evaluate, scorer=Given(scores), tune=tune),
        model,
        groups,
        scores,
    )


def hill(*best: int) -> Any:
    """Fitness that is largest, 0, at the given widths."""
    return lambda model: -float(sum((a - b) ** 2 for a, b in zip(widths_of(model), best, strict=True)))


def test_finds_the_hill() -> None:
    found, *_ = hunt(hill(12, 28, 24), 40, 40, 40, cycles=12, sources=8)
    assert found.plan.kept_counts() == {"0": 12, "1": 28, "2": 24}
    assert widths_of(found.model) == list(found.plan.kept_counts().values())


def test_better_than_as_many_random_codes() -> None:
    bees, random = [], []
    for seed in range(2):
        same = {"seed": seed, "levels": 20}
        found, *_ = hunt(hill(12, 24, 20, 4, 28), 40, 40, 40, 40, 40, cycles=8, sources=8, **same)
        bees.append(max(t.fitness for t in found.history))
        draw, *_ = hunt(hill(12, 24, 20, 4, 28), 40, 40, 40, 40, 40, cycles=0, sources=len(found.history), **same)
        random.append(max(t.fitness for t in draw.history))
    assert all(a > b for a, b in zip(bees, random, strict=True))
    assert np.mean(bees) > 0.4 * np.mean(random)  # both are negative


def test_the_best_of_all_is_returned_with_its_own_weights() -> None:
    """Also where its source was given up later."""
    seen: dict[bytes, float] = {}

    def evaluate(model: Any) -> float:
        weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        seen[weights] = float(np.random.default_rng(len(weights)).random()) if widths_of(model) != [16, 10] else 0.0
        return seen[weights]

    found, *_ = hunt(evaluate, 16, 10, tune=jitter, limit=1, cycles=12, sources=3)
    best = max(found.history, key=lambda t: t.fitness)
    assert found.plan.kept_counts() == best.counts
    assert seen[b"".join(p.detach().numpy().tobytes() for p in found.model.parameters())] == best.fitness


def test_the_best_source_is_never_given_up() -> None:
    """The first code stays the best, although its neighbours fail in every cycle: bees still fly around it at the end.

    A code that differs from it in one of twelve groups comes from its neighbourhood, not from a random draw.
    """
    falling = count(0, -1)
    found, *_ = hunt(lambda _: float(next(falling)), *[30] * 12, levels=30, limit=2, cycles=8, sources=2, moves=1)
    first, *others = [np.array(list(t.counts.values())) for t in found.history]
    assert all(t.fitness < found.history[0].fitness for t in found.history[1:])
    assert any((code != first).sum() == 1 for code in others[-4:])


def test_a_code_is_evaluated_once() -> None:
    asked: list[tuple[int, ...]] = []
    hunt(lambda m: (asked.append(tuple(widths_of(m))), hill(3, 3)(m))[1], 10, 10, cycles=20, sources=4)
    assert max(Counter(asked).values()) == 1
    assert len(asked) < 4 + 20 * 9


def test_every_width_of_every_group_can_be_reached_and_none_beyond() -> None:
    asked: set[tuple[int, ...]] = set()
    hunt(lambda m: (asked.add(tuple(widths_of(m))), 0.0)[1], 20, 20, cycles=20, sources=20, limit=1, moves=1)
    asked.discard((20, 20))
    assert asked == set(product(range(2, 15, 2), repeat=2))


def test_random_channels_include_the_last_one_and_depend_on_the_code_alone() -> None:
    kept: dict[tuple[int, ...], list[list[int]]] = {}

    def evaluate(model: Any) -> float:
        return float(sum(widths_of(model)))

    last = 0
    for seed in range(6):
        found, _, groups, _ = hunt(evaluate, 12, 12, channels="random", seed=seed, sources=3, cycles=2)
        for g in groups:
            chosen = found.plan.groups[g.name].kept.tolist()
            kept.setdefault((seed, len(chosen)), []).append(chosen)
            last += 11 in chosen
        again, *_ = hunt(evaluate, 12, 12, channels="random", seed=seed, sources=3, cycles=2)
        assert again.plan == found.plan
    assert 0 < last < 12


def test_scored_channels_are_the_best_ones() -> None:
    found, _, _, scores = hunt(lambda m: float(sum(widths_of(m))), 12, 12)
    for name, group in found.plan.groups.items():
        order = torch.argsort(scores[name], descending=True)[: len(group.kept)]
        assert sorted(order.tolist()) == group.kept.tolist()
    assert found.plan.kept_counts() == {"0": 8, "1": 8}


def test_constraints_and_ties() -> None:
    rules = Constraints(round_to=4, minimum={"1": 12})
    found, *_ = hunt(lambda m: -float(sum(widths_of(m))), 20, 20, constraints=rules)
    assert all(n % 4 == 0 and t.counts["1"] >= 12 for t in found.history for n in t.counts.values())
    assert found.plan.kept_counts() == {"0": 4, "1": 12}


def test_at_a_budget_all_candidates_cost_the_same() -> None:
    model, groups, scores = perceptron(80, 60, 70)
    full = fxprune.cost(groups).macs
    colony = BeeColony(keep=0.4, sources=5, cycles=2, progress=False)
    found = colony(model, groups, lambda m: float(widths_of(m)[1]), scorer=Given(scores))
    assert len({tuple(t.counts.values()) for t in found.history}) > 5
    assert all(0.396 * full <= t.cost.macs <= 0.4 * full for t in found.history)
    widest = max(t.counts["1"] for t in found.history)
    assert found.plan.kept_counts()["1"] == widest > 60 * 0.4**0.5


def test_a_budget_is_met_as_nearly_as_asked_for() -> None:
    model, groups, scores = perceptron(24, 30, 18)
    full = fxprune.cost(groups).macs
    unused = []
    for tolerance in (0.05, 0.005):
        colony = BeeColony(keep=0.4, tolerance=tolerance, sources=5, cycles=2, progress=False)
        found = colony(model, groups, lambda m: float(widths_of(m)[1]), scorer=Given(scores))
        unused.append(max(1 - t.cost.macs / (0.4 * full) for t in found.history))
        assert unused[-1] <= tolerance
    assert unused[0] > 0.005


def test_a_budget_out_of_reach() -> None:
    with pytest.raises(fxprune.InputError, match="the budget cannot be reached"):
        hunt(hill(1, 1), 10, 10, keep=0.001)


def test_other_units_make_no_difference() -> None:
    a, *_ = hunt(lambda m: hill(9, 3, 5)(m), 20, 20, 20, cycles=6)
    b, *_ = hunt(lambda m: 1e6 + 100 * hill(9, 3, 5)(m), 20, 20, 20, cycles=6)
    assert [t.counts for t in a.history] == [t.counts for t in b.history]


def test_what_is_no_number_never_wins() -> None:
    def evaluate(model: Any) -> float:
        total = sum(widths_of(model))
        return float("nan") if total > 10 and total != 20 else -float(total)

    found, *_ = hunt(evaluate, 10, 10, cycles=5)
    assert sum(found.plan.kept_counts().values()) <= 10
    found, *_ = hunt(evaluate, 10, 10, cycles=0, sources=12)
    assert sum(math.isnan(t.fitness) for t in found.history) > 2
    assert sum(found.plan.kept_counts().values()) == min(-t.fitness for t in found.history if t.fitness == t.fitness)
    with pytest.raises(fxprune.InputError, match="the original's quality is not a finite number"):
        hunt(lambda m: math.nan, 10, 10, cycles=2)


def test_per_sample_fitness_is_its_mean() -> None:
    found, *_ = hunt(Judged(full=20), 10, 10, tune=jitter, cycles=2)
    assert all(0 <= t.fitness <= 1 for t in found.history)


def test_a_tuning_is_applied_to_every_candidate_once() -> None:
    tuned: list[nn.Module] = []
    found, *_ = hunt(hill(3, 3), 10, 10, tune=tuned.append, cycles=3)
    assert len(tuned) == len(found.history)


def test_nothing_to_prune() -> None:
    model = nn.Linear(3, 2)
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3)))
    found = BeeColony(progress=False)(model, groups, lambda m: 1.0)
    assert found.model is model


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sources": 1}, "sources must be an integer of at least 2; seen: 1; remedy: 10 is usual"),
        ({"cycles": -1}, "cycles must be an integer of at least 0"),
        ({"limit": 0}, "limit must be a positive integer"),
        ({"moves": 0}, "moves must be a positive integer"),
        ({"levels": 0}, "levels must be a positive integer"),
        ({"max_keep": 0.05}, r"max_keep is not a number in \[0.1, 1\]; seen: 0.05"),
        ({"max_keep": 1.1}, "max_keep is not a number"),
        ({"channels": "best"}, "unknown choice of channels; seen: best; remedy: one of scored, random"),
        ({"keep": 0.0}, "the part of the original's cost that may stay is not a number"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        BeeColony(**values)


# The uniform source, repair, and a fitness of the plan alone


def test_the_first_code_is_uniform() -> None:
    found, *_ = hunt(lambda m: 0.0, 20, 40, cycles=0, sources=3)
    assert found.history[0].counts == {"0": 14, "1": 28}
    shares, _, groups, _ = hunt(lambda m: 0.0, 60, 60, cycles=0, sources=3, keep=0.4)
    counts = shares.history[0].counts
    assert abs(counts["0"] - counts["1"]) <= 4  # what uniform widths leave of the budget is spent on one of them
    assert 0.39 < shares.history[0].cost.macs / fxprune.cost(groups).macs <= 0.4


def test_repair_fits_what_is_left() -> None:
    """A linear net of rank 4 loses nothing if its readers are refitted, whatever goes; without, it does."""
    model, groups, scores = perceptron(30, 30)
    data = [torch.randn(80, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]

    def closeness(m: nn.Module) -> float:
        with torch.no_grad():
            return -float(sum((m(x) - model(x)).square().mean() for x in data))

    def best(repair: bool) -> float:
        search = BeeColony(sources=3, cycles=1, repair=repair, progress=False)
        found = search(model, groups, closeness, scorer=Given(scores), data=data)
        assert closeness(found.model) == max(t.fitness for t in found.history)
        return closeness(found.model)

    assert best(repair=True) > -1e-3 > 10 * best(repair=False)


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_a_fitness_of_the_plan_alone_runs_no_model() -> None:
    """The sum of two error curves has its smallest value where brute force over all codes finds it."""
    model, groups, scores = perceptron(20, 20)
    curves = {n: fxprune.scorers.ErrorCurve.of_scores(s**k) for k, (n, s) in enumerate(scores.items(), 1)}
    judged: list[list[int]] = []
    fitness = CurveFitness(curves, {"0": 2.0})
    search = BeeColony(sources=6, cycles=12, fitness=fitness, keep=0.5, progress=False)
    found = search(model, groups, lambda m: (judged.append(widths_of(m)), 0.0)[1], scorer=Given(scores))
    assert judged == [[20, 20], widths_of(found.model)]  # the original, and the result
    top = max(t.fitness for t in found.history)
    assert top == -(2 * curves["0"].at(found.model[0].out_features) + curves["1"].at(found.model[1].out_features))
    full = fxprune.cost(groups).macs
    possible = [
        -(2 * curves["0"].at(a) + curves["1"].at(b))
        for a, b in product(range(1, 21), repeat=2)
        if 4 * a + a * b + 2 * b <= 0.5 * full
    ]
    assert top > np.quantile(possible, 0.97)


def test_a_repair_without_data() -> None:
    with pytest.raises(fxprune.InputError, match="a bee colony has no data for its repairs"):
        hunt(lambda m: 0.0, 10, 10, repair=True)


def test_shares_of_a_budget_may_be_any() -> None:
    """They are scaled: `max_keep` has no effect on them."""
    parts, settings = (0.1, 0.7, 1.0), {"keep": 0.5, "sources": 6, "cycles": 6}
    found = [hunt(hill(4, 30), 40, 40, max_keep=part, **settings)[0] for part in parts]
    assert len(found[0].history) > 4
    tried = [[tuple(t.counts.items()) for t in f.history] for f in found]
    assert tried[0] == tried[1] == tried[2]
