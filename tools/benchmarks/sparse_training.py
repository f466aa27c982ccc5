"""What sparse and soft training bring: accuracy after pruning to a part of the MACs, before and after a fine-tuning.

    PYTHONPATH=.:tools python -m benchmarks.sparse_training  # digits-resnet20, three seeds: minutes on one core
    PYTHONPATH=.:tools python -m benchmarks.sparse_training fashion-resnet56 --way 'soft*' --epochs 5 --images 12000

The trained network is trained on with each of the terms of `fxprune.sparsity`, and without any; then channels go by the
L2 norm (by the batch norm's scale, by the plan, after what suits it), BatchNorm is re-calibrated, accuracy is measured
on the test images, and again after the fine-tuning of `benchmarks.planners`. Strengths are published or default values,
none was chosen on test images. The journal is read first, so that a run that was stopped goes on.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.comparison import Journal, chosen
from benchmarks.lab import Lab
from fxprune import scorers, sparsity
from fxprune.planners import AtBudget, Uniform
from zoo.provenance import commit
from zoo.train import accuracy


@dataclass(frozen=True)
class Point:
    """What is measured once: a way of training, the part of the MACs that stays, the epochs, and a seed.

    Attributes:
        images: of the training images each epoch sees so many, drawn anew; 0 for all.
    """

    network: str
    way: str
    left: float
    epochs: int
    seed: int
    images: int = 0


@dataclass(frozen=True)
class Row:
    """Accuracies on the test images: of the whole network after the sparse training, pruned, and tuned; in [0, 1]."""

    whole: float
    before: float
    after: float
    macs: float
    seconds: float
    commit: str | None


@dataclass
class Way:
    """A term for the loss, what follows an epoch, and how the network is pruned at the end."""

    term: Callable[[nn.Module], Tensor] | None = None
    epoch: Callable[[nn.Module], Any] | None = None
    scorer: scorers.Scorer = field(default_factory=scorers.L2Norm)


def ways(lab: Lab, left: float) -> dict[str, Way]:
    groups, norm = lab.groups, scorers.L2Norm()
    uniform = AtBudget(Uniform, left, tolerance=0.005)
    plan = uniform(groups, norm(lab.model, groups))
    chosen = {n: torch.zeros(g.size).index_fill(0, torch.from_numpy(g.kept), 1) for n, g in plan.groups.items()}
    decay = sparsity.GrowingDecay(groups, plan, strength=1e-3, limit=1.0)
    return {
        "none": Way(),
        "group lasso": Way(sparsity.GroupLasso(groups, 1e-4)),
        "batch norm scales": Way(sparsity.BatchNormL1(groups, 1e-3), scorer=scorers.BatchNormScale()),
        "growing decay": Way(decay, scorer=lambda *_, **__: chosen),
        "soft pruning": Way(epoch=sparsity.SoftPruning(groups, uniform)),
    }


def trained(lab: Lab, way: Way, epochs: int, images: int) -> nn.Module:
    """A copy, trained on: the loop of a user, with one line more."""
    model = copy.deepcopy(lab.model).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    draw = torch.Generator().manual_seed(lab.seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(lab.train), generator=draw)[: images or None].split(lab.protocol.batch_size):
            batch = lab.train[rows]
            loss = F.cross_entropy(model(batch.images), batch.labels)
            if way.term is not None:
                loss = loss + way.term(model)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
        if way.epoch is not None:
            way.epoch(model)
    return model.eval()


def measure(point: Point, lab: Lab, made_by: str | None) -> Row:
    start, way = time.process_time(), ways(lab, point.left)[point.way]
    model = trained(lab, way, point.epochs, point.images)
    groups = fxprune.find_groups(fxprune.trace(model, lab.example))
    plan = AtBudget(Uniform, point.left, tolerance=0.005)(groups, way.scorer(model, groups))
    small = fxprune.rewrite(model, plan)
    lab.calibrate(small)
    seconds = time.process_time() - start
    whole, before, after = (accuracy(m, lab.test) for m in (model, small, lab.tuned(small)))
    return Row(whole, before, after, lab.left(small)[0], seconds, made_by)


def table(rows: dict[Point, Row]) -> Table:
    shown = Table(header_style="bold")
    for column in ("network", "left", "way", "whole", "pruned", "tuned", "seeds"):
        shown.add_column(column, justify="left" if column in ("network", "way") else "right")
    for key in dict.fromkeys((p.network, p.left, p.way, p.epochs, p.images) for p in rows):
        some = [r for p, r in rows.items() if (p.network, p.left, p.way, p.epochs, p.images) == key]
        cells = [_mean([100 * getattr(r, name) for r in some]) for name in ("whole", "before", "after")]
        shown.add_row(key[0], f"{key[1]:.0%}", key[2], *cells, str(len(some)))
    return shown


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def main(
    network: Annotated[str, typer.Argument(help="Of the zoo.")] = "digits-resnet20",
    left: Annotated[list[float] | None, typer.Option(min=0.01, max=0.99, help="Part of the MACs that stays.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="Ways of training, by pattern.", show_default="all")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the sparse training.")] = 20,
    images: Annotated[int, typer.Option(min=0, help="Training images an epoch, drawn anew; 0 for all.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/sparse-training.jsonl"),
) -> None:
    """Compare ways of sparse and soft training by what is left after pruning."""
    torch.set_num_threads(1)
    book, made_by = Journal(journal, Point, Row), commit()
    for seed in range(seeds):
        lab = Lab(network, seed=seed)
        for part in left or (0.25,):
            for name in chosen(way, ways(lab, part), "way"):
                point = Point(network, name, part, epochs, seed, images)
                if point not in book.rows:
                    book.add(point, measure(point, lab, made_by))
    Console(width=120).print(table(book.rows))


if __name__ == "__main__":
    typer.run(main)
