"""The latency table of a device: seconds of each op at each shape, kept on disk."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fxprune.costs.latency.calls import Operand, TimedCall
from fxprune.errors import InputError
from fxprune.storage.files import make_folder, write_whole

_VERSION = 1
_PAUSE = 10.0  # seconds between two writes


@dataclass(frozen=True)
class Setting:
    """What measured times hold for.

    Attributes:
        device: its name.
        pytorch: its version.
        threads: of one op.
        dtype: of the model's weights.
        memory: environment variables that tell how the process gets memory; "" for the system's own way.
    """

    device: str
    pytorch: str
    threads: int
    dtype: str
    memory: str = ""

    @classmethod
    def present(cls, device: torch.device, dtype: torch.dtype) -> Setting:
        """Of this process, for models on a device."""
        words = str(dtype).rpartition(".")[2], _memory()
        return cls(_device_name(device), torch.__version__, torch.get_num_threads(), *words)

    @property
    def file_name(self) -> str:
        words = f"{self.device} torch {self.pytorch} threads {self.threads} {self.dtype} {self.memory}"
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-") + ".json"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    found = re.search(r"model name\s*:\s*(.+)", _text(Path("/proc/cpuinfo")))
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def _memory() -> str:
    """The variables that glibc reads, and the names of libraries that are loaded first (other allocators)."""
    found = [f"{name} {value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    return " ".join([*found, *(Path(p).name for p in os.environ.get("LD_PRELOAD", "").split())])


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def default_folder() -> Path:
    """Where tables are kept: `fxprune/latency` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxprune" / "latency"


class LatencyTable:
    """Measured seconds by call and shape, in memory and on disk.

    Args:
        path: a file, or a directory, in which each setting has its file.
        setting: what the times hold for.

    Raises:
        InputError: the file is damaged, or holds times of another setting.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        if path.suffix != ".json" and path.is_file():
            remedy = "give a file that ends with .json, or a folder"
            raise InputError("the table's place is a file of another kind", seen=str(path), remedy=remedy)
        self.path = path if path.suffix == ".json" and not path.is_dir() else path / setting.file_name
        self.setting = setting
        self.samples: dict[str, list[float | None]] = {}
        if self.path.exists():
            self.samples = self._read()
        self.changed = False
        self._written = time.monotonic()

    def add(self, key: str, seconds: float | None) -> None:
        """Note a measurement; it is on disk within seconds, or when `save` is called."""
        self.samples.setdefault(key, []).append(seconds)
        self.changed = True
        if time.monotonic() - self._written > _PAUSE:
            self.save()

    def rounds(self, key: str) -> int:
        """How often a call was measured."""
        return len(self.samples.get(key, ()))

    def seconds(self, key: str) -> float | None:
        """The median of the measurements; None where the op refused its arguments.

        Not the minimum: a short call is lucky more often than a whole model, so minima would not add up.
        """
        found = [s for s in self.samples[key] if s is not None]
        return statistics.median(found) if found else None

    def save(self) -> None:
        """Write the file, with what other processes have measured since it was read."""
        make_folder(self.path.parent)
        for key, found in (self._read() if self.path.exists() else {}).items():
            if len(found) > self.rounds(key):
                self.samples[key] = found
        data = {"fxprune_latency": _VERSION, **asdict(self.setting), "samples": self.samples}
        write_whole(self.path, json.dumps(data).encode())
        self.changed = False
        self._written = time.monotonic()

    def _read(self) -> dict[str, list[float | None]]:
        try:
            data = json.loads(self.path.read_bytes())
            samples = {str(k): [None if s is None else _positive(s) for s in v] for k, v in data["samples"].items()}
            found = {name: data[name] for name in asdict(self.setting)}
            version = data["fxprune_latency"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            seen = f"{type(error).__name__}: {error}"[:80]
            raise InputError("a damaged latency table", where=str(self.path), seen=seen, remedy=_DELETE) from error
        if version != _VERSION or found != asdict(self.setting):
            seen = ", ".join(f"{k} {v}" for k, v in found.items() if v)
            remedy = f"{_DELETE}; or give a directory, in which each setting has its own file"
            raise InputError("a latency table of another setting", where=str(self.path), seen=seen, remedy=remedy)
        return samples


_DELETE = "delete the file; it will be measured again"


def _positive(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a time")
    return float(value)


def key_of(call: TimedCall, point: Sequence[int]) -> str:
    """A call at given widths, in words: equal keys take equal time."""
    args, kwargs = call.at(point)
    named = "".join(f", {name}={_words(value)}" for name, value in kwargs.items())
    return f"{call.op}{_words(args)[:-1]}{named})"


def _words(value: Any) -> str:
    if type(value) is tuple and len(value) == 2 and isinstance(value[0], Operand):
        operand, shape = value
        kind = ("w" if operand.is_weight else "") + ("l" if operand.channels_last else "")
        turns = "".join(f".{op._opname}{_words(args)}" for op, args in operand.turns)
        return f"{str(operand.dtype)[6:]}{kind}[{'x'.join(map(str, shape))}]{turns}"
    if type(value) in (list, tuple):
        return f"({', '.join(map(_words, value))})"
    return str(value)
