"""Monotone fit: the smallest model that is good enough, from a fit to all tunings rather than decision by decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fxprune.errors import check_flag, check_integer, check_number, check_seed
from fxprune.optional import require
from fxprune.plan.plan import Plan
from fxprune.planners.budget import Planner, check_family
from fxprune.planners.contribution import CumulativeContribution
from fxprune.search.acceptance import reaches, reference
from fxprune.search.bisection import Probe
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.trial import Candidate

Floats = npt.NDArray[np.float64]
_HALVINGS = 4
_DRAWS = 200


@dataclass(frozen=True)
class MonotoneFit(Driver[Probe]):
    """Find where quality falls below what is tolerated, from a monotone fit to all tunings.

    Bisection decides tuning by tuning, and each wrong decision stands. Here the quality is taken for a rising function
    of the rate, plus noise: after four halvings, isotonic regression is fitted to all tunings so far, and the next one
    is made where the fit crosses the tolerance, or a little to either side, so that tunings gather there. In the end
    the fit's residuals tell how far off the crossing may be (a bootstrap: the fit plus normal noise of their spread,
    fitted again), and the rate below which it lies with the asked `confidence` is taken and tuned. Where nothing is
    random (no `tune`) and that model loses more than is tolerated, quality does not rise with the rate throughout, and
    the smallest model that was found good enough is taken.
    Source: fxprune's own answer to the noise near the threshold that Huang (master's thesis, USTB 2023) names as the
    weakness of bisection; `python -m benchmarks.bisection` compares both.

    Attributes:
        tolerance: how much of the original's value may be lost, in the unit of `evaluate`.
        tunings: that the fit is made from; the winner's and those of the baseline come on top.
        confidence: that the result loses no more than the tolerance, in [0.5, 1).
        family: a number in (0, 1) to a planner; a larger number must give a larger and better model.
        baselines: tunings of the original, whose mean is what models are compared with; 0: the original as it is.
        progress: show a progress bar.
        seed: of the tunings, and of what is random in the fit.

    Raises:
        InputError: a value out of range.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> quality = lambda model: 1.0 - 0.3 * (1 - model[0].out_features / 20) ** 2  # stands for an accuracy
    >>> found = fxprune.search.MonotoneFit(0.03, progress=False)(net, groups, quality)
    >>> 12 <= found.model[0].out_features <= 16  # 13.7 would be right
    True
    """

    tolerance: float = 0.01
    tunings: int = 16
    confidence: float = 0.9
    family: Callable[[float], Planner] = CumulativeContribution
    baselines: int = 0
    progress: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("the tolerance", self.tolerance, "[0, inf)", "give how much may be lost, such as 0.01")
        check_integer("the number of tunings", self.tunings, _HALVINGS, "16 is usual")
        check_integer("baselines", self.baselines, 0, "0 compares with the original as it is")
        check_number("the confidence", self.confidence, "[0.5, 1)", "0.9 is usual")
        check_family(self.family)
        check_flag("progress", self.progress)
        check_seed(self.seed, least=0)
        require("sklearn.isotonic", extra="lasso")  # to fail now rather than after the first tunings

    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[Probe]]:
        task = evaluator.task
        scores = task.scores()
        for n, probe in enumerate(self.probes(evaluator, lambda rate: self.family(rate)(task.groups, scores)), 1):
            yield Progressed(probe, min(1.0, n / (self.tunings + 1)), f"rate {probe.rate:.3f}: {probe.score:.4f}")

    def probes(self, evaluator: Evaluator[Any], plan_at: Callable[[float], Plan]) -> Iterator[Probe]:
        """The search itself: asks `evaluator` for candidates, notes its best one there, and yields each probe.

        Args:
            evaluator: makes and judges candidates.
            plan_at: the plan for a rate.
        """
        wanted = reference(evaluator, self.baselines).fitness - self.tolerance
        good = dict[float, Candidate]()
        random, tried = np.random.default_rng(self.seed), dict[tuple[int, ...], int]()
        rates, values, ends = list[float](), list[float](), (0.0, 1.0)

        def probe(rate: float) -> tuple[Probe, Candidate]:
            plan = plan_at(rate)
            widths = tuple(plan.kept_counts().values())
            repeat = 0 if evaluator.deterministic else tried.get(widths, 0)
            tried[widths] = repeat + 1
            candidate = Candidate(plan, repeat)
            (outcome,) = evaluator.run([candidate])
            score = outcome.fitness if math.isfinite(outcome.fitness) else -math.inf
            return Probe(rate, score, reaches(score, wanted), evaluator.cost(plan)), candidate

        for n in range(self.tunings):
            finite = _finite(values, wanted)
            middle = (ends[0] + ends[1]) / 2 if n < _HALVINGS else _near(rates, finite, wanted, n)
            made, candidate = probe(middle)
            if made.accepted:
                good[middle] = candidate
                evaluator.keep([], good[min(good)])
            rates.append(middle)
            values.append(made.score)
            ends = (ends[0], middle) if made.accepted else (middle, ends[1])
            yield made
        chosen = self._chosen(rates, _finite(values, wanted), wanted, random)
        sure = evaluator.deterministic  # what was found good enough is so, and what was found too bad is that, too
        known = good.get(min((rate for rate in good if sure or rate >= chosen), default=1.0), evaluator.original)
        if chosen >= 1:
            evaluator.keep([], known)
            return
        made, winner = probe(chosen)
        taken = made.accepted if sure else math.isfinite(made.score)  # else the tuning has diverged
        evaluator.keep([], winner if taken else known)
        yield made

    def _chosen(self, rates: list[float], values: list[float], wanted: float, random: np.random.Generator) -> float:
        """The rate below which the crossing lies with the asked confidence; 1 where none is good enough."""
        x, y, fit = _fitted(rates, values)
        spread = math.sqrt(float(np.square(y - fit).sum()) / max(1, len(y) - len(np.unique(fit))))
        drawn = fit + spread * random.standard_normal((_DRAWS, len(fit)))
        found = np.quantile([_crossing(x, _isotonic(z), wanted) for z in drawn], self.confidence)
        return float(max(found, _crossing(x, fit, wanted)))


def _near(rates: list[float], values: list[float], wanted: float, n: int) -> float:
    """Where the fit crosses, or a step to either side that shrinks as tunings gather."""
    x, _, fit = _fitted(rates, values)
    step = (n % 3 - 1) * 0.5 / math.sqrt(n)
    return min(0.97, max(0.03, _crossing(x, fit, wanted) + step))


def _finite(values: list[float], wanted: float) -> list[float]:
    """What has no finite value is the worst, and as far below what is wanted as the best is above it, or further."""
    finite = [v for v in values if math.isfinite(v)]
    below = 2 * wanted - max(finite) if finite else wanted - 1
    worst = min([below, math.nextafter(wanted, -math.inf), *finite])
    return [v if math.isfinite(v) else worst for v in values]


def _fitted(rates: list[float], values: list[float]) -> tuple[Floats, Floats, Floats]:
    """Rates in order, their values, and the rising function that fits these best."""
    order = np.argsort(rates, kind="stable")
    x, y = np.array(rates)[order], np.array(values)[order]
    return x, y, _isotonic(y)


def _isotonic(y: Floats) -> Floats:
    fit: Floats = require("sklearn.isotonic", extra="lasso").isotonic_regression(y)
    return fit


def _crossing(x: Floats, fit: Floats, wanted: float) -> float:
    """Where the line through the middles of the fit's level pieces reaches a value; 1 where it never does."""
    levels, piece = np.unique(fit, return_inverse=True)
    middles = np.bincount(piece, x) / np.bincount(piece)
    return 1.0 if levels[-1] < wanted else float(np.interp(wanted, levels, middles))
