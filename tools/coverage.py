"""Prune every torchvision model at one ratio and check what comes out.

python tools/coverage.py                         # all 121 models, table at the end
python tools/coverage.py 'resnet*' vit_b_16 --ratio 0.3 --json coverage.json
"""

from __future__ import annotations

import json
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision_models as tv
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxprune

Row = dict[str, Any]
CHECKS = ("forward", "batch 3", "train", "shapes")


def examine(name: str, ratio: float) -> Row:
    """One model's row; a failure is a row as well."""
    row: Row = {"model": name, "family": tv.family(name)}
    try:
        torch.manual_seed(0)
        model = tv.build(name)
        row |= _analyse(name, model, ratio)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
        row["traceback"] = traceback.format_exc()
    return row


def _analyse(name: str, model: nn.Module, ratio: float) -> Row:
    inputs = tv.example(name)
    original = _shapes(model, inputs), _shapes(model, tv.example(name, 3))  # also warms the allocator
    with _Peak() as peak:
        graph, trace_ms = _timed(lambda: fxprune.trace(model, inputs))
        groups, group_ms = _timed(lambda: fxprune.find_groups(graph))
    scores = fxprune.scorers.L2Norm()(model, groups)
    plan = fxprune.planners.Uniform(ratio)(groups, scores)
    before, after = fxprune.cost(graph), fxprune.cost(graph, plan)
    exact = groups.plan({name: plan.groups[name].kept for name in _exact(groups)})
    error = fxprune.verify(model, exact, inputs)
    small = fxprune.rewrite(model, plan, inplace=True).eval()
    assert after.parameters == sum(p.numel() for p in small.parameters()), "cost model and model disagree"
    return {
        "groups": len(groups),
        "compared": len(_exact(groups)),
        "parameters": after.parameters / before.parameters,
        "macs": after.macs / max(before.macs, 1),
        "verify": error,
        "trace_ms": trace_ms,
        "group_ms": group_ms,
        "analysis_mb": peak.added_mb,
        "unknown": dict(groups.unknown_ops),
        "fixed": _why(groups),
        **_run(name, small, inputs, original),
    }


def _exact(groups: fxprune.Groups) -> set[str]:
    """Groups that no norm, mean or softmax runs over, nor over one that they are tied to."""
    mixed = {g.name for g in groups if g.mixed_by}
    mixed |= {name for tie in groups.ties if tie & mixed for name in tie}
    return {g.name for g in groups} - mixed


def _run(name: str, small: nn.Module, inputs: Any, original: tuple[Any, Any]) -> Row:
    one, three = _shapes(small, inputs), _shapes(small, tv.example(name, 3))
    _train(name, small)
    return {"forward": True, "batch 3": True, "train": True, "shapes": (one, three) == original}


