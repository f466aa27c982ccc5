"""The journal: one JSON line for each candidate, written when it is done, never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxprune.errors import InputError

Record = Mapping[str, Any]


class Journal:
    """A file of JSON lines that grows at its end and survives a kill at any moment.

    A last line without its end was being written when the process died; it is cut off.

    Args:
        path: of the file; it need not exist.

    Raises:
        InputError: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = self._read() if path.exists() else []

    def append(self, record: Record) -> None:
        """Add a line; when this returns, it is on disk."""
        with self.path.open("ab") as f:
            f.write(json.dumps(record).encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())
        self.records.append(record)

    def _read(self) -> list[Record]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as f:
                f.truncate(whole)
        return [self._parsed(i, line) for i, line in enumerate(data[:whole].splitlines(), 1)]

    def _parsed(self, number: int, line: bytes) -> Record:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("key"), str):
            raise InputError(
                "a damaged line of a journal",
                where=f"{self.path}:{number}",
                seen=repr(line[:60]),
                remedy="delete the line; its candidate will be tried again",
            )
        return record
