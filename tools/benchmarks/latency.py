"""Latency that is predicted from a table of measured ops, against latency that is measured.

    PYTHONPATH=.:tools taskset -c 0 python -m benchmarks.latency  # ResNet-18, ResNet-50, MobileNetV2
    PYTHONPATH=.:tools python -m benchmarks.latency resnet34 --size 160 --json bench.json

A table is measured for each model, or read where that was done before. Then models are pruned to 30, 50 and 70 % of
their channels (of every group alike), of their MACs, and of their latency as predicted, and all of a model are run by
turns, the original among them. A ratio is the latency as a part of the original's: the predicted one, and the median
over the turns of the measured one, so that what disturbs a turn disturbs both of its sides.

One thread, evaluation mode, one image; times are CPU times. Weights are untrained: they have no say in the time.

glibc gives memory that is freed back to the system, and takes it again for the next activation, or does not, depending
on all that the process did before; that can cost a third of a forward, and no table of ops can know it. So the program
starts itself again with variables that make glibc keep its memory, as jemalloc and the like do (`--own-malloc`: not).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torchvision
import typer
from rich.console import Console
from rich.table import Table

import fxprune
from fxprune.planners import Budget, Uniform

PARTS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Row:
    """One pruned model.

    Attributes:
        model: the original.
        of: what a part is kept of.
        part: that part.
        macs: the part of the MACs that is left.
        predicted: seconds.
        measured: seconds, the median.
        predicted_ratio: predicted latency as a part of the original's.
        measured_ratio: measured latency as a part of the original's, the median over the turns.
    """

    model: str
    of: str
    part: float
    macs: float
    predicted: float
    measured: float
    predicted_ratio: float
    measured_ratio: float

    @property
    def agreement(self) -> float:
        return self.predicted_ratio / self.measured_ratio


def planners(latency: fxprune.latency.Latency, groups: fxprune.Groups) -> Iterator[tuple[str, float, fxprune.Plan]]:
    """Plans that keep the parts of channels, MACs and latency; which channels stay, has no say in the time."""
    scores = fxprune.scorers.Random()(groups.graph.model, groups)
    ways: dict[str, Callable[[float], Callable[..., fxprune.Plan]]] = {
        "channels": lambda part: Uniform(1 - part),
        "MACs": lambda part: Budget(part, "macs"),
        "latency": lambda part: Budget(part, latency),
    }
    for of, planner in ways.items():
        for part in PARTS:
            yield of, part, planner(part)(groups, scores)


def bench(name: str, size: int, rounds: int, turns: int, table: Path | None, console: Console) -> list[Row]:
    torch.manual_seed(0)
    model, example = getattr(torchvision.models, name)(weights=None).eval(), torch.rand(1, 3, size, size)
    groups = fxprune.find_groups(fxprune.trace(model, example))
    start = time.perf_counter()
    latency = fxprune.latency.measure(groups, table, rounds=rounds)
    console.print(f"{name}: table in {time.perf_counter() - start:.0f} s (what an earlier run measured is not in it)")
    plans = list(planners(latency, groups))
    models = [model, *(fxprune.rewrite(model, plan) for _, _, plan in plans)]
    original, *pruned = fxprune.latency.by_turns(models, example, turns)
    full = fxprune.cost(groups).macs
    return [
        Row(
            *(name, of, part, fxprune.cost(groups, plan).macs / full),
            *(latency.of(plan), statistics.median(seconds), latency.of(plan) / latency.of()),
            statistics.median(s / o for s, o in zip(seconds, original, strict=True)),
        )
        for (of, part, plan), seconds in zip(plans, pruned, strict=True)
    ]


def show(rows: list[Row]) -> Table:
    table = Table(title="latency, predicted and measured, 1 thread, 1 image", header_style="bold")
    for column in ("model", "kept"):
        table.add_column(column)
    for column in "MACs|predicted ms|measured ms|predicted ratio|measured ratio|predicted / measured".split("|"):
        table.add_column(column, justify="right")
    for r in rows:
        seconds = (f"{1e3 * r.predicted:.2f}", f"{1e3 * r.measured:.2f}")
        ratios = (f"{r.predicted_ratio:.3f}", f"{r.measured_ratio:.3f}", f"{r.agreement:.3f}")
        table.add_row(r.model, f"{r.part:.0%} of {r.of}", f"{r.macs:.1%}", *seconds, *ratios)
    return table


def keep_memory() -> None:
    """Start this program again under variables that make glibc keep what is freed."""
    variables = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_MAX_": "0"}
    if not variables.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **variables})


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Classification models of torchvision.")] = None,
    size: Annotated[int, typer.Option(help="Height and width of the image.")] = 224,
    rounds: Annotated[int, typer.Option(min=1, help="How often each op is measured; the median counts.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each pruned model.")] = 25,
    table: Annotated[Path | None, typer.Option(help="Where tables are kept; default is the user's cache.")] = None,
    own_malloc: Annotated[bool, typer.Option("--own-malloc", help="Leave glibc as it is.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Compare predicted with measured latencies of pruned models."""
    if not own_malloc:
        keep_memory()
    torch.set_num_threads(1)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    rows: list[Row] = []
    for name in models or ["resnet18", "resnet50", "mobilenet_v2"]:
        rows += bench(name, size, rounds, turns, table, console)
    console.print(show(rows))
    off = [abs(r.agreement - 1) for r in rows]
    console.print(f"{sum(o <= 0.1 for o in off)} of {len(rows)} within 10 %; off by at most {max(off):.1%}")
    if out:
        out.write_text(json.dumps([asdict(r) for r in rows], indent=1))


if __name__ == "__main__":
    typer.run(main)
