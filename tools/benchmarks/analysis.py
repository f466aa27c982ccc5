"""Time fxprune's analysis and pruning against Torch-Pruning's, on torchvision's classification models.

    PYTHONPATH=.:tools python -m benchmarks.analysis  # all 80 models, about an hour
    PYTHONPATH=.:tools python -m benchmarks.analysis --models 'resnet*' --models alexnet --repeats 7
    PYTHONPATH=.:tools python -m benchmarks.analysis --report  # what the journal holds

Both run by turns in one process, a fresh one for each model, on one thread, on untrained models in evaluation mode,
with one image. What counts is CPU time: the clock's on an idle machine, and not much more beside other programs:

* analysis: `fxprune.trace` and `find_groups`; `DependencyGraph().build_dependency` and `list(get_all_groups(...))`;
* pruning: from the model to the model with half of every group's channels, by L2 magnitude: trace, groups, scores, plan
  and `rewrite(inplace=True)`; `BasePruner(...)` and `step()`. Each run has a fresh copy, made outside the timed region;
* what a user calls: `fxprune.prune` with its proof and report; the peer as before, which proves nothing. And how many
  times as long it takes as `fxprune.prune(..., verify=False)`.

A model that one of the two cannot do within the limit, or whose pruned model does not run, is listed and left out of
the means. Each row goes to the journal at once; a run that was cut short goes on where it ended. Rows of other sources,
versions or settings are measured again.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.libraries import RATIO, Part, Row, examine, in_process
from benchmarks.sources import fingerprint
from fxprune.storage.json_lines import Lines

Settings = dict[str, Any]
TASKS = {
    "analysis": "trace + all groups",
    "pruning": f"model to pruned model at {RATIO}, L2, unproven",
    "default": f"prune(model, x, pruning_ratio={RATIO}) with its proof",
}


def settings(repeats: int, limit: int) -> Settings:
    """What rows must have in common to be compared."""
    packages = {p: version(p) for p in ("torch", "torchvision", "torch-pruning")}
    return {**packages, "fxprune": fingerprint(), "repeats": repeats, "limit": limit}


class Journal:
    """Rows in a file of JSON lines, each with its settings; those of other settings are passed over."""

    def __init__(self, path: Path, now: Settings) -> None:
        self._lines, self._now = Lines(path, _entry), now
        self.rows: dict[str, Row] = {row.model: row for then, row in self._lines.values if then == now}

    def add(self, row: Row) -> None:
        self._lines.append({"settings": self._now, "row": asdict(row)})
        self.rows[row.model] = row


def _entry(line: Any) -> tuple[Settings, Row]:
    row = line["row"]
    parts: dict[str, Any] = {task: Part(**row[task]) for task in TASKS if task in row}
    return line["settings"], Row(**{**row, **parts})


def measured(names: Sequence[str], repeats: int, limit: int, jobs: int) -> Iterator[Row]:
    """Each model's row, from a process of its own, so that memory is its own and a crash costs one row."""

    def one(name: str) -> Row:
        row, failure = in_process(lambda: examine(name, repeats, limit))
        return row or Row(name, failures={"both": failure})

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(one, name) for name in names]):
            yield done.result()


def counted(rows: Sequence[Row], task: str) -> list[tuple[float, str]]:
    """Ratio and name of all models that both libraries can do, the smallest first."""
    return sorted((r, row.model) for row in rows if (r := getattr(row, task).ratio))


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="fxprune against Torch-Pruning", header_style="bold")
    table.add_column("model", no_wrap=True)
    for task in TASKS:
        for column in ("fxprune ms", "peer ms", "ratio"):
            table.add_column(f"{task}\n{column}", justify="right", no_wrap=True)
    table.add_column("with proof /\nwithout", justify="right", no_wrap=True)
    for column in ("fxprune", "peer"):
        table.add_column(f"params left\n{column}", justify="right", no_wrap=True)
    table.add_column("notes")
    for row in rows:
        table.add_row(*_cells(row), style="yellow" if row.failures else "")
    console.print(table)


def _cells(row: Row) -> list[str]:
    timings = [c for part in (row.analysis, row.pruning, row.default) for c in _timings(part)]
    left = [f"{row.left[who]:.2f}" if who in row.left else "" for who in ("ours", "peer")]
    proof = f"{row.default.proof:.2f}" if row.default.proof else ""
    return [row.model, *timings, proof, *left, notes(row)]


def _timings(part: Part) -> list[str]:
    return [*(f"{1e3 * s:,.0f}" for s in part.medians), f"{part.ratio:.2f}"] if part.medians else ["", "", ""]


def notes(row: Row) -> str:
    names = {"ours": "fxprune fails: ", "peer": "peer fails: ", "both": ""}
    return "; ".join(names[who] + why for who, why in row.failures.items())


def summary(rows: Sequence[Row], now: Settings) -> str:
    """Machine facts and a Markdown block for the README."""
    versions = ", ".join(f"{p} {now[p]}" for p in ("torch", "torchvision", "torch-pruning"))
    how = f"CPU time on one thread, median of {now['repeats']} runs by turns in one process"
    failed = [row for row in rows if row.failures]
    lines = [
        f"Torch-Pruning's time divided by fxprune's. {how}; {versions}.",
        "",
        "| part | models | fxprune faster | geometric mean | smallest | median |",
        "|---|---|---|---|---|---|",
        *(_line(what, counted(rows, task)) for task, what in TASKS.items()),
        "",
        *(f"Smallest ratios, {what}: {_worst(counted(rows, task))}." for task, what in TASKS.items()),
    ]
    if failed:
        lines += ["", f"Left out, {len(failed)} of {len(rows)}:", *(f"- `{row.model}`: {notes(row)}" for row in failed)]
    return "\n".join(lines)


def _line(what: str, found: list[tuple[float, str]]) -> str:
    if not found:
        return f"| {what} | 0 | | | | |"
    ratios = [r for r, _ in found]
    faster = sum(r > 1 for r in ratios)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    share = f"{faster} ({100 * faster / len(ratios):.0f} %)"
    return f"| {what} | {len(ratios)} | {share} | {mean:.2f}x | {ratios[0]:.2f}x | {statistics.median(ratios):.2f}x |"


def _worst(found: list[tuple[float, str]]) -> str:
    return ", ".join(f"{name} {r:.2f}x" for r, name in found[:5])


def main(
    models: Annotated[list[str] | None, typer.Option(help="Name or shell pattern; repeatable. All if none.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; the median counts.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="CPU seconds for analysing and pruning a model once.")] = 60,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time; more than one blurs the times.")] = 1,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/bench-analysis.jsonl"),
    report: Annotated[bool, typer.Option(help="Measure nothing; show what the journal holds.")] = False,
) -> None:
    """Time fxprune's analysis and pruning against Torch-Pruning's, on torchvision's classification models."""
    names = torchvision.models.list_models(torchvision.models)
    chosen = [n for n in names if not models or any(fnmatchcase(n, p) for p in models)]
    if not chosen:
        raise typer.BadParameter(f"no torchvision classification model is called {models}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    now = settings(repeats, limit)
    book = Journal(journal, now)
    missing = [] if report else [n for n in chosen if n not in book.rows or "both" in book.rows[n].failures]
    rows = measured(missing, repeats, limit, jobs)
    for row in track(rows, description="benchmark", total=len(missing), console=Console(stderr=True)):
        book.add(row)
    found = [book.rows[n] for n in chosen if n in book.rows]
    console = Console()
    show(found, console if console.is_terminal else Console(width=170))
    console.print(summary(found, now), markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
