"""How well fitnesses rank: their rank correlation with tuned accuracy, over random ways to spend a budget.

    PYTHONPATH=.:tools python -m benchmarks.fitness  # digits-resnet20, 24 codes: minutes on one core

Each code is a random share for each group, scaled to the part of the MACs that stays, as `BeeColony(keep=...)` draws
them. Fitnesses: accuracy on validation images with re-calibrated BatchNorm, the same after `repair`, and the sum of
error curves (`CurveFitness`), which runs no model. Tuned accuracy: after the fine-tuning of `benchmarks.planners`, on
the same validation images; no test image is read. The journal is read first, so that a run that was stopped goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr  # type: ignore[import-untyped]

import fxprune
from benchmarks.comparison import Journal
from benchmarks.lab import Lab
from fxprune import scorers
from fxprune.search import BeeColony, CurveFitness
from zoo.provenance import commit
from zoo.train import accuracy


@dataclass(frozen=True)
class Point:
    """One code."""

    network: str
    left: float
    code: int
    epochs: int
    scored: int


@dataclass(frozen=True)
class Row:
    """What the fitnesses say of it, and its accuracy on the validation images after tuning."""

    calibrated: float
    repaired: float
    curves: float
    tuned: float
    macs: float
    commit: str | None


FITNESSES = {
    "re-calibrated BatchNorm": "calibrated",
    "repair": "repaired",
    "error curves, no forward": "curves",
}


def plans(lab: Lab, left: float, count: int, curves: dict[str, scorers.ErrorCurve]) -> list[fxprune.Plan]:
    """The plans of random codes, by the search's own draw; the first one is uniform."""
    seen: dict[tuple[int, ...], fxprune.Plan] = {}

    def note(plan: fxprune.Plan) -> float:
        seen.setdefault(tuple(plan.kept_counts().values()), plan)
        return 0.0

    held = {name: curve.scores() for name, curve in curves.items()}
    search = BeeColony(sources=count, cycles=0, keep=left, fitness=note, progress=False)
    search(lab.model, lab.groups, lambda _: 0.0, scorer=lambda *_, **__: held)
    return list(seen.values())


def measure(lab: Lab, plan: fxprune.Plan, fitness: CurveFitness, made_by: str | None) -> Row:
    data = lab.batches(lab.protocol.scored)
    bare = fxprune.rewrite(lab.model, plan)
    repaired = fxprune.repair(lab.model, bare, plan, data, progress=False)
    fxprune.recalibrate_batchnorm(bare, data)
    calibrated, fitted, tuned = (accuracy(m, lab.val) for m in (bare, repaired, lab.tuned(repaired)))
    return Row(calibrated, fitted, fitness(plan), tuned, lab.left(bare)[0], made_by)


def table(rows: dict[Point, Row]) -> Table:
    shown = Table(title=f"{len(rows)} codes", header_style="bold")
    for column in (
        "fitness",
        "mean",
        "best",
        "rank correlation with tuned accuracy",
        "tuned accuracy of its best code",
    ):
        shown.add_column(column, justify="left" if column == "fitness" else "right")
    tuned = np.array([r.tuned for r in rows.values()])
    for title, name in FITNESSES.items():
        values = np.array([getattr(r, name) for r in rows.values()])
        correlation = float(spearmanr(values, tuned).statistic)
        cells = (f"{values.mean():.4g}", f"{values.max():.4g}", f"{correlation:+.2f}", f"{tuned[values.argmax()]:.4f}")
        shown.add_row(title, *cells)
    shown.add_row("tuned accuracy itself", f"{tuned.mean():.4f}", f"{tuned.max():.4f}", "", "")
    return shown


def main(
    network: Annotated[str, typer.Argument(help="Of the zoo.")] = "digits-resnet20",
    left: Annotated[float, typer.Option(min=0.01, max=0.99, help="Part of the MACs that stays.")] = 0.08,
    codes: Annotated[int, typer.Option(min=3, help="Random codes.")] = 24,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/fitness.jsonl"),
) -> None:
    """Compare fitnesses by their rank correlation with the accuracy after a fine-tuning."""
    torch.set_num_threads(1)
    lab, book, made_by = Lab(network), Journal(journal, Point, Row), commit()
    curves = scorers.JointElimination().curves(lab.model, lab.groups, lab.batches(lab.protocol.scored))
    for i, plan in enumerate(plans(lab, left, codes, curves)):
        point = Point(network, left, i, lab.protocol.epochs, lab.protocol.scored)
        if point not in book.rows:
            book.add(point, measure(lab, plan, CurveFitness(curves), made_by))
    Console(width=140).print(table(book.rows))


if __name__ == "__main__":
    typer.run(main)
