"""A search that is killed and started again ends as if nothing had happened. Real processes are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import search_toys
from processes import child
from search_toys import SEARCHES, perceptron, run, undisturbed, widths_of

import fxprune
from fxprune.search import plan_of, restore
from tests.search.test_search import same_weights

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")

NAMES = list(SEARCHES)


def check(name: str, folder: Path) -> None:
    """Finish the search here, and compare it with one that was never disturbed."""
    found, whole = run(name, str(folder)), undisturbed(name)
    assert found.finished
    assert found.plan == whole.plan
    assert found.baseline == whole.baseline
    assert len(found.history) == len(whole.history)
    same_weights(found.model, whole.model)
    same_weights(restore(perceptron(64, 40)[0], folder / "best.safetensors"), whole.model)
    assert fxprune.Plan.load(folder / "plan.json") == whole.plan
    keys = [json.loads(line)["key"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert len(set(keys)) == len(keys), "a candidate was tried twice"
    assert not list(folder.rglob(".*.tmp"))


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    assert _kill_until_done(name, tmp_path, random.Random(0)) >= 3
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_at_more_random_moments(name: str, seed: int, tmp_path: Path) -> None:
    _kill_until_done(name, tmp_path, random.Random(seed))
    check(name, tmp_path)


def _kill_until_done(name: str, folder: Path, moments: random.Random) -> int:
    """Again and again, kill the search a moment after it has judged another candidate or two, until it is done."""
    undisturbed(name)  # what is imported late is imported before the forks
    kills = lines = 0
    journal = folder / "journal.jsonl"
    while True:
        process = child(lambda: run(name, str(folder)))
        lines += moments.randint(0, 2)
        while process.is_alive() and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL
        kills += 1


class DiesAt:
    """Kills the process at the n-th call of a system function, before it is done or half-way through a write."""

    def __init__(self, call: int) -> None:
        self.left = call

    def now(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, name: str, folder: Path) -> None:
        fsync, replace = os.fsync, Path.replace

        def dying_fsync(handle: int) -> None:
            self.now()
            fsync(handle)

        def dying_replace(path: Path, target: Path) -> Path:
            if self.left == 0 and path.stat().st_size > 2:
                os.truncate(path, path.stat().st_size // 2)
            self.now()
            return replace(path, target)

        os.fsync, Path.replace = dying_fsync, dying_replace  # type: ignore[method-assign, assignment]
        run(name, str(folder))


def _dies_at(name: str, folder: Path, call: int) -> bool:
    process = child(lambda: DiesAt(call).run(name, folder))
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


@pytest.mark.parametrize("name", ["robust"])
def test_killed_at_a_write(name: str, tmp_path: Path) -> None:
    for call in (*range(3), 11, 52):
        assert _dies_at(name, tmp_path / str(call), call)
        check(name, tmp_path / str(call))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_every_write(name: str, tmp_path: Path) -> None:
    call = 0
    while _dies_at(name, tmp_path / str(call), call):
        check(name, tmp_path / str(call))
        call += 1
    assert call > 50


def test_a_line_torn_anywhere(tmp_path: Path) -> None:
    run("bees", str(tmp_path))
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    cuts = random.Random(0)
    for _ in range(4):
        journal.write_bytes(whole[: cuts.randrange(len(whole))])
        found = run("bees", str(tmp_path))
        assert found.plan == undisturbed("bees").plan
        same_weights(found.model, undisturbed("bees").model)


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    folder = tmp_path / "run"

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
        try:
            run("bisection", str(folder), 0.6)
        except KeyboardInterrupt as interrupt:
            out.write_text(json.dumps(str(interrupt)))

    process = child(work)
    journal = folder / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 0
    assert str(folder) in json.loads(out.read_text())
    best = folder / "best.safetensors"
    assert widths_of(restore(perceptron(64, 40)[0], best)) == list(plan_of(best).kept_counts().values())
    check("bisection", folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_is_killed(workers: int, tmp_path: Path) -> None:
    """The whole program, with its imports and worker processes, by SIGKILL and by Ctrl-C."""
    folder, moments = tmp_path / "run", random.Random(0)
    command = [
        sys.executable,
        search_toys.__file__,
        "bees",
        str(folder),
        "0.1",
        str(workers),
    ]
    journal, lines, out = folder / "journal.jsonl", 0, tmp_path / "out.json"
    for blow in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        # Not into a pipe: workers that outlive their parent for a while would hold it open.
        with out.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        while not journal.exists() or journal.read_bytes().count(b"\n") <= lines:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(blow)
        process.wait()
        lines = journal.read_bytes().count(b"\n")
        if blow == signal.SIGINT:
            assert json.loads(out.read_text())[2] is False
    with out.open("w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True)
    whole = undisturbed("bees")
    assert json.loads(out.read_text()) == [whole.plan.kept_counts(), len(whole.history), True]
    check("bees", folder)
