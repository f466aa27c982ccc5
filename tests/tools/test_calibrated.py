"""The benchmark of pruning on data runs, and tells time and memory."""

import re

import pytest
import typer
from benchmarks import calibrated
from typer.testing import CliRunner


@pytest.mark.slow
def test_from_the_command_line() -> None:
    pytest.importorskip("skimage", reason="pip install fxprune[field]")
    app = typer.Typer()
    app.command()(calibrated.main)
    arguments = "mobilenet_v3_small --images 4 --size 32 --batch 2 --threads 1".split()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"\d+ s by the clock", result.output)
    assert re.search(r"peak memory \d+\.\d GB, \d+\.\d GB beyond", result.output)
    assert "layers repaired on the data" in result.output
    result = CliRunner().invoke(app, [*arguments, "--scores"])
    assert result.exit_code == 0, result.output
    assert "1 threads, scores" in result.output
