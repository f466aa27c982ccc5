"""Latency where models are served: predicted against measured, and which multiples of channels pay.

    PYTHONPATH=.:tools taskset -c 0 python -m benchmarks.served resnet18 --size 112
    PYTHONPATH=.:tools taskset -c 0 python -m benchmarks.served resnet18 --engine compiled

The prediction is fitted to fourteen models of other widths (`fxprune.latency.measure` with `engine=`). Then models are
pruned to 30, 50 and 70 % of their channels, MACs and predicted latency, and all run by turns. One thread, one image,
CPU times; ratios are parts of the original's latency.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import torchvision
import typer
from rich.console import Console
from rich.table import Table

import fxprune
from benchmarks.latency import keep_memory, planners
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
    table: Annotated[Path | None, typer.Option(help="Where tables are kept; default is the user's cache.")] = None,
    multiples: Annotated[bool, typer.Option(help="Also measure what rounding up to a multiple costs.")] = True,
) -> None:
    """Compare predicted with measured latencies in an engine."""
    keep_memory()
    torch.set_num_threads(1)
    serve, console = getattr(fxprune.latency, engine.value), Console(width=110)
    shown = Table(title=f"latency in {engine.value}: parts of the original's, 1 thread, 1 image", header_style="bold")
    for column in ("model", "kept", "predicted", "measured", "predicted / measured"):
        shown.add_column(column, justify="left" if column in ("model", "kept") else "right")
    off = []
    for name in models or ["resnet18"]:
        for kept, predicted, measured in compared(name, serve, size, rounds, turns, table):
            off.append(abs(predicted / measured - 1))
            shown.add_row(name, kept, f"{predicted:.3f}", f"{measured:.3f}", f"{predicted / measured:.3f}")
    console.print(shown)
    console.print(f"{sum(o <= 0.1 for o in off)} of {len(off)} within 10 %; off by at most {max(off):.1%}")
    for kernel in (1, 3) if multiples else ():
        costs = fxprune.latency.rounding_costs(serve, kernel=kernel, runs=turns)
        told = ", ".join(f"to {m}: {cost:.3f}" for m, cost in costs.items())
        console.print(f"{kernel} x {kernel} convolutions, latency after rounding widths up {told}")


def compared(
    name: str, serve: Engine, size: int, rounds: int, turns: int, table: Path | None
) -> list[tuple[str, float, float]]:
    """What is kept, and the predicted and the measured part of the latency."""
    torch.manual_seed(0)
    model, example = getattr(torchvision.models, name)(weights=None).eval(), torch.rand(1, 3, size, size)
    groups = fxprune.find_groups(fxprune.trace(model, example))
    latency = fxprune.latency.measure(groups, table, rounds=rounds, engine=serve)
    plans = list(planners(latency, groups))
    served = [model, *(fxprune.rewrite(model, plan) for _, _, plan in plans)]
    runs = [serve(one, as_call(example)) for one in served]
    original, *seconds = median_by_turns(runs, torch.device("cpu"), turns)
    return [
        (f"{part:.0%} of {of}", latency.of(plan) / latency.of(), measured / original)
        for (of, part, plan), measured in zip(plans, seconds, strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
