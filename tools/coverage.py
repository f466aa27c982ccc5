"""Prune every torchvision model at one ratio and check what comes out.

python tools/coverage.py                         # all 121 models, table at the end
python tools/coverage.py 'resnet*' vit_b_16 --ratio 0.3 --json coverage.json
python tools/coverage.py --export 120            # torch.export as well, up to 120 s a model

With --json, models that the file has from the same code and options are not run again.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import torch
import torchvision_models as tv
import typer
from coverage_checks import Options, Row, examine, failures, passed
from coverage_table import show, summary
from rich.console import Console
from rich.progress import track
from sources import fingerprint


def _child(job: tuple[str, Options, int]) -> Row:
    name, options, threads = job
    torch.set_num_threads(threads)
    os.nice(5)
    return examine(name, options) | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _rows(chosen: list[str], options: Options, jobs: int, threads: int) -> Iterator[Row]:
    """A fresh process for each model, so that memory is its own and a crash costs one row."""
    with get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        work = [(name, options, threads) for name in chosen]
        yield from pool.imap_unordered(_child, work, chunksize=1)


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="Model names or shell patterns; all if none.")] = None,
    ratio: Annotated[float, typer.Option(help="Pruning ratio of every group.")] = 0.5,
    export: Annotated[int, typer.Option(help="Seconds that torch.export may take for a model; 0: no export.")] = 0,
    jobs: Annotated[int, typer.Option(help="Models at a time.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Keep all rows in this file.")] = None,
) -> None:
    """Prune every torchvision model and check what comes out.

    Forward, a batch of 3, another image size, training, shapes, the cost model, pruned against masked while normed
    streams stay, a state_dict loaded into a freshly rewritten model, copy.deepcopy, and torch.export.
    """
    chosen = [n for n in tv.names() if not patterns or any(fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no torchvision model is called {patterns}")
    console = Console(width=None if sys.stdout.isatty() else 130)
    run = {"ratio": ratio, "export": export, "fxprune": fingerprint()}
    kept: list[Row] = json.loads(out.read_text()) if out and out.exists() else []
    rows = [row for row in kept if row["model"] in chosen and row.get("run") == run]
    left = [name for name in chosen if name not in {row["model"] for row in rows}]
    work = _rows(left, Options(ratio, export), jobs, threads)
    for row in track(work, total=len(left), description="coverage", console=Console(stderr=True)):
        rows.append(row | {"run": run})
        if out:
            out.write_text(json.dumps(rows, indent=1))
    rows.sort(key=lambda r: (r["family"], r["model"]))
    show(rows, console)
    for r in rows:
        if not passed(r):
            console.print(f"[red]{r['model']}[/]: {r.get('error', failures(r))}")
    console.print(summary(rows), markup=False, soft_wrap=True)
    raise typer.Exit(0 if all(map(passed, rows)) else 1)


if __name__ == "__main__":
    typer.run(main)
