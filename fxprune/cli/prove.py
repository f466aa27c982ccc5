"""`fxprune verify` and `fxprune latency`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import fxprune
from fxprune.cli import models, origin
from fxprune.cli.answer import Answer, command
from fxprune.cli.groups import heads
from fxprune.cli.options import EngineName, EngineOption, ModelOptions, Original, PrunedOptions, Tolerance, named_path


@command
def verify(
    model: PrunedOptions,
    original: Original = None,
    tolerance: Tolerance = 1e-6,
) -> Answer:
    """Prove a pruned model's plan: its outputs equal those of the original with the removed channels set to zero."""
    pair = origin.load(model, original)
    deviation = fxprune.verify(pair.original.model, pair.plan, pair.original.inputs)
    fine = bool(deviation <= tolerance)
    sign = "within" if fine else "NOT within"
    line = f"pruned against masked: largest relative deviation {deviation:.1e}, {sign} {tolerance:.0e}"
    return Answer({"deviation": deviation, "tolerance": tolerance, "passed": fine}, [line], 0 if fine else 1)


@command
def latency(
    model: ModelOptions,
    original: Original = None,
    engine: EngineOption = EngineName.eager,
    table: Annotated[
        Path | None,
        typer.Option(
            parser=named_path,
            metavar="PATH",
            help="File (.json) of measured times, or folder of such files; made if it is not there.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each op is measured.")] = 3,
) -> Answer:
    """Measure what a model's latency is made of; of a pruned model, also what the table predicts for it."""
    pair = origin.load(model, original) if origin.is_pruned(model.model) else None
    loaded = pair.original if pair else models.load(model)
    graph = fxprune.trace(loaded.model, loaded.inputs)
    groups = fxprune.find_groups(graph, heads=heads(pair.heads if pair else ()))
    measured = fxprune.latency.measure(groups, table, rounds=rounds, engine=engine.engine)
    plans = {"original": None, **({"pruned": pair.plan} if pair else {})}
    seconds = {name: measured.of(plan) for name, plan in plans.items()}
    parts = {name: measured.by_op(plan) for name, plan in plans.items()}
    shown = Table(title=f"predicted milliseconds a forward, {engine.value}", title_justify="left", header_style="bold")
    shown.add_column("op", overflow="fold")
    for name in plans:
        shown.add_column(name, justify="right")
    for op in parts["original"]:
        shown.add_row(op or "the model's own code", *(f"{1e3 * parts[name].get(op, 0.0):.3f}" for name in plans))
    shown.add_row("sum", *(f"{1e3 * seconds[name]:.3f}" for name in plans), style="bold")
    return Answer({"seconds": seconds, "by_op": parts, "unmeasured": dict(measured.unmeasured)}, [shown])
