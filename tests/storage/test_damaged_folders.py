"""Damaged and unusable folders give fxprune's errors, and a disk that is full costs nothing that was written before."""

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import StorageError
from fxprune.search.folder import Folder
from fxprune.storage.files import claim, write_whole
from fxprune.storage.json_lines import Lines

SETTINGS = {"seed": 0}


def opened(path: Path) -> None:
    Folder(path, SETTINGS).close()


def replaced_by_directory(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def written(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def replaced_by_file(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).rmdir()
        (folder / name).write_text("")

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "lock": (replaced_by_directory("lock"), r"cannot be read or written in .*lock; seen: IsADirectoryError"),
    "settings": (replaced_by_directory("settings.json"), r"cannot be read or written in .*settings\.json; .*move what"),
    "journal": (replaced_by_directory("journal.jsonl"), r"cannot be read or written in .*journal\.jsonl; seen: IsADir"),
    "samples": (replaced_by_file("samples"), r"cannot be read or written in .*samples; seen: FileExistsError.*another"),
    "deep settings": (written("settings.json", "[" * 100_000), r"a damaged file of settings in .*; seen: RecursionErr"),
    "empty settings": (written("settings.json", ""), r"a damaged file of settings in .*settings\.json; .*delete this"),
    "no settings": (written("settings.json", "7"), r"a damaged file of settings in .*settings\.json; seen: 7; remedy"),
    "deep journal": (written("journal.jsonl", "[" * 100_000 + "\n"), r"a damaged line of a journal in .*jsonl:1"),
    "other": (written("settings.json", '{"seed": 1}'), r"is of another run in .*; seen: seed was 1, now 0; remedy"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folders(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    opened(tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(fxprune.FxpruneError, match=message):
        opened(tmp_path / "run")


def test_a_sample_file_that_is_empty(tmp_path: Path) -> None:
    opened(tmp_path)
    line = {"key": "a", "fitness": 1.0, "seed": 0, "seconds": 1.0, "samples": True}
    (tmp_path / "journal.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "samples" / "a.npy").write_bytes(b"")
    with pytest.raises(fxprune.InputError, match=r"a damaged journal in .*; seen: EOFError"):
        opened(tmp_path)


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", failing(errno.EROFS))
    with pytest.raises(StorageError, match=r"Read-only file system; remedy: give a folder that can be written to"):
        opened(tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.mkstemp", failing(errno.EROFS))
    with pytest.raises(StorageError, match=r"in .*settings\.json; seen: OSError: Read-only"):
        claim(tmp_path / "settings.json", SETTINGS)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before stays, and goes on to be written where there is space again."""
    path = tmp_path / "journal.jsonl"
    lines: Lines[dict[str, int]] = Lines(path, dict)
    lines.append({"a": 1})
    write_whole(tmp_path / "whole", b"before")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"in .*journal\.jsonl; seen: .*No space left on device; remedy: free some"):
        lines.append({"b": 2})
    with pytest.raises(OSError, match=r"in .*whole; seen: .*No space left on device"):
        write_whole(tmp_path / "whole", b"after")
    monkeypatch.undo()
    lines.append({"c": 3})
    assert Lines(path, dict).values == lines.values == [{"a": 1}, {"c": 3}]
    assert (tmp_path / "whole").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.jsonl", "whole"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_regular_file_is_written_into(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout are, which became regular files."""
    pipe, link, read = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
        reader.start()
        write_whole(path, b"whole")
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        reader.join(60)
    assert read == [b"whole", b"whole"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]


def test_every_flipped_byte_of_a_pruned_file_is_noticed(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    fxprune.prune(net, torch.zeros(1, 4), 0.5).save(tmp_path / "small.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "small.safetensors").write_bytes(damaged)
        with pytest.raises(fxprune.FxpruneError):
            fxprune.load(tmp_path / "small.safetensors", net)


FOREIGN = [".thesis.tmp", "plan.json", "best.safetensors", "checkpoints/.mine.tmp", "samples/a.npy", "journal.jsonl"]


@pytest.mark.parametrize("names", [FOREIGN, [".thesis.tmp"], ["samples/mine"], ["lock"], [".settings.json.tmp"]])
def test_a_folder_of_someone_else_is_left_alone(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(fxprune.InputError, match=r"holds files of no search in .*; seen: .*; remedy: give an empty"):
        opened(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert {(tmp_path / name).read_text() for name in names} == {"precious"}


def test_other_settings_of_someone_else_are_left_alone(tmp_path: Path) -> None:
    for name in ("settings.json", ".settings.json.abcdefgh.tmp"):
        (tmp_path / name).write_text('{"theme": "dark"}')
    with pytest.raises(fxprune.InputError, match="is of another run"):
        opened(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json", ".settings.json.abcdefgh.tmp", "lock"}


def test_only_what_a_search_had_begun_to_write_is_deleted(tmp_path: Path) -> None:
    """A search that was killed before its settings stood goes on as well."""
    for name in ("lock", ".settings.json.a1b2c3_4.tmp"):
        (tmp_path / name).touch()
    opened(tmp_path)
    begun = ["plan.json", "best.safetensors", "samples/a.npy", "checkpoints/a.safetensors"]
    ours = [path.with_name(f".{path.name}.a1b2c3_4.tmp") for path in (tmp_path / name for name in begun)]
    others = [tmp_path / ".thesis.tmp", tmp_path / ".plan.json.tmp", tmp_path / "samples" / ".a.txt.a1b2c3_4.tmp"]
    for path in (*ours, *others):
        path.touch()
    opened(tmp_path)
    assert [p for p in ours if p.exists()] == []
    assert [p for p in others if not p.exists()] == []
