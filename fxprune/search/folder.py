"""The directory of a search, from which a killed search goes on when it is started again.

settings.json             the search's settings; a search with others is refused
journal.jsonl             every candidate that was evaluated: code, cost, fitness, seed, seconds
samples/KEY.npy           the value of each sample, if `evaluate` returned them
checkpoints/KEY.safetensors   candidates that may still win; one is written before its line of the journal
best.safetensors          the best so far, with its plan: `fxprune.search.restore(model, path)`
plan.json                 the plan of the best so far; of the winner, when the search is done
lock                      an empty file, held while a process searches here
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import nn

from fxprune.errors import InputError
from fxprune.plan.plan import Plan
from fxprune.search import checkpoint
from fxprune.search.trial import Candidate, Floats, Outcome
from fxprune.storage.files import accessing, checked_path, claim, leftovers, remove_leftovers, write_whole
from fxprune.storage.json_lines import Lines

try:
    import fcntl
except ImportError:  # Windows; two searches in one directory are then not noticed
    fcntl = None  # type: ignore[assignment]


_SETTINGS = "settings.json"
_WRITTEN = {  # whole or not at all, by folder
    ".": (_SETTINGS, "plan.json", "best.safetensors"),
    "samples": ("*.npy",),
    "checkpoints": ("*.safetensors",),
}


class Folder:
    """A search's directory, made or opened, held until `close`.

    Args:
        path: of the directory.
        settings: what identifies this search, as plain JSON data.
        resume: `evaluate` and `tune` may have other names or code than before.

    Attributes:
        outcomes: the outcomes in the journal when it was opened, by key.

    Raises:
        InputError: the directory is of another search, in use, damaged, or holds files of someone else.
        StorageError: the system does not let it be read or written, then or later.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any], resume: bool = False) -> None:
        self.path = checked_path(path)
        with accessing(self.path):
            if self.path.exists() and not self.path.is_dir():
                remedy = "give a directory, or a new name"
                raise InputError("the search's folder is a file", where=str(path), remedy=remedy)
            self.path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
            self._lock = _locked(self.path / "lock")
        try:
            claim(self.path / _SETTINGS, settings, ("evaluate", "tune"), resume)
            with accessing(self.path):
                for part, names in _WRITTEN.items():
                    (self.path / part).mkdir(exist_ok=True)
                    remove_leftovers(self.path / part, *names)
            self._journal = Lines(self.path / "journal.jsonl", _record)
            self.outcomes = self._outcomes()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the directory."""
        self._lock.close()

    def _outcomes(self) -> dict[str, Outcome]:
        try:
            return {r["key"]: self._outcome(r) for r in self._journal.values}
        except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
            remedy = "delete the directory to start over"
            raise InputError("a damaged journal", where=str(self.path), seen=repr(error), remedy=remedy) from error

    def add(self, candidate: Candidate, outcome: Outcome, model: nn.Module | None, facts: Mapping[str, Any]) -> None:
        """Write a candidate that was evaluated: first its checkpoint and samples, then its line of the journal."""
        if model is not None:
            checkpoint.save(self.checkpoint(outcome.key), model, candidate.plan)
        if outcome.samples is not None:
            buffer = io.BytesIO()
            np.save(buffer, outcome.samples)
            write_whole(self.path / "samples" / f"{outcome.key}.npy", buffer.getvalue())
        code = list(candidate.plan.kept_counts().values())
        record = {"key": outcome.key, "code": code, "repeat": candidate.repeat, "tuned": candidate.tuned}
        record |= {"base": candidate.base} if candidate.base else {}
        result = {"fitness": outcome.fitness, "seed": outcome.seed, "seconds": round(outcome.seconds, 3)}
        self._journal.append({**record, **facts, **result, "samples": outcome.samples is not None})

    def checkpoint(self, key: str) -> Path:
        """Where a candidate's weights are, if they are kept."""
        return self.path / "checkpoints" / f"{key}.safetensors"

    def drop(self, keys: Iterable[str]) -> None:
        """Delete the checkpoints of candidates that cannot win any more."""
        with accessing(self.path):
            for key in keys:
                self.checkpoint(key).unlink(missing_ok=True)

    def best(self) -> Path | None:
        """The checkpoint of the best so far; None before there is one."""
        path = self.path / "best.safetensors"
        return path if path.exists() else None

    def put_best(self, model: nn.Module, plan: Plan) -> None:
        """Make a model the best so far."""
        checkpoint.save(self.path / "best.safetensors", model, plan)
        plan.save(self.path / "plan.json")

    def _outcome(self, record: Mapping[str, Any]) -> Outcome:
        path = self.path / "samples" / f"{record['key']}.npy"
        samples: Floats | None = np.load(path, allow_pickle=False) if record["samples"] else None
        return Outcome(record["key"], float(record["fitness"]), samples, record["seed"], record["seconds"])


def _record(line: Any) -> Mapping[str, Any]:
    """A line of the journal, if it names its candidate."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str):
        raise ValueError("no key")
    return line


def _refuse_foreign(path: Path) -> None:
    """Refuse a directory of no search that is not empty: its files would be replaced, or taken for a search's.

    The first that a search writes are its lock and its settings, so that one that was killed before goes on.

    Raises:
        InputError: it holds something.
    """
    if (path / _SETTINGS).exists():
        return
    begun = {path / "lock", *leftovers(path, _SETTINGS)}
    others = sorted(p.name for p in path.iterdir() if p not in begun or (p.name == "lock" and p.stat().st_size))
    if others:
        seen = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
        remedy = "give an empty directory, or a new name"
        raise InputError("the search's folder holds files of no search", where=str(path), seen=seen, remedy=remedy)


def _locked(path: Path) -> IO[bytes]:
    """Hold a file so that no second search does; the system lets go of it when this process ends, however it does."""
    file = path.open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            remedy = "wait for it, or give another directory"
            raise InputError("another search is running here", where=str(path.parent), remedy=remedy) from error
    return file
