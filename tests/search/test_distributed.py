"""The same program in one process and in two, which a real launcher starts: same plans, same accuracy, one model.

In the default run accelerate forks a process that has imported all that they need; the slow tests run its command.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launched
import pytest
from processes import python
from search_toys import undisturbed
from typer.testing import CliRunner

import fxprune
from zoo.__main__ import app
from zoo.checkpoints import load
from zoo.errors import ZooError
from zoo.processes import Alone, Launched, present

NOISE = 0.03
"""Accuracy on 360 images: eleven of them; batch norm sees half a batch in each of two processes."""


FORKS = """
import sys
from pathlib import Path
import launched
import torch._dynamo  # as optimizers do; here once for both forks
from accelerate import debug_launcher
debug_launcher(launched.forked, (Path(sys.argv[1]), sys.argv[2:]), num_processes=2)
"""


def fork(folder: Path, *parts: str) -> None:
    """Two processes on the CPU, which accelerate forks; until both are done."""
    done = python(FORKS, folder, *parts, folder=folder)
    assert done.returncode == 0, done.stderr


def launch(folder: Path, *parts: str) -> None:
    """Two processes as `accelerate launch` starts them; until both are done."""
    assert start(folder, *parts).wait(300) == 0, (folder / "log").read_text()


def start(folder: Path, *parts: str) -> "subprocess.Popen[bytes]":
    """Two processes on the CPU, under accelerate's launcher, on a free port."""
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    quiet = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *quiet, launched.__file__, str(folder)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, *parts], env=surroundings, stdout=log, stderr=subprocess.STDOUT)


def told(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    return first, second


def in_one(folder: Path, *parts: str) -> dict[str, Any]:
    (folder / "alone").mkdir()
    return {name: launched.PARTS[name](folder / "alone") for name in parts}


@pytest.mark.parametrize("run", [fork, pytest.param(launch, marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(run: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    run(tmp_path, "gradients", "resumed", "adversarial", "errors", "searches", "gradual", "digits")
    alone = in_one(tmp_path, "gradients", "searches", "digits")
    first, second = told(tmp_path)
    _same_gradients(first["gradients"], second["gradients"], alone["gradients"])
    _picked_up(first["resumed"], second["resumed"], tmp_path)
    assert first["adversarial"] == second["adversarial"]
    _known_to_all(first["errors"], second["errors"])
    _refused_in_both(*(part["searches"].pop("refused") for part in (first, second)))
    del alone["searches"]["refused"]
    _one_search("searches", first, second, alone, tmp_path)
    _shrunk_together(first["gradual"], second["gradual"])
    _same_plan_and_accuracy(first["digits"], second["digits"], alone["digits"], tmp_path)


@pytest.mark.slow
def test_progressive_search_in_two_processes_is_that_in_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    launch(tmp_path, "progressive")
    alone = in_one(tmp_path, "progressive")
    first, second = told(tmp_path)
    _one_search("progressive", first, second, alone, tmp_path)


def _same_gradients(first: Any, second: Any, alone: Any) -> None:
    """Without batch norm nothing differs but rounding."""
    assert first == second
    assert first["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert first["untouched"]


def _picked_up(first: Any, second: Any, folder: Path) -> None:
    assert first == second
    assert first["again"] == first["whole"] != first["left"]
    assert first["epochs"] == 3
    assert (folder / "0.state").exists()
    assert not (folder / "1.state").exists()


def _shrunk_together(first: Any, second: Any) -> None:
    """The main process decides; its error is its own, and the others are told."""
    failures = first.pop("failure"), second.pop("failure")
    assert first == second
    assert first["cuts"] == [True, False, True]
    assert failures[0] == "RuntimeError: no scores today"
    assert failures[1] == "FxpruneError: the cut failed in the main process; seen: no scores today"


def _known_to_all(first: list[str], second: list[str]) -> None:
    wanted = ["not a whole training state", "the loss became nan", "a batch of 1 cannot be shared by 2", "not meta"]
    for seen, other, text in zip(first, second, wanted, strict=True):
        assert text in seen
        assert other.removeprefix("the main process failed: ") == seen


def _one_search(part: str, first: Any, second: Any, alone: Any, folder: Path) -> None:
    """Of the main process, with the candidates tried in both."""
    assert first[part] == second[part] == alone[part]
    for name in launched.TOYS[part]:
        told = first[part][name]
        assert told["counts"] == undisturbed(name).plan.kept_counts()
        assert told["asked"] > told["steps"]
        assert told["again"] == [True] * 3
        assert told["asked again"] == 0
    assert not (folder / f"{part} 1").exists()


def _refused_in_both(first: str, second: str) -> None:
    """Another search in the folder of one."""
    assert first.startswith("InputError: the directory is of another run")
    assert second.startswith("FxpruneError: the search failed in the main process; seen: the directory is of")


def _same_plan_and_accuracy(first: Any, second: Any, alone: Any, folder: Path) -> None:
    """The tolerance is such that no decision of the search is a near one."""
    assert first == second
    assert first["plan"] == alone["plan"]
    assert [p[::2] for p in first["history"]] == [p[::2] for p in alone["history"]] == [[0.5, True], [0.25, False]]
    assert first["accuracies"] == pytest.approx(alone["accuracies"], abs=NOISE)
    assert fxprune.Plan.load(folder / "digits 0" / "plan.json").to_json() == first["plan"]
    assert not (folder / "digits 1").exists()


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    journal = tmp_path / "killed 0" / "journal.jsonl"
    for victim, lines in ((0, 4), (1, 8)):
        process = start(tmp_path, "slow_toy")
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.kill(int((tmp_path / f"{victim}.pid").read_text()), signal.SIGKILL)
        assert process.wait(120) != 0
    assert start(tmp_path, "slow_toy").wait(300) == 0, (tmp_path / "log").read_text()
    first, second = told(tmp_path)
    assert first == second
    whole = undisturbed("bees")
    assert first["slow_toy"] == {"counts": whole.plan.kept_counts(), "model": launched.digest(whole.model)}
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(set(keys)) == len(keys), "a candidate was tried twice"


def test_the_command_writes_weights_and_plan(tmp_path: Path) -> None:
    numbers = "--tolerance 0.9 --precision 0.5 --epochs 1 --threads 1 --device cpu".split()
    command = ["search", "digits-resnet20", *numbers, "--out", str(tmp_path)]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    assert first.output.splitlines()[-1] == second.output.splitlines()[-1], "the second has nothing left to do"
    assert "% of the MACs" in first.output
    plan = fxprune.Plan.load(tmp_path / "digits-resnet20-searched.json")
    model, metadata = load(tmp_path / "digits-resnet20-searched.safetensors")
    assert metadata.plan == plan.to_json()
    assert metadata.training["tunings"] == 1
    assert model.conv1.out_channels < 16
    changed = CliRunner().invoke(app, [*command, "--lr", "0.1"])
    assert changed.exit_code == 1
    assert "tune.settings.lr was 0.02, now 0.1" in changed.output


def test_without_a_launcher_nothing_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert present() == Alone()
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ZooError, match="needs accelerate; 'pip install accelerate', or start one process"):
        Launched()
