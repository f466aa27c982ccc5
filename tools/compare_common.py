"""What the programs that compare share: a journal of what was measured, names by pattern, a bar, a fixed sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

P = TypeVar("P")
M = TypeVar("M")


class JournalError(Exception):
    """A journal that cannot be read."""


class Journal(Generic[P, M]):
    """Measured points in a file of JSON lines; a last line that a crash has cut off is dropped.

    Args:
        path: of the file, which need not exist.
        point: frozen dataclass of what is measured once.
        measured: frozen dataclass of what came out.

    Raises:
        JournalError: a line that is no such point.
    """

    def __init__(self, path: Path, point: type[P], measured: type[M]) -> None:
        self.path = path
        self.rows: dict[P, M] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self.rows[point(**row["point"])] = measured(**row["measured"])
            except (ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise JournalError(f"{path}, line {number}, is no point of a comparison: {error}") from error
                path.write_text("".join(f"{good}\n" for good in lines[:-1]))

    def add(self, point: P, measured: M) -> None:
        """Append a point, so that another run that writes to the file at the same time loses nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows[point] = measured
        with self.path.open("a") as file:
            file.write(json.dumps({"point": _plain(point), "measured": _plain(measured)}) + "\n")


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
