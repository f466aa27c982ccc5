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
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision_models as tv
import typer
from benchmarks.sources import fingerprint
from coverage_checks import Options, Row, examine, failures, passed
from coverage_table import show, summary
from rich.console import Console
from rich.progress import track

from fxprune.storage.files import write_whole


class _Job:
    """A model's row, made in a fresh process."""

    def __init__(self, name: str, options: Options, threads: int) -> None:
        self.name, self._start = name, time.perf_counter()
        context: Any = get_context("fork")
        self.answer, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(sender, name, options, threads))
        self._process.start()
        sender.close()  # the child's is the only one left: the pipe ends when the child does

    def row(self) -> Row:
        """What the process has sent, or how it ended."""
        try:
            return self.answer.recv()  # type: ignore[no-any-return]
        except EOFError:
            self._process.join()
            seconds = time.perf_counter() - self._start
            error = _ending(self._process.exitcode)
            return {"model": self.name, "family": tv.family(self.name), "error": error, "seconds": seconds}

    def end(self) -> None:
        self.answer.close()
        self._process.kill()
        self._process.join()


def _work(sender: Connection, name: str, options: Options, threads: int) -> None:
    torch.set_num_threads(threads)
    os.nice(5)
    row = examine(name, options)
    sender.send(row | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})


def _ending(code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"the process {how} before it had an answer"


def _rows(chosen: list[str], options: Options, jobs: int, threads: int) -> Iterator[Row]:
    """A fresh process for each model, so that memory is its own and a crash costs one row."""
    left, running = deque(chosen), dict[Any, _Job]()
    try:
        while left or running:
            while left and len(running) < jobs:
                job = _Job(left.popleft(), options, threads)
                running[job.answer] = job
            for answer in wait(list(running)):
                job = running[answer]
                row = job.row()
                running.pop(answer).end()
                yield row
    finally:
        for job in running.values():
            job.end()


def _known(out: Path | None) -> list[Row]:
    """The rows of an earlier run."""
    if out is None or not out.exists():
        return []
    try:
        return json.loads(out.read_text())  # type: ignore[no-any-return]
    except ValueError as error:
        raise typer.BadParameter(f"{out} holds no rows of an earlier run; delete it or give another name") from error


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="Model names or shell patterns; all if none.")] = None,
    ratio: Annotated[float, typer.Option(help="Pruning ratio of every group.")] = 0.5,
    export: Annotated[int, typer.Option(min=0, help="Seconds that torch.export may take; 0: no export.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 1,
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
    rows = [row for row in _known(out) if row["model"] in chosen and row.get("run") == run]
    left = [name for name in chosen if name not in {row["model"] for row in rows}]
    work = _rows(left, Options(ratio, export), jobs, threads)
    for row in track(work, total=len(left), description="coverage", console=Console(stderr=True)):
        rows.append(row | {"run": run})
        if out:
            write_whole(out, json.dumps(rows, indent=1).encode())
    rows.sort(key=lambda r: (r["family"], r["model"]))
    show(rows, console)
    for r in rows:
        if not passed(r):
            console.print(f"[red]{r['model']}[/]: {r.get('error', failures(r))}")
    console.print(summary(rows), markup=False, soft_wrap=True)
    raise typer.Exit(0 if all(map(passed, rows)) else 1)


if __name__ == "__main__":
    typer.run(main)
