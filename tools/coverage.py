"""Prune every model of a suite at one ratio and check what comes out.

python tools/coverage.py                         # all 121 models of torchvision, table at the end
python tools/coverage.py 'resnet*' vit_b_16 --ratio 0.3 --json coverage.json
python tools/coverage.py --export 120            # torch.export as well, up to 120 s a model
python tools/coverage.py --suite timm --limit 300 --json coverage-timm.json

With --json, models that the file has from the same code, package and options are not run again; with --keep neither are
those that passed with other code.
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
from dataclasses import dataclass
from fnmatch import fnmatchcase
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmarks.sources import fingerprint
from coverage_checks import Options, Row, examine, failures, passed
from coverage_table import show, summary
from rich.console import Console
from rich.progress import track
from suites import Name, Suite, suite, version

from fxprune.storage.files import write_whole


class _Job:
    """A model's row, made in a fresh process."""

    def __init__(self, name: str, options: Options, threads: int) -> None:
        self.name, self._start = name, time.monotonic()
        context: Any = get_context("fork")
        self.answer, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(sender, name, options, threads))
        self._process.start()
        sender.close()  # the child's is the only one left: the pipe ends when the child does

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def row(self) -> Row:
        """What the process has sent, or how it ended."""
        try:
            return self.answer.recv()  # type: ignore[no-any-return]
        except EOFError:
            self._process.join()
            return self.failed(_ending(self._process.exitcode))

    def failed(self, error: str) -> Row:
        return {"model": self.name, "error": error, "seconds": self.seconds()}

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


def _rows(chosen: list[str], options: Options, jobs: _Jobs) -> Iterator[Row]:
    """A fresh process for each model, so that memory is its own and a crash costs one row."""
    left, running = deque(chosen), dict[Any, _Job]()
    try:
        while left or running:
            while left and len(running) < jobs.number:
                job = _Job(left.popleft(), options, jobs.threads)
                running[job.answer] = job
            answered = wait(list(running), timeout=1)
            for answer, job in list(running.items()):
                late = job.seconds() > jobs.limit_s
                if answer in answered or late:
                    row = job.row() if answer in answered else job.failed(f"no answer within {jobs.limit_s} s")
                    running.pop(answer).end()
                    yield row
    finally:
        for job in running.values():
            job.end()


@dataclass(frozen=True)
class _Jobs:
    """How many processes run at a time, each with so many threads and so many seconds."""

    number: int
    threads: int
    limit_s: int


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
    of: Annotated[Name, typer.Option("--suite", help="The package whose models are tried.")] = Name.torchvision,
    ratio: Annotated[float, typer.Option(help="Pruning ratio of every group.")] = 0.5,
    export: Annotated[int, typer.Option(min=0, help="Seconds that torch.export may take; 0: no export.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Seconds that one model may take.")] = 900,
    out: Annotated[Path | None, typer.Option("--json", help="Keep all rows in this file.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep rows that passed with other code of fxprune.")] = False,
) -> None:
    """Prune every model of a suite and check what comes out.

    Forward, a batch of 3, another image size, training, shapes, the cost model, pruned against masked while normed
    streams stay, a state_dict loaded into a freshly rewritten model, copy.deepcopy, and torch.export.
    """
    found = suite(of.value)
    chosen = [n for n in found.names() if not patterns or any(fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no model of {of.value} is called {patterns}")
    run = {"suite": of.value, "ratio": ratio, "export": export, "package": version(found), "fxprune": fingerprint()}
    known = _known(out)
    others = [row for row in known if row["model"] not in chosen]
    rows = [row for row in known if row["model"] in chosen and _still_holds(row, run, keep)]
    left = [name for name in chosen if name not in {row["model"] for row in rows}]
    work = _rows(left, Options(of.value, ratio, export), _Jobs(jobs, threads, limit))
    for row in track(work, total=len(left), description="coverage", console=Console(stderr=True)):
        rows.append({"family": _family(found, row["model"]), **row, "run": run})
        if out:
            in_order = sorted([*others, *rows], key=lambda r: r["model"])
            write_whole(out, json.dumps(in_order, indent=1).encode())
    _print(rows, of.value)
    raise typer.Exit(1 if any("skipped" not in r and not passed(r) for r in rows) else 0)


def _still_holds(row: Row, run: dict[str, Any], keep: bool) -> bool:
    """Whether a row of an earlier run is of the same code, package and options; with `keep`, of other code."""
    earlier = row.get("run", {})
    return earlier == run or (keep and passed(row) and earlier | {"fxprune": run["fxprune"]} == run)


def _family(found: Suite, name: str) -> str:
    """The kind of a model whose process has not said it."""
    try:
        return found.case(name).family
    except Exception:
        return ""


def _print(rows: list[Row], name: str) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows = sorted(rows, key=lambda r: (r["family"], r["model"]))
    show(rows, name, console)
    for r in rows:
        if "skipped" in r:
            console.print(f"[yellow]{r['model']}[/]: {r['skipped']}")
        elif not passed(r):
            console.print(f"[red]{r['model']}[/]: {r.get('error', failures(r))}")
    console.print(summary(rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