def _shapes(model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    """Shapes of all outputs; without the first dim where the number of detections is free."""
    torch.manual_seed(0)
    with torch.no_grad():
        out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    skip = 1 if isinstance(inputs, list) else 0
    return [tuple(t.shape[skip:]) for t in tree_leaves(out) if isinstance(t, Tensor)]


def _train(name: str, model: nn.Module) -> None:
    """One forward and backward in training mode; every parameter that is used must get a gradient."""
    model.train()
    inputs = tv.example(name, 3 if tv.image_size(name) < 224 else 2)
    if isinstance(inputs, list):
        out = model(inputs, tv.targets(name, inputs))
    else:
        out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    loss = sum(t.float().square().mean() for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad)
    loss.backward()  # type: ignore[union-attr]
    assert any(p.grad is not None for p in model.parameters()), "no gradient"


def _why(groups: fxprune.Groups) -> dict[str, int]:
    """Fixed elements of parameters by reason, boundaries of the model and kernel sizes left out."""
    expected = ("model input", "model output", "kernel size")
    found: dict[str, int] = {}
    for f in groups.fixed:
        if not f.reason.startswith(expected) and "running" not in f.tensor and f.count > 1:
            found[f.reason] = found.get(f.reason, 0) + f.count
    return dict(sorted(found.items(), key=lambda kv: -kv[1])[:3])


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, 1e3 * (time.perf_counter() - start)


class _Peak:
    """How far the process's memory rises above its level at the start, in MB."""

    added_mb = 0.0

    def __enter__(self) -> _Peak:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._start = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.added_mb = max(0.0, (_status("VmHWM") - self._start) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)


def _child(job: tuple[str, float, int]) -> Row:
    name, ratio, threads = job
    torch.set_num_threads(threads)
    os.nice(5)
    return examine(name, ratio) | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _rows(chosen: list[str], ratio: float, jobs: int, threads: int) -> Iterator[Row]:
    """A fresh process for each model, so that memory is its own and a crash costs one row."""
    with get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        work = [(name, ratio, threads) for name in chosen]
        yield from pool.imap_unordered(_child, work, chunksize=1)


def show(rows: Iterable[Row], console: Console) -> None:
    table = Table(title="fxprune on torchvision", header_style="bold")
    for column in (
        "model",
        "family",
        "groups",
        "compared",
        "params left",
        "MACs left",
        "verify",
        "trace ms",
        "groups ms",
        "MB",
        "checks",
    ):
        table.add_column(column, justify="left" if column in ("model", "family", "checks") else "right")
    for r in rows:
        table.add_row(*_cells(r), style="red" if not passed(r) else "")
    console.print(table)


def passed(row: Row) -> bool:
    return "error" not in row and all(row.get(c) for c in CHECKS)


def _cells(r: Row) -> list[str]:
    if "error" in r:
        return [r["model"], r["family"], *[""] * 8, r["error"][:60]]
    numbers = [f"{r['parameters']:.2f}", f"{r['macs']:.2f}", f"{r['verify']:.0e}"]
    speed = [f"{r['trace_ms']:.0f}", f"{r['group_ms']:.0f}", f"{r['analysis_mb']:.0f}"]
    failed = [c for c in CHECKS if not r.get(c)]
    return [
        r["model"],
        r["family"],
        str(r["groups"]),
        str(r["compared"]),
        *numbers,
        *speed,
        "ok" if not failed else f"failed: {failed}",
    ]


def summary(rows: list[Row]) -> str:
    """A Markdown table by family."""
    lines = [
        "| family | models | run | params left (worst) | MACs left (median) | verify (worst) | analysis ms (median) |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for kind in sorted({r["family"] for r in rows}):
        mine = [r for r in rows if r["family"] == kind]
        ok = [r for r in mine if passed(r)]
        if ok:
            left = f"{_median(r['parameters'] for r in ok):.2f} ({max(r['parameters'] for r in ok):.2f})"
            macs = f"{_median(r['macs'] for r in ok):.2f} | {max(r['verify'] for r in ok):.0e}"
            speed = f"{_median(r['trace_ms'] + r['group_ms'] for r in ok):.0f}"
            lines.append(f"| {kind} | {len(mine)} | {len(ok)} | {left} | {macs} | {speed} |")
        else:
            lines.append(f"| {kind} | {len(mine)} | 0 | | | | |")
    total = sum(map(passed, rows))
    return "\n".join([*lines, f"| **all** | **{len(rows)}** | **{total}** | | | | |"])


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="Model names or shell patterns; all if none.")] = None,
    ratio: Annotated[float, typer.Option(help="Pruning ratio of every group.")] = 0.5,
    jobs: Annotated[int, typer.Option(help="Models at a time.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Write all rows to this file.")] = None,
) -> None:
    """Prune every torchvision model and check forward, batch of 3, training, shapes, and pruned against masked."""
    chosen = [n for n in tv.names() if not patterns or any(fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no torchvision model is called {patterns}")
    console = Console()
    rows = []
    for row in track(
        _rows(chosen, ratio, jobs, threads), total=len(chosen), description="coverage", console=Console(stderr=True)
    ):
        rows.append(row)
        if out:
            out.write_text(json.dumps(rows, indent=1))
    rows.sort(key=lambda r: (r["family"], r["model"]))
    show(rows, console)
    for r in rows:
        if not passed(r):
            console.print(f"[red]{r['model']}[/]: {r.get('error', [c for c in CHECKS if not r.get(c)])}")
    console.print(summary(rows), markup=False)
    raise typer.Exit(0 if all(map(passed, rows)) else 1)


if __name__ == "__main__":
    typer.run(main)
