"""Candidates in parallel: the result is the same for any number of workers, on any backend, also when one dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from search_toys import SEARCHES, Given, Judged, jitter, perceptron, run, undisturbed

import fxprune
from fxprune.search import BeeColony, Workers
from tests.search.test_search import same_weights


def same(a: Any, b: Any) -> None:
    assert a.plan == b.plan
    assert a.baseline == b.baseline
    assert a.finished
    assert b.finished
    same_weights(a.model, b.model)
    fitness = [[getattr(t, "fitness", getattr(t, "score", None)) for t in found.history] for found in (a, b)]
    assert fitness[0] == fitness[1]


def test_local_processes_change_nothing(tmp_path: Path) -> None:
    """Two workers against one and against this process; the directory goes from one to the other."""
    alone = undisturbed("bees")
    same(run("bees", str(tmp_path), workers=2), alone)
    same(run("bees", str(tmp_path), workers=1), alone)
    same(run("robust", None, workers=2), undisturbed("robust"))


def test_backends_that_return_lists_hand_them_out_in_parts() -> None:
    """joblib's "multiprocessing", like Ray's backend, knows no generators."""
    begun = 0

    def jobs() -> Iterator[int]:
        nonlocal begun
        for begun in range(1, 7):
            yield -begun

    results = Workers(2, backend="multiprocessing")(abs, jobs())
    assert [next(results), begun] == [1, 2]
    assert [*results] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("workers", [Workers(1), Workers(2, backend="threading"), Workers(3, threads=2)])
def test_workers_start_from_their_own_copy(workers: Workers) -> None:
    """What a tuning changes of itself is not seen by the next one."""

    class Stateful:
        calls = 0

        def __call__(self, model: Any) -> None:
            self.calls += 1
            assert self.calls == 1

    model, groups, _ = perceptron(8, 5)
    threads = torch.get_num_threads()
    with joblib.parallel_config("threading"):
        BeeColony(sources=2, cycles=1, progress=False)(model, groups, _threads, tune=Stateful(), workers=workers)
    assert torch.get_num_threads() == threads


def test_threads_of_one_process_take_turns() -> None:
    """They share the global generators, which each candidate seeds."""
    with joblib.parallel_config("threading", n_jobs=3):
        model, groups, scores = perceptron(64, 40)
        judge = Judged().after(lambda: time.sleep(0.01))
        found = SEARCHES["bees"](model, groups, judge, scorer=Given(scores), tune=_slow_jitter, workers=Workers())
    same(found, undisturbed("bees"))


def _slow_jitter(model: Any) -> None:
    time.sleep(0.01)
    jitter(model)


def test_threads_are_those_that_were_asked_for() -> None:
    model, groups, _ = perceptron(8, 5)
    colony = BeeColony(sources=2, cycles=0, progress=False)
    found = colony(model, groups, _threads, workers=Workers(1, threads=2))
    assert found.baseline == 2
    assert torch.get_num_threads() == 1


def _threads(model: Any) -> float:
    return float(torch.get_num_threads())


def test_the_number_of_workers_may_come_from_outside() -> None:
    with joblib.parallel_config("threading", n_jobs=2):
        names = set(Workers()(_thread_name, range(8)))
    assert len(names) >= 1
    assert not any("MainThread" in n for n in names)


def _thread_name(_: int) -> str:
    time.sleep(0.02)
    return threading.current_thread().name


def test_a_failure_in_a_worker_reaches_the_caller() -> None:
    model, groups, _ = perceptron(8, 5)
    with pytest.raises(ZeroDivisionError):
        SEARCHES["bees"](model, groups, lambda m: 1 / 0, workers=Workers(1))


@pytest.mark.parametrize("values", [{"count": 0}, {"threads": 0}])
def test_no_worker(values: dict[str, int]) -> None:
    with pytest.raises(
        fxprune.InputError, match=r"the number of (workers|threads) must be a positive integer; seen: 0"
    ):
        Workers(**values)


def test_an_unknown_backend() -> None:
    with pytest.raises(fxprune.InputError, match="joblib knows no such backend; seen: celery; remedy: "):
        list(Workers(2, backend="celery")(abs, [1]))


class Deadly(Judged):
    """The first worker that gets a pruned model kills itself."""

    def __init__(self, marker: Path, seconds: float = 0.0) -> None:
        super().__init__(seconds=seconds)
        self.marker, self.parent = marker, os.getpid()

    def __call__(self, model: Any) -> Any:
        if os.getpid() != self.parent:
            try:
                self.marker.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(model)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real cluster on this machine: a scheduler and two workers, each a process."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # so that they find this file
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    client = distributed.Client(local)
    try:
        yield client
    finally:
        client.close()
        local.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_whose_workers_die(cluster: Any, tmp_path: Path) -> None:
    """One worker kills itself inside a candidate, another is killed from outside; the result is as without them."""
    model, groups, scores = perceptron(64, 40)
    pids = list(cluster.run(os.getpid).values())
    journal = tmp_path / "run" / "journal.jsonl"

    def kill_one() -> None:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 8:
            time.sleep(0.02)
        os.kill(next(iter(cluster.run(os.getpid).values())), signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    search = partial(SEARCHES["bees"], model, groups, Deadly(tmp_path / "died", 0.2), scorer=Given(scores), tune=jitter)
    found = search(folder=tmp_path / "run", workers=Workers(backend="dask"))
    killer.join()
    assert (tmp_path / "died").exists()
    assert set(pids) != set(cluster.run(os.getpid).values())
    same(found, undisturbed("bees"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_changes_nothing(tmp_path: Path) -> None:
    """Two real workers of a Ray instance on this machine; the search's folder goes on to this process."""
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    found_by = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=found_by)
    try:
        register_ray()
        model, groups, scores = perceptron(64, 40)
        search = partial(
            SEARCHES["bees"], model, groups, Judged(), scorer=Given(scores), tune=jitter, folder=tmp_path / "run"
        )
        found = search(workers=Workers(2, backend="ray"))
    finally:
        ray.shutdown()
    same(found, undisturbed("bees"))
    same(search(), found)


@pytest.mark.slow
def test_local_processes_whose_worker_dies(tmp_path: Path) -> None:
    """joblib gives up when a local process dies; started again, the search goes on from its directory."""
    model, groups, scores = perceptron(64, 40)
    search = partial(SEARCHES["bees"], model, groups, Deadly(tmp_path / "died"), scorer=Given(scores), tune=jitter)
    with pytest.raises(Exception, match="worker process managed by the executor was unexpectedly terminated"):
        search(folder=tmp_path / "run", workers=Workers(2))
    same(search(folder=tmp_path / "run", workers=Workers(2)), undisturbed("bees"))
