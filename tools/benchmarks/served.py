"""Latency where models are served: predicted against measured, and which multiples of channels pay.

    PYTHONPATH=.:tools taskset -c 0 python -m benchmarks.served resnet18 --size 112
    PYTHONPATH=.:tools taskset -c 0 python -m benchmarks.served resnet18 --engine compiled

The prediction is fitted to the model and 28 smaller ones (`fxprune.latency.measure` with `engine=`). Then models are
pruned to 30, 50 and 70 % of their channels and MACs, by arbitrary widths, and by `fxprune.prune(latency=, engine=)` to
these parts of their latency, in arbitrary widths and, as it does by default, in the multiples that are free in the
engine; "predicted" is there what the report tells. All run by turns, anew. At last all groups keep three quarters and
a half of their channels, in odd numbers and in multiples of 4, 8 and 16. One thread, one image, CPU times; ratios are
parts of the original's latency.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
import typer
from rich.console import Console
from rich.table import Table

import fxprune
from benchmarks.latency import PARTS, keep_memory, planners
from fxprune.costs.latency.engines import Engine
from fxprune.costs.latency.timer import median_by_turns
from fxprune.module.isolation import as_call


class EngineName(StrEnum):
    """What serves."""

    onnx_runtime = "onnx_runtime"
    compiled = "compiled"


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Classification models of torchvision.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What serves.")] = EngineName.onnx_runtime,
    size: Annotated[int, typer.Option(help="Height and width of the image.")] = 224,
    rounds: Annotated[int, typer.Option(min=1, help="How often each op is measured.")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each pruned model; the median counts.")] = 25,
    table: Annotated[Path | None, typer.Option(help="A folder for tables in place of the user's cache.")] = None,
    multiples: Annotated[bool, typer.Option(help="Also measure what rounding up to a multiple costs.")] = True,
) -> None:
    """Compare predicted with measured latencies in an engine."""
    keep_memory()
    torch.set_num_threads(1)
    if table is not None:
        os.environ["XDG_CACHE_HOME"] = str(table)
    serve, console = getattr(fxprune.latency, engine.value), Console(width=110)
    shown = Table(title=f"latency in {engine.value}: parts of the original's, 1 thread, 1 image", header_style="bold")
    for column in ("model", "kept", "predicted", "measured", "predicted / measured"):
        shown.add_column(column, justify="left" if column in ("model", "kept") else "right")
    off = []
    for name in models or ["resnet18"]:
        for kept, predicted, measured in compared(name, serve, size, rounds, turns):
            off.append(abs(predicted / measured - 1))
            shown.add_row(name, kept, f"{predicted:.3f}", f"{measured:.3f}", f"{predicted / measured:.3f}")
    console.print(shown)
    console.print(f"{sum(o <= 0.1 for o in off)} of {len(off)} within 10 %; off by at most {max(off):.1%}")
    for name in (models or ["resnet18"]) if multiples else ():
        for told in in_multiples(name, serve, size, turns):
            console.print(told)
    for kernel in (1, 3) if multiples else ():
        costs = fxprune.latency.rounding_costs(serve, kernel=kernel, runs=turns)
        told = ", ".join(f"to {m}: {cost:.3f}" for m, cost in costs.items())
        console.print(f"{kernel} x {kernel} convolutions, latency after rounding widths up {told}")


def compared(name: str, serve: Engine, size: int, rounds: int, turns: int) -> list[tuple[str, float, float]]:
    """What is kept, and the predicted and the measured part of the latency."""
    torch.manual_seed(0)
    model, example = getattr(torchvision.models, name)(weights=None).eval(), torch.rand(1, 3, size, size)
    groups = fxprune.find_groups(fxprune.trace(model, example))
    latency = fxprune.latency.measure(groups, rounds=rounds, engine=serve)
    rows = [
        (f"{part:.0%} of {of}", fxprune.rewrite(model, plan), latency.of(plan) / latency.of())
        for of, part, plan in planners(latency, groups)
        if of != "latency"
    ]
    for part, multiple in product(PARTS, (1, None)):
        kept = f"{part:.0%} of latency{'' if multiple else ', free multiples'}"
        options: dict[str, Any] = {"round_to": multiple, "scorer": fxprune.scorers.Random(), "verify": False}
        try:
            result = fxprune.prune(model, example, latency=part, engine=serve, **options)
        except fxprune.InputError as error:  # the smallest widths take longer
            print(f"{name}, {kept}: {error}")
            continue
        assert result.report.latency is not None
        before, after = result.report.latency
        rows.append((kept, result.model, after / before))
    runs = [serve(one, as_call(example)) for one in (model, *(small for _, small, _ in rows))]
    original, *seconds = median_by_turns(runs, torch.device("cpu"), turns)
    return [(kept, told, s / original) for (kept, _, told), s in zip(rows, seconds, strict=True)]


def in_multiples(name: str, serve: Engine, size: int, turns: int) -> Iterator[str]:
    """The latency of models whose groups keep a part of their channels in multiples of a number, and their MACs."""
    model, example = getattr(torchvision.models, name)(weights=None).eval(), torch.rand(1, 3, size, size)
    groups, runs, words = fxprune.find_groups(fxprune.trace(model, example)), [serve(model, as_call(example))], [""]
    for part in (0.75, 0.5):
        for multiple in (1, 4, 8, 16):
            wanted = {g.name: _rounded(part * g.size, multiple, g.size) for g in groups}
            plan = groups.plan({name: range(n) for name, n in groups.in_step(wanted).items()})
            macs = fxprune.cost(groups, plan).macs / fxprune.cost(groups).macs
            runs.append(serve(fxprune.rewrite(model, plan), as_call(example)))
            what = f"multiples of {multiple}" if multiple > 1 else "odd numbers"
            words.append(f"{name}, {part:.0%} of the channels in {what}: {macs:.2f} of the MACs")
    original, *seconds = median_by_turns(runs, torch.device("cpu"), turns)
    yield from (f"{told}, {s / original:.2f} of the latency" for told, s in zip(words[1:], seconds, strict=True))


def _rounded(wanted: float, multiple: int, size: int) -> int:
    return min(size, max(multiple, round(wanted / multiple) * multiple) if multiple > 1 else int(wanted) | 1)


if __name__ == "__main__":
    typer.run(main)
