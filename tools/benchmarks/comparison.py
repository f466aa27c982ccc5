"""What the programs that compare share: a journal of what was measured, names by pattern, a bar, a fixed sample."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

import fxprune
from fxprune.storage.json_lines import Lines

P = TypeVar("P")
M = TypeVar("M")


class Journal(Generic[P, M]):
    """Measured points in a file of JSON lines.

    Args:
        path: of the file, which need not exist.
        point: frozen dataclass of what is measured once.
        measured: frozen dataclass of what came out.

    Raises:
        fxprune.InputError: a line that is not such a point.
    """

    def __init__(self, path: Path, point: type[P], measured: type[M]) -> None:
        self.path = path
        self._lines = Lines(path, lambda line: (point(**line["point"]), measured(**line["measured"])))
        self.rows: dict[P, M] = dict(self._lines.values)

    def add(self, point: P, measured: M) -> None:
        """Append a point."""
        self._lines.append({"point": _plain(point), "measured": _plain(measured)})
        self.rows[point] = measured


def _plain(value: Any) -> dict[str, Any]:
    return asdict(value)


def chosen(patterns: Sequence[str] | None, names: Iterable[str], what: str) -> list[str]:
    """The names that fit a shell pattern, all if there is none.

    Raises:
        typer.BadParameter: a pattern that fits no name.
    """
    names = list(names)
    found = [n for n in names if not patterns or any(fnmatchcase(n, p) for p in patterns)]
    for pattern in patterns or ():
        if not any(fnmatchcase(n, pattern) for n in found):
            raise typer.BadParameter(f"no {what} is called {pattern!r}; there are {', '.join(names)}")
    return found


def some(split: Any, count: int) -> Any:
    """At most `count` samples of a split, drawn once and for all."""
    return split.part(torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count])


def part_of_latency(model: nn.Module, small: nn.Module, inputs: Tensor) -> float:
    """The time of a pruned model's forward on the CPU as a part of the original's: the median of forwards by turns."""
    both = [copy.deepcopy(m).cpu() for m in (model, small)]
    whole, pruned = fxprune.latency.by_turns(both, inputs.cpu(), TURNS)
    return median(p / w for p, w in zip(pruned, whole, strict=True))


TURNS = 15


def bar(console: Console) -> Progress:
    """A progress bar with counts and times."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
