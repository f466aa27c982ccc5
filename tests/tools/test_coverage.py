"""The coverage program: one process a model, whose death costs one row, and a file that is whole or not there."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import coverage
import pytest
import typer
from coverage_checks import Options
from typer.testing import CliRunner

RUN = CliRunner()
NAMES = ["alexnet", "resnet18", "resnet34", "vgg11"]


def row(name: str, options: Options) -> Any:
    """In place of the examination: one model's process is killed, one ends, and one says a lot."""
    if name == "resnet18":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "resnet34":
        os._exit(3)
    long = "x" * 10**6 if name == "vgg11" else ""
    return {"model": name, "family": "convolutional", "error": "", "seconds": 0.0, "long": long}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr(coverage, "examine", row)
    app = typer.Typer()
    app.command()(coverage.main)
    return app


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_killed_process_costs_one_row(jobs: int, tmp_path: Path, app: typer.Typer) -> None:
    out = tmp_path / "rows.json"
    found = RUN.invoke(app, [*NAMES, "--jobs", str(jobs), "--json", str(out)])
    assert found.exit_code == 1, found.output
    rows = {r["model"]: r for r in json.loads(out.read_text())}
    assert sorted(rows) == NAMES
    assert rows["resnet18"]["error"] == "the process was killed by SIGKILL before it had an answer"
    assert rows["resnet34"]["error"] == "the process ended with exit status 3 before it had an answer"
    assert (len(rows["alexnet"]["long"]), len(rows["vgg11"]["long"])) == (0, 10**6)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]


def test_known_rows_are_not_made_again(tmp_path: Path, app: typer.Typer) -> None:
    out = tmp_path / "rows.json"
    RUN.invoke(app, ["alexnet", "--json", str(out)])
    before = out.stat().st_mtime_ns
    RUN.invoke(app, ["alexnet", "--json", str(out)])
    assert out.stat().st_mtime_ns == before


def test_rows_are_written_whole(tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is interrupted leaves the file as it was."""
    out = tmp_path / "rows.json"
    RUN.invoke(app, ["alexnet", "--json", str(out)])
    before = out.read_text()

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    RUN.invoke(app, ["alexnet", "vgg11", "--json", str(out)])
    assert out.read_text() == before


@pytest.mark.parametrize(("option", "value"), [("--jobs", 0), ("--threads", 0), ("--export", -1)])
def test_options_out_of_range(option: str, value: int, app: typer.Typer) -> None:
    found = RUN.invoke(app, ["alexnet", option, str(value)])
    assert found.exit_code == 2
    assert option in found.output


def test_a_file_of_something_else(tmp_path: Path, app: typer.Typer) -> None:
    (tmp_path / "rows.json").write_text("[{")
    found = RUN.invoke(app, ["alexnet", "--json", str(tmp_path / "rows.json")])
    assert found.exit_code == 2
    assert "holds no rows of an earlier run" in " ".join(found.output.replace("│", "").split())
