"""JSON lines: a file that grows at its end, a line for each thing that is done, and survives a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from fxprune.errors import InputError
from fxprune.storage.files import accessing

T = TypeVar("T")


class Lines(Generic[T]):
    """Values in a file of JSON lines, which are never changed.

    A last line without its end was being written when the process died; it is cut off, in the file too.

    Args:
        path: of the file; neither it nor its folder need exist.
        parse: a line's JSON data to a value; raises ValueError, TypeError or KeyError where it is none.

    Attributes:
        path: of the file.
        values: of all lines, in their order.

    Raises:
        InputError: another line is damaged.
        StorageError: the system does not let the file be read or written.
    """

    def __init__(self, path: Path, parse: Callable[[Any], T]) -> None:
        self.path, self._parse = path, parse
        self.values: list[T] = self._read() if path.exists() else []

    def append(self, record: Any) -> None:
        """Add a line; when this returns, it is on disk. Processes that append at the same time lose nothing."""
        line = json.dumps(record).encode() + b"\n"
        with accessing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as f:
                self._write(f, line)
        self.values.append(self._parse(json.loads(line)))

    @staticmethod
    def _write(file: IO[bytes], line: bytes) -> None:
        before = file.tell()
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # a part of a line would be taken for the beginning of the next one
                os.ftruncate(file.fileno(), before)
            raise

    def _read(self) -> list[T]:
        with accessing(self.path):
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                with self.path.open("r+b") as f:
                    f.truncate(whole)
        return [self._parsed(i, line) for i, line in enumerate(data[:whole].splitlines(), 1)]

    def _parsed(self, number: int, line: bytes) -> T:
        try:
            return self._parse(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                "a damaged line of a journal",
                where=f"{self.path}:{number}",
                seen=repr(line[:60]),
                remedy="delete the line; what it tells will be done again",
            ) from error
