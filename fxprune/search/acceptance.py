"""Acceptance: whether a candidate is good enough, from one evaluation, or from several where one cannot decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fxprune.errors import InputError, check_integer, check_number
from fxprune.plan.plan import Plan
from fxprune.search.evaluator import Evaluator
from fxprune.search.trial import Candidate, Outcome


@dataclass(frozen=True)
class Acceptance:
    """How carefully a search decides whether a candidate loses at most the tolerance.

    The loss is the baseline's fitness minus the mean over the repeats. Its standard error comes from the paired
    differences d_i of the N samples, each averaged over the repeats, if `evaluate` returns them, and from the spread of
    the S repeats:

        SE² = (Σ d_i² - (Σ d_i)²/N)/N² + var(fitness)/S

    For one repeat of 0/1 correctness that is McNemar's √(n01 + n10 - (n01 - n10)²/N)/N. Where the loss is nearer to
    the tolerance than `z`·SE, or SE is unknown, the candidate is tuned again under other seeds, two at a time.
    Source of the repeats near the threshold: fxprune's own, as an answer to the weakness that Huang (master's thesis,
    USTB 2023) names; the defaults of ROBUST are choices that a simulation supports.

    Attributes:
        repeats: seeds at most; 1 decides from the first evaluation.
        z: standard errors from the tolerance within which it is repeated.
        margin: standard errors that an accepted loss must stay below the tolerance.
        verify: fresh seeds on which the winner must be good enough once more; else the next larger model is verified.
        baselines: tunings of the original, whose mean is what models are compared with, so that what the tuning itself
            gives or takes does not count; 0: the original as it is.

    >>> import fxprune
    >>> search = fxprune.search.Bisection(acceptance=fxprune.search.Acceptance(repeats=3))  # or PLAIN, ROBUST
    """

    repeats: int = 1
    z: float = 1.64
    margin: float = 0.0
    verify: int = 0
    baselines: int = 0

    def __post_init__(self) -> None:
        check_integer("repeats", self.repeats, 1, "1 decides from the first evaluation")
        for name in ("verify", "baselines"):
            check_integer(name, getattr(self, name), 0, "0 is none")
        for name in ("z", "margin"):
            check_number(name, getattr(self, name), "[0, inf]", "give a number of standard errors")


PLAIN = Acceptance()
"""As published: the first evaluation decides."""
ROBUST = Acceptance(repeats=5, margin=0.5, verify=3)
"""Repeats near the tolerance, half a standard error of margin, the winner verified on fresh seeds."""


@dataclass(frozen=True)
class Decision:
    """The decision about a plan.

    Attributes:
        score: mean fitness over the repeats.
        error: standard error of its loss; None if one number is all there is.
        accepted: whether it is good enough.
        candidates: the repeats, the fittest first.
    """

    score: float
    error: float | None
    accepted: bool
    candidates: tuple[Candidate, ...]


def reference(evaluator: Evaluator[Any], tunings: int) -> Outcome:
    """What models are compared with: the original as it is, or the mean of so many tunings of it."""
    baseline = evaluator.baseline()
    if not tunings or evaluator.deterministic:
        return baseline
    outcomes = evaluator.run([Candidate(evaluator.original.plan, repeat) for repeat in range(tunings)])
    samples = [o.samples for o in outcomes if o.samples is not None]
    mean = None if len(samples) < tunings else np.asarray(np.mean(samples, axis=0), dtype=np.float32)
    fitness = math.fsum(o.fitness for o in outcomes) / tunings
    return replace(baseline, fitness=fitness, samples=mean)


def decide(evaluator: Evaluator[Any], plan: Plan, tolerance: float, acceptance: Acceptance) -> Decision:
    """Decide whether a plan is good enough; repeats near the tolerance."""
    candidates = [Candidate(plan)]
    while True:
        decision, near = _decision(evaluator, candidates, tolerance, acceptance)
        more = 0 if evaluator.deterministic or not near else min(2, acceptance.repeats - len(candidates))
        if not more:
            return decision
        candidates += [Candidate(plan, len(candidates) + k) for k in range(more)]


def confirm(evaluator: Evaluator[Any], plan: Plan, tolerance: float, acceptance: Acceptance) -> Decision:
    """Decide once more, on seeds that had no part in the first decision."""
    return _decision(
        evaluator, [Candidate(plan, acceptance.repeats + k) for k in range(acceptance.verify)], tolerance, acceptance
    )[0]


def _decision(
    evaluator: Evaluator[Any], candidates: Sequence[Candidate], tolerance: float, acceptance: Acceptance
) -> tuple[Decision, bool]:
    """The decision, and whether the loss is near the tolerance."""
    baseline, outcomes = reference(evaluator, acceptance.baselines), evaluator.run(candidates)
    score = math.fsum(o.fitness for o in outcomes) / len(outcomes)
    error = standard_error(baseline, outcomes)
    spare = score + tolerance - baseline.fitness
    accepted = reaches(score + tolerance - acceptance.margin * (error or 0.0), baseline.fitness)
    fittest = sorted(range(len(outcomes)), key=lambda i: -outcomes[i].fitness)
    near = error is None or abs(spare) < acceptance.z * error
    return Decision(score, error, accepted, tuple(candidates[i] for i in fittest)), near


def reaches(score: float, wanted: float) -> bool:
    """Whether a score is as good as is wanted; rounding, of samples in float32 as well, decides nothing."""
    return score >= wanted - _ROUNDING * abs(wanted)


_ROUNDING = 1e-7


def standard_error(baseline: Outcome, outcomes: Sequence[Outcome]) -> float | None:
    """Of the loss against the baseline; None if one number is all there is.

    Raises:
        InputError: the outcomes are of other samples than the baseline's.
    """
    square = 0.0
    samples = [o.samples for o in outcomes if o.samples is not None]
    if baseline.samples is not None and samples:
        if any(s.shape != baseline.samples.shape for s in samples):
            seen = f"{len(baseline.samples)} of the original, {len(samples[-1])} of a candidate"
            raise InputError("evaluate gave another number of samples", seen=seen, remedy="judge all on the same data")
        d = np.mean(samples, axis=0, dtype=np.float64) - baseline.samples
        square += float(d.var()) / len(d)
    elif len(outcomes) == 1:
        return None
    if len(outcomes) > 1:
        square += float(np.var([o.fitness for o in outcomes], ddof=1)) / len(outcomes)
    return math.sqrt(square)
