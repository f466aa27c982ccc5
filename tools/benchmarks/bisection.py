"""Simulate searches near the tolerance: how often they end at a model that loses too much.

    PYTHONPATH=.:tools python -m benchmarks.bisection  # a minute on one core
    PYTHONPATH=.:tools python -m benchmarks.bisection --runs 1000 --spread 0.005 --samples 500

A model at rate r truly loses 0.2·exp(-6·r) of an accuracy of 95 %, so that 1 % is lost at r = 0.5. Each tuning's true
accuracy varies (`--spread`), 2 % of the samples flip both ways, and a search sees `--samples` of them. The searches are
fxprune's own, with their decisions; only models, tunings and evaluations are drawn instead of made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fxprune
from fxprune.search import PLAIN, ROBUST, Bisection, MonotoneFit
from fxprune.search.trial import Outcome

TOLERANCE = 0.01
SEARCHES: dict[str, Bisection | MonotoneFit] = {
    "plain": Bisection(TOLERANCE, acceptance=PLAIN),
    "robust, no margin": Bisection(TOLERANCE, acceptance=replace(ROBUST, margin=0.0)),
    "robust": Bisection(TOLERANCE, acceptance=ROBUST),
    "monotone fit, 16 tunings": MonotoneFit(TOLERANCE),
    "monotone fit, 16 tunings, 0.95": MonotoneFit(TOLERANCE, confidence=0.95),
    "monotone fit, 10 tunings": MonotoneFit(TOLERANCE, tunings=10),
}


def true_loss(rate: float) -> float:
    return 0.2 * math.exp(-6 * rate)


@dataclass(frozen=True)
class Rate:
    """A plan of which only the rate is known."""

    rate: float
    groups: ClassVar[dict[str, Any]] = {}

    def kept_counts(self) -> dict[str, int]:
        return {"rate": round(1e9 * self.rate)}


class Simulated:
    """Stands for a bench; its candidates are drawn.

    Args:
        seed: of everything drawn.
        spread: standard deviation of a tuning's true accuracy.
        samples: that are seen.
    """

    deterministic = False
    original = SimpleNamespace(plan=Rate(1.0))

    def __init__(self, seed: int, spread: float = 0.003, samples: int = 1000) -> None:
        self.tunings = 0
        self.best: Any = None
        self._random, self._spread = np.random.default_rng(seed), spread
        self._before = self._random.random(samples) < 0.95
        self._known: dict[tuple[float, int], Outcome] = {}

    def baseline(self) -> Outcome:
        return _outcome(self._before)

    def run(self, candidates: Iterable[Any]) -> list[Outcome]:
        return [self._of(c.plan.rate, c.repeat) for c in candidates]

    def keep(self, _: Any, best: Any) -> None:
        self.best = best

    def cost(self, _: Any) -> fxprune.Cost:
        return fxprune.Cost(0, 0)

    def _of(self, rate: float, repeat: int) -> Outcome:
        if (rate, repeat) not in self._known:
            self._known[rate, repeat] = self._tuned(rate)
        return self._known[rate, repeat]

    def _tuned(self, rate: float) -> Outcome:
        self.tunings += 1
        loss = true_loss(rate) + self._random.normal(0, self._spread)
        falls, rises = (0.02 + max(loss, 0)) / 0.95, (0.02 - min(loss, 0)) / 0.05
        chance = np.where(self._before, 1 - falls, rises)
        return _outcome(self._random.random(len(chance)) < chance)


def _outcome(right: Any) -> Outcome:
    return Outcome("", float(right.mean()), right.astype(np.float32), 0, 0.0)


@dataclass(frozen=True)
class Row:
    """What a judge came to.

    Attributes:
        wrong: part of searches whose result truly loses more than the tolerance.
        rate: mean rate of the results; 0.5 is right.
        tunings: of a search, mean.
    """

    wrong: float
    rate: float
    tunings: float


def simulate(search: Bisection | MonotoneFit, runs: int = 250, spread: float = 0.003, samples: int = 1000) -> Row:
    """Search `runs` times, under seeds 0, 1, ..."""
    rates, tunings = list[float](), list[int]()
    for seed in range(runs):
        bench = Simulated(seed, spread, samples)
        for _ in replace(search, seed=seed, progress=False).probes(bench, Rate):  # type: ignore[arg-type]
            pass
        rates.append(bench.best.plan.rate if bench.best else 1.0)
        tunings.append(bench.tunings)
    return Row(fmean(true_loss(r) > TOLERANCE for r in rates), fmean(rates), fmean(tunings))


def show(rows: dict[str, Row], runs: int) -> Table:
    table = Table(title=f"{runs} searches each", header_style="bold")
    for column in ("search", "too lossy", "mean rate (0.50 is right)", "tunings a search"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row.wrong:.1%}", f"{row.rate:.3f}", f"{row.tunings:.1f}")
    return table


def main(
    runs: Annotated[int, typer.Option(min=1, help="Searches of each kind.")] = 250,
    spread: Annotated[float, typer.Option(min=0, help="Standard deviation of a tuning's true accuracy.")] = 0.003,
    samples: Annotated[int, typer.Option(min=2, help="Samples that a search sees.")] = 1000,
) -> None:
    """Simulate searches near the tolerance: how often they end at a model that loses too much."""
    names: Sequence[str] = list(SEARCHES)
    bar = track(names, "searches", console=Console(stderr=True))
    Console().print(show({name: simulate(SEARCHES[name], runs, spread, samples) for name in bar}, runs))


if __name__ == "__main__":
    typer.run(main)
