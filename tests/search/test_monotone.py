"""The search by a monotone fit: where it ends, what it costs, and a baseline that is tuned alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.bisection import SEARCHES, simulate
from search_toys import Given, jitter, perceptron, widths_of
from torch import nn

import fxprune
from fxprune.search import Acceptance, Bisection, MonotoneFit
from fxprune.search.monotone import _crossing, _fitted


def search(tune: Any, evaluate: Any, **settings: Any) -> Any:
    model, groups, scores = perceptron(100)
    method = MonotoneFit(**{"progress": False, **settings})
    return method(model, groups, evaluate, scorer=Given(scores), tune=tune)


def test_without_noise_it_ends_where_quality_falls_below() -> None:
    """1 - ((100 - w)/100)²/2 loses 0.02 at w = 80."""
    found = search(None, lambda m: 1 - ((100 - widths_of(m)[0]) / 100) ** 2 / 2, tolerance=0.02, confidence=0.5)
    assert 78 <= found.plan.kept_counts()["0"] <= 84
    assert found.history[-1].accepted
    assert len(found.history) <= 17


@pytest.mark.parametrize("seed", range(6))
def test_where_nothing_is_random_no_model_that_was_found_too_bad_is_returned(seed: int) -> None:
    """The quality of each width is fixed, but does not rise from one to the next."""
    table = np.random.default_rng(seed).normal(np.linspace(0.9, 1, 101), 0.02)
    table[100] = 1
    found = search(None, lambda m: float(table[widths_of(m)[0]]), tolerance=0.03)
    assert table[widths_of(found.model)[0]] >= 0.97
    if not found.history[-1].accepted:
        left = fxprune.cost(fxprune.find_groups(fxprune.trace(found.model, torch.zeros(1, 4))))
        assert left.macs == min(p.cost.macs for p in found.history if p.accepted)


def test_the_fit_is_the_nearest_rising_function() -> None:
    """Against all ways to pool neighbours, by brute force."""
    rng = np.random.default_rng(0)
    rates, values = rng.random(7).tolist(), rng.random(7).tolist()
    x, y, fit = _fitted(rates, values)
    best = min(
        (
            level
            for cuts in range(2**6)
            for level in [np.concatenate([np.full(len(p), p.mean()) for p in np.split(y, _ends(cuts))])]
            if (np.diff(level) >= 0).all()
        ),
        key=lambda level: float(np.square(level - y).sum()),
    )
    np.testing.assert_allclose(fit, best)
    assert x.tolist() == sorted(rates)


def test_what_has_no_number_is_never_good_enough() -> None:
    for good in (1.0, -1.0):  # negative as well: zero is then a good value
        found = search(None, lambda m, good=good: good if widths_of(m)[0] >= 60 else float("nan"))
        assert found.plan.kept_counts()["0"] >= 60
    found = search(None, lambda m: -1.0 if widths_of(m)[0] == 100 else float("nan"))
    assert found.plan.kept_counts()["0"] == 100


def test_an_interrupted_search_returns_the_best_so_far_and_keeps_no_others(tmp_path: Path) -> None:
    calls = iter(range(10))

    def quality(model: nn.Module) -> float:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return 1.0 if widths_of(model)[0] >= 60 else 0.0

    model, groups, scores = perceptron(100)
    options = {"scorer": Given(scores), "folder": tmp_path, "on_interrupt": "return"}
    found = MonotoneFit(progress=False)(model, groups, quality, tune=jitter, **options)
    assert not found.finished
    assert found.plan.kept_counts()["0"] < 100
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def _ends(cuts: int) -> list[int]:
    return [i + 1 for i in range(6) if cuts >> i & 1]


def test_the_crossing_lies_on_the_line_through_the_level_pieces() -> None:
    x = np.array([0.1, 0.3, 0.5, 0.9])
    fit = np.array([0.2, 0.2, 0.6, 1.0])  # pieces at 0.2, 0.5 and 0.9
    assert _crossing(x, fit, 0.4) == pytest.approx(0.35)
    assert _crossing(x, fit, 0.8) == pytest.approx(0.7)
    assert _crossing(x, fit, 0.1) == pytest.approx(0.2)
    assert _crossing(x, fit, 1.1) == 1.0


def test_nothing_good_enough_leaves_the_original() -> None:
    found = search(jitter, lambda m: float(widths_of(m)[0] == 100), tolerance=0.1)
    assert found.model[0].out_features == 100
    assert not any(p.accepted for p in found.history)


def spoil(model: nn.Module) -> None:
    """A tuning that costs whatever it trains."""
    model[0].spoiled = True  # type: ignore[index]


def quality(model: Any) -> float:
    return 0.9 - 0.2 * hasattr(model[0], "spoiled") - 0.001 * (100 - widths_of(model)[0])


@pytest.mark.parametrize(
    "method", [MonotoneFit(0.05, baselines=2), Bisection(0.05, acceptance=Acceptance(baselines=2))]
)
def test_a_baseline_that_is_tuned_alike(method: Any) -> None:
    """The tuning costs everything 0.2: against the original as it is, nothing is good enough."""
    model, groups, scores = perceptron(100)
    options: dict[str, Any] = {"scorer": Given(scores), "tune": spoil}
    method = type(method)(**{**vars(method), "progress": False})
    found = method(model, groups, quality, **options)
    assert 48 <= found.plan.kept_counts()["0"] <= 56
    plain = {"baselines": 0} if isinstance(method, MonotoneFit) else {"acceptance": Acceptance()}
    unfair = type(method)(**{**vars(method), **plain})(model, groups, quality, **options)
    assert unfair.model is model


@pytest.mark.slow
def test_half_the_tunings_of_robust_bisection() -> None:
    plain, row = (simulate(SEARCHES[name], 100) for name in ("plain", "monotone fit, 16 tunings"))
    assert row.tunings <= 17
    assert row.wrong < 0.5 * plain.wrong
    assert row.rate < 0.65  # robust bisection: 0.67 with 33 tunings


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"tolerance": -1}, r"tolerance is not a number in \[0, inf\)"),
        ({"tunings": 3}, "the number of tunings must be an integer of at least 4; seen: 3"),
        ({"baselines": -1}, "baselines must be an integer of at least 0"),
        ({"confidence": 1.0}, r"confidence is not a number in \[0.5, 1\)"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        MonotoneFit(**values)


def test_noise_of_a_tuning_is_seeded() -> None:
    def noisy(model: Any) -> float:
        return widths_of(model)[0] / 100 + 0.05 * float(model[0].weight.detach().mean())

    first, second = (search(jitter, noisy, tolerance=0.4) for _ in range(2))
    assert [p.score for p in first.history] == [p.score for p in second.history]
    assert torch.equal(first.model[0].weight, second.model[0].weight)
