"""The rooms of a search: trials, journal, checkpoints, settings, the directory, Ctrl-C."""

import copy
import json
import math
import multiprocessing
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES
from search_toys import SEARCHES, Given, Judged, given_to, jitter, perceptron, run, undisturbed, widths_of
from torch import nn

import fxprune
from fxprune.planners import Constraints
from fxprune.search import ROBUST, Bisection, restore
from fxprune.search.checkpoint import save
from fxprune.search.describe import describe, fingerprint
from fxprune.search.evaluator import Evaluator
from fxprune.search.folder import Folder, _record
from fxprune.search.trial import Candidate, measured
from fxprune.storage.files import differences
from fxprune.storage.json_lines import Lines

# What evaluate may say


@pytest.mark.parametrize(
    ("value", "fitness", "samples"),
    [
        (1, 1.0, None),
        (0.5, 0.5, None),
        (np.float32(0.5), 0.5, None),
        (torch.tensor(0.25), 0.25, None),
        (torch.tensor([True, False]), 0.5, [1, 0]),
        (torch.tensor([1.0, 0.5]).requires_grad_(), 0.75, [1, 0.5]),
        ([0, 1, 1, 0], 0.5, [0, 1, 1, 0]),
        (np.array([3.0]), 3.0, [3]),
    ],
)
def test_numbers_and_samples(value: Any, fitness: float, samples: Any) -> None:
    got, each = measured(value)
    assert got == fitness
    assert (each is None) == (samples is None)
    if each is not None:
        assert each.tolist() == samples


@pytest.mark.parametrize("value", [None, "0.9", [], torch.zeros(2, 2), {"accuracy": 1.0}, 1j])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(fxprune.InputError, match=r"evaluate gave no number; seen: .*; remedy: return a number, or"):
        measured(value)


def test_not_a_number_among_samples() -> None:
    assert math.isnan(measured(torch.tensor([1.0, float("nan")]))[0])
    assert math.isnan(measured(float("nan"))[0])


def test_candidates_are_told_apart() -> None:
    _, groups, _ = perceptron(6, 5)
    plans = [groups.plan({}), groups.plan({"0": [0]}), groups.plan({"0": [1]}), groups.plan({"1": [0]})]
    candidates = [Candidate(p, r, t) for p in plans for r in (0, 1) for t in (False, True)]
    assert len({c.key for c in candidates}) == len(candidates)
    assert Candidate(groups.plan({"0": [1]})).key == candidates[9].key


# Footprints


@pytest.mark.parametrize("name", SEARCHES)
def test_the_model_and_the_generators_are_as_before(name: str) -> None:
    model, groups, scores = perceptron(64, 40)
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state(), random.getstate()

    def evaluate(m: nn.Module) -> Any:
        random.random()
        return Judged()(m.eval())

    SEARCHES[name](model, groups, evaluate, **given_to(name, scores), tune=lambda m: (m.eval(), jitter(m)))
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


@pytest.mark.parametrize("name", SEARCHES)
def test_models_are_judged_and_returned_in_the_modes_of_the_original(name: str) -> None:
    model, groups, scores = perceptron(64, 40)
    model.eval()
    seen = []

    def evaluate(m: nn.Module) -> Any:
        seen.extend(part.training for part in m.modules())
        return Judged()(m)

    def tune(m: nn.Module) -> None:
        jitter(m.train())

    found = SEARCHES[name](model, groups, evaluate, **given_to(name, scores), tune=tune)
    assert seen
    assert not any(seen)
    assert not any(part.training for part in found.model.modules())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_depends_on_its_seed_alone(name: str) -> None:
    first, other = undisturbed(name), run(name, None)
    torch.manual_seed(99)
    random.seed(99)
    third = run(name, None)
    assert first.plan == other.plan == third.plan
    assert [replace(t, seconds=0) if name == "bees" else t for t in first.history] == [
        replace(t, seconds=0) if name == "bees" else t for t in third.history
    ]
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), third.model.parameters(), strict=True))


# Journal


def journal_of(folder: Path) -> Lines[Any]:
    return Lines(folder / "j", _record)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    for i in range(3):
        journal.append({"key": str(i), "fitness": 0.1 * i})
    whole = (tmp_path / "j").read_bytes()
    last = whole.rstrip().rfind(b"\n") + 1
    for end in range(last, len(whole)):
        (tmp_path / "j").write_bytes(whole[:end])
        again = journal_of(tmp_path)
        assert [r["key"] for r in again.values] == ["0", "1"]
        again.append({"key": "2", "fitness": 0.2})
        assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize("line", [b"\0\0\0\0", b"{", b"[]", b'{"fitness": 1}', b""])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "j").write_bytes(b'{"key": "a"}\n' + line + b'\n{"key": "b"}\n')
    with pytest.raises(fxprune.InputError, match=r"damaged line of a journal in .*j:2; seen: .*; remedy: delete the"):
        journal_of(tmp_path)


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    values = [1 / 3, 1e-300, float("inf"), -0.0]
    journal = journal_of(tmp_path)
    journal.append({"key": "a", "values": values})
    assert journal_of(tmp_path).values[0]["values"] == values


# Checkpoints


@pytest.mark.parametrize("name", ["chain", "residual", "tied_parameter", "grouped_by_groups", "lstm"])
def test_a_checkpoint_is_plan_and_weights(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, inputs = case.build(), case.inputs()
    groups = fxprune.find_groups(fxprune.trace(model, inputs))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    small = fxprune.rewrite(model, plan)
    jitter(small)
    save(tmp_path / "c.safetensors", small, plan)
    again = restore(case.build(seed=1), tmp_path / "c.safetensors")
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {
        k: v.tolist() for k, v in small.state_dict().items()
    }


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    model, groups, _ = perceptron(6, 5)
    with pytest.raises(fxprune.InputError, match=r"not a pruned model's file in .*missing; seen: FileNotFoundError"):
        restore(model, tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(fxprune.InputError, match=r"not a pruned model's file in .*text; .*; remedy: give a file"):
        restore(model, tmp_path / "text")
    save(tmp_path / "other", fxprune.rewrite(model, groups.plan({"0": [0]})), groups.plan({"0": [0]}))
    with pytest.raises(fxprune.PlanError, match="another model"):
        restore(perceptron(7, 5)[0], tmp_path / "other")
    with pytest.raises(fxprune.InputError, match="the model is not as its plan leaves it"):
        save(tmp_path / "unlike", nn.Linear(2, 2), groups.plan({"0": [0]}))
    with pytest.raises(fxprune.PlanError, match=r"the file is of another model in .*other"):
        restore(nn.Linear(2, 2), tmp_path / "other")


# Settings


def test_settings_in_words() -> None:
    told = describe({"a": Bisection(family=partial(fxprune.planners.Budget, measure="macs")), "b": [1, None, jitter]})
    assert told["a"]["family"]["function"] == "fxprune.planners.budget.Budget"
    assert told["a"]["family"]["keywords"] == {"measure": "macs"}
    assert told["b"][:2] == [1, None]
    assert told["b"][2].startswith("search_toys.jitter ")
    assert describe(Judged()).startswith("search_toys.Judged ")
    assert json.loads(json.dumps(told)) == told


def test_functions_of_one_name_are_told_apart() -> None:
    def made(rate: float, text: str) -> Any:
        def tune(model: Any, times: int = len(text)) -> float:
            return rate * times

        return tune

    assert describe(made(0.1, "a")) == describe(made(0.1, "b"))
    assert len({describe(f) for f in (made(0.1, "a"), made(0.2, "a"), made(0.1, "aa"))}) == 3
    assert describe(lambda m: 1) != describe(lambda m: 2)
    assert describe(lambda m: (lambda: 1)()) != describe(lambda m: (lambda: 2)())
    assert describe(lambda m: m in {"a", "b"}) == describe(lambda m: m in {"b", "a"})
    held = (n for n in range(3))
    assert describe(lambda m: next(held)) == describe(lambda m: next(held))  # a generator has no module


class Threshold:
    """A judge with settings of its own: numbers, a function, and an object that it calls."""

    def __init__(self, least: float, of: Any, also: Any = None) -> None:
        self.least, self.of, self.also, self.asked = least, of, also, 0

    def __call__(self, model: Any) -> float:
        self.asked += 1
        return float(self.of(model) > self.least)


def test_objects_of_one_type_are_told_apart() -> None:
    def top(k: int) -> Any:
        return lambda model: len(widths_of(model)) / k

    kinds = [
        Threshold(0.5, top(1)),
        Threshold(0.25, top(1)),
        Threshold(0.5, top(5)),
        Threshold(0.5, top(1), Threshold(0.1, top(1))),
        Threshold(0.5, top(1), Threshold(0.2, top(1))),
        Threshold(0.5, top(1), [1, {"a": top(2)}]),
        Threshold(0.5, top(1), [1, {"a": top(3)}]),
        Threshold(0.5, top(1), partial(top(1), 2)),
        Threshold(0.5, top(1), partial(top(1), 3)),
        Threshold(0.5, top(1), ROBUST),
        Threshold(0.5, top(1), replace(ROBUST, repeats=3)),
        Threshold(0.5, top(1), bool),
        Threshold(0.5, top(1), int),
        Threshold(0.5, top(1), math.sqrt),
        Threshold(0.5, top(1), math.exp),
    ]
    assert len({describe(k) for k in kinds}) == len(kinds)
    used = Threshold(0.5, top(1))
    used(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert used.asked == 1
    assert describe(used) == describe(kinds[0])


def test_what_holds_itself_is_described_too() -> None:
    def countdown(n: int) -> int:
        return countdown(n - 1) if n else 0

    judge = Threshold(0.5, countdown)
    judge.also = [judge]
    assert describe(judge) == describe(judge)
    assert describe(countdown).startswith(f"{__name__}.")


def test_another_model_that_tune_gives_back_is_no_tuning() -> None:
    model, groups, scores = perceptron(64, 40)
    for search in SEARCHES.values():
        with pytest.raises(fxprune.InputError, match="tune gave back another model"):
            search(model, groups, Judged(), scorer=Given(scores), tune=copy.deepcopy, data=[torch.rand(8, 4)])
    x = torch.zeros(1, 4)
    with pytest.raises(fxprune.InputError, match="tune gave back another model"):
        fxprune.prune(model, x, 0.5, tune=copy.deepcopy)
    assert fxprune.prune(model, x, 0.5, tune=lambda m: m).plan.cuts()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m.append(nn.Linear(2, 3)), "structure in 3.bias; seen: None before, .3,. after"),
        (lambda m: m.to("meta"), "structure in 0.bias"),
        (lambda m: m[2].weight.data.fill_(torch.nan), "the model holds NaN in 2.weight"),
    ],
    ids=["longer", "meta", "diverged"],
)
def test_a_model_that_tune_has_changed_otherwise(change: Callable[[Any], Any], what: str) -> None:
    model = perceptron(64, 40)[0]
    with pytest.raises(fxprune.InputError, match=what):
        fxprune.prune(model, torch.zeros(1, 4), 0.5, tune=lambda m: (change(m), None)[1])


def test_fingerprints() -> None:
    model = perceptron(6, 5)[0]
    prints = {fingerprint(model), fingerprint(perceptron(6, 5, seed=1)[0]), fingerprint(model.half())}
    assert len(prints) == 3
    assert fingerprint(perceptron(6, 5)[0]) in prints
    assert fingerprint(nn.BatchNorm1d(3)) != fingerprint(nn.BatchNorm1d(3, affine=False))


def test_differences_in_words() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}) == (
        "b.c was 2, now 4; e was null, now 5"
    )


OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "seed": (lambda a: {**a, "search": replace(a["search"], seed=7)}, r"seed was 0, now 7"),
    "tolerance": (lambda a: {**a, "search": replace(a["search"], tolerance=0.5)}, r"search\.tolerance was 0\.03, now"),
    "kind": (lambda a: {**a, "search": SEARCHES["bees"]}, r"search\.type was .*Bisection.*, now .*BeeColony"),
    "weights": (lambda a: {**a, "net": perceptron(64, 40, seed=1)}, r"model was \"[0-9a-f]{16}\", now"),
    "tune": (lambda a: {**a, "tune": None}, r"tune was \"search_toys\.jitter [0-9a-f]{8}\", now null"),
    "evaluate": (
        lambda a: {**a, "evaluate": len},
        r"evaluate was \"search_toys\.Judged .*\", now \"builtins\.len\"",
    ),
}


def start(net: Any, search: Any, evaluate: Any, tune: Any, folder: Path) -> Any:
    model, groups, scores = net
    return search(model, groups, evaluate, scorer=Given(scores), tune=tune, folder=folder)


@pytest.mark.parametrize("what", OTHERS)
def test_another_search_is_refused_and_nothing_is_touched(what: str, tmp_path: Path) -> None:
    change, text = OTHERS[what]
    given = {"net": perceptron(64, 40), "search": SEARCHES["bisection"], "evaluate": Judged(), "tune": jitter}
    start(**given, folder=tmp_path)  # type: ignore[arg-type]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(fxprune.InputError, match=f"the directory is of another run in .*; seen: .*{text}"):
        start(**change(given), folder=tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_progress_is_no_setting(tmp_path: Path) -> None:
    net = perceptron(64, 40)
    a = start(net, SEARCHES["bisection"], Judged(), jitter, tmp_path)
    b = start(net, replace(SEARCHES["bisection"], progress=True), Judged(), jitter, tmp_path)
    assert a.plan == b.plan


def test_files_that_do_not_belong(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"key": "a"}\n')
    with pytest.raises(fxprune.InputError, match="holds files of no search"):
        run("bisection", str(tmp_path))
    (tmp_path / "journal.jsonl").unlink()
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(fxprune.InputError, match=r"a damaged file of settings in .*settings\.json; seen: JSONDecode"):
        run("bisection", str(tmp_path))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_damaged_checkpoint_is_made_once_more(name: str, tmp_path: Path) -> None:
    model, groups, scores = perceptron(64, 40)
    arguments = {**given_to(name, scores), "tune": jitter, "folder": tmp_path}
    first = SEARCHES[name](model, groups, Judged(), **arguments)
    for path in (tmp_path / "checkpoints").iterdir():
        os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match="the candidate is made once more, with the same seed"):
        again = SEARCHES[name](model, groups, Judged(), **arguments)
    assert again.plan == first.plan
    same_weights(again.model, first.model)


def test_a_journal_that_lacks_what_it_should_hold(tmp_path: Path) -> None:
    run("bisection", str(tmp_path))
    next((tmp_path / "samples").iterdir()).unlink()
    with pytest.raises(fxprune.InputError, match=r"a damaged journal in .*FileNotFound.*; remedy: delete the"):
        run("bisection", str(tmp_path))


# The directory


@pytest.mark.parametrize("name", SEARCHES)
def test_a_finished_search_is_not_done_again(name: str, tmp_path: Path) -> None:
    calls = count()

    def counted() -> Judged:
        return Judged().after(lambda: next(calls))

    model, groups, scores = perceptron(64, 40)
    first = SEARCHES[name](model, groups, counted(), **given_to(name, scores), tune=jitter, folder=tmp_path)
    done = next(calls)
    assert done >= len(first.history)
    again = SEARCHES[name](model, groups, counted(), **given_to(name, scores), tune=jitter, folder=tmp_path)
    assert next(calls) == done + 1
    in_memory = SEARCHES[name](model, groups, Judged(), **given_to(name, scores), tune=jitter)
    for found in (again, in_memory):
        assert found.plan == first.plan
        assert len(found.history) == len(first.history)
        same_weights(found.model, first.model)
    best = restore(model, tmp_path / "best.safetensors")
    same_weights(best, first.model)
    assert fxprune.Plan.load(tmp_path / "plan.json") == first.plan


def same_weights(a: nn.Module, b: nn.Module) -> None:
    assert {k: v.tolist() for k, v in a.state_dict().items()} == {k: v.tolist() for k, v in b.state_dict().items()}


def test_every_candidate_stands_in_the_journal(tmp_path: Path) -> None:
    found = run("bees", str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    original, *others = lines
    assert (original["code"], original["tuned"]) == ([64, 40], False)
    assert sorted((tuple(r["code"]), r["fitness"], r["macs"], r["parameters"], r["seed"]) for r in others) == sorted(
        (tuple(t.counts.values()), t.fitness, t.cost.macs, t.cost.parameters, t.seed) for t in found.history
    )
    assert all(r["seconds"] >= 0 for r in lines)


def test_only_what_can_win_is_kept(tmp_path: Path) -> None:
    run("bees", str(tmp_path))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_lost_checkpoint_is_made_once_more(tmp_path: Path) -> None:
    first = run("robust", str(tmp_path))
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "best.safetensors").unlink()
    again = run("robust", str(tmp_path))
    same_weights(again.model, first.model)
    same_weights(restore(perceptron(64, 40)[0], tmp_path / "best.safetensors"), first.model)


def test_nothing_good_enough_leaves_the_original(tmp_path: Path) -> None:
    model, groups, _ = perceptron(6, 5)
    calls = count()
    search = Bisection(progress=False)
    found = search(model, groups, lambda m: float(next(calls) == 0), tune=jitter, folder=tmp_path)
    assert found.model is model
    same_weights(restore(perceptron(6, 5, seed=3)[0], tmp_path / "best.safetensors"), model)


def test_constraints_with_patterns_are_settings_too(tmp_path: Path) -> None:
    model, groups, _ = perceptron(64, 40)
    search = partial(replace, SEARCHES["bees"])
    search(constraints=Constraints(minimum={"0": 3}))(model, groups, Judged(), tune=jitter, folder=tmp_path)
    with pytest.raises(fxprune.InputError, match=r"search\.constraints\.minimum\.0 was 3, now 4"):
        search(constraints=Constraints(minimum={"0": 4}))(model, groups, Judged(), tune=jitter, folder=tmp_path)


def test_a_failure_leaves_the_directory_usable(tmp_path: Path) -> None:
    whole = undisturbed("bees")
    model, groups, scores = perceptron(64, 40)
    calls = count()

    def fail() -> None:
        if next(calls) == 7:
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        SEARCHES["bees"](model, groups, Judged().after(fail), scorer=Given(scores), tune=jitter, folder=tmp_path)
    again = run("bees", str(tmp_path))
    assert again.plan == whole.plan
    same_weights(again.model, whole.model)


# Ctrl-C


def interrupted(stop: int) -> Judged:
    """The user presses Ctrl-C at a candidate; 0 is the first."""
    calls = count()

    def press() -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    return Judged().after(press)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("folder", [False, True])
def test_ctrl_c_leaves_the_best_so_far(name: str, folder: bool, tmp_path: Path) -> None:
    model, groups, scores = perceptron(64, 40)
    where = tmp_path if folder else None
    whole = undisturbed(name)
    for stop in (0, 1, 2, 5, 8, 99):
        found = SEARCHES[name](
            model, groups, interrupted(stop), **given_to(name, scores), tune=jitter, folder=where, on_interrupt="return"
        )
        if folder:
            same_weights(restore(model, tmp_path / "best.safetensors"), found.model)
            assert fxprune.Plan.load(tmp_path / "plan.json") == found.plan
        if found.finished:
            break
        assert widths_of(found.model) == list(found.plan.kept_counts().values())
        assert len(found.history) <= len(whole.history)
    if folder:
        assert run(name, str(tmp_path)).plan == whole.plan


@pytest.mark.parametrize("name", SEARCHES)
def test_ctrl_c_saves_says_so_and_is_raised(name: str, tmp_path: Path) -> None:
    model, groups, scores = perceptron(64, 40)
    given = {**given_to(name, scores), "tune": jitter}
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; what was tried and the best so far are in .*run, from"):
        SEARCHES[name](model, groups, interrupted(3), **given, folder=tmp_path / "run")
    best = SEARCHES[name](model, groups, interrupted(3), **given, on_interrupt="return")
    assert not best.finished
    assert fxprune.Plan.load(tmp_path / "run" / "plan.json") == best.plan
    same_weights(restore(model, tmp_path / "run" / "best.safetensors"), best.model)
    resumed = SEARCHES[name](model, groups, Judged(), **given, folder=tmp_path / "run")
    assert resumed.plan == undisturbed(name).plan
    with pytest.raises(KeyboardInterrupt, match=r"nothing is saved; folder= keeps what was tried"):
        SEARCHES[name](model, groups, interrupted(3), **given)
    with pytest.raises(fxprune.InputError, match="unknown on_interrupt; seen: wait; remedy: one of raise, return"):
        SEARCHES[name](model, groups, Judged(), **given, on_interrupt="wait")


class Renamed(Judged):
    """Judges alike under another name."""


def test_a_renamed_evaluation_asks_before_a_search_goes_on(tmp_path: Path) -> None:
    model, groups, scores = perceptron(64, 40)
    search = partial(SEARCHES["bisection"], model, groups, **given_to("bisection", scores), folder=tmp_path)
    first = search(Judged(), tune=jitter)
    with pytest.raises(
        fxprune.InputError, match=r"seen: evaluate was .*Judged .*, now .*Renamed .*; remedy: pass resume=True if"
    ):
        search(Renamed(), tune=jitter)
    again = search(Renamed(), tune=jitter, resume=True)
    assert again.plan == first.plan
    assert search(Renamed(), tune=jitter).plan == first.plan
    with pytest.raises(fxprune.InputError, match=r"tune was .*, now null; remedy: give another directory, or the"):
        search(Renamed(), resume=True)


@pytest.mark.parametrize("name", SEARCHES)
def test_ctrl_c_while_a_search_is_taken_up_again_keeps_its_best(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is read again quickly, but not in no time."""
    whole = run(name, str(tmp_path))
    best = (tmp_path / "best.safetensors").read_bytes()
    model, groups, scores = perceptron(64, 40)
    before = Evaluator.run
    for stop in (0, 2, 5):
        calls = count()

        def impatient(self: Any, candidates: Any, calls: Any = calls, stop: int = stop) -> Any:
            if next(calls) == stop:
                raise KeyboardInterrupt
            return before(self, candidates)

        with monkeypatch.context() as patched:
            patched.setattr(Evaluator, "run", impatient)
            found = SEARCHES[name](
                model, groups, Judged(), **given_to(name, scores), tune=jitter, folder=tmp_path, on_interrupt="return"
            )
        assert not found.finished
        assert found.plan == whole.plan
        same_weights(found.model, whole.model)
        assert (tmp_path / "best.safetensors").read_bytes() == best


@pytest.mark.parametrize("name", SEARCHES)
def test_a_quality_that_is_no_number(name: str) -> None:
    model, groups, scores = perceptron(8, 5)
    with pytest.raises(fxprune.InputError, match="the original's quality is not a finite number; seen: nan; remedy: "):
        SEARCHES[name](model, groups, lambda m: float("nan"), **given_to(name, scores))


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fxprune.InputError, match=r"the search's folder is a file in .*file; remedy: "):
        Folder(tmp_path / "file", {})


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    held = Folder(tmp_path, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()

        def second() -> None:
            try:
                Folder(tmp_path, {})
            except fxprune.InputError as error:
                answers.put(str(error))
            else:
                answers.put("")

        child = context.Process(target=second)
        child.start()
        child.join()
    assert "another search is running here" in answers.get()
    held.close()


def test_another_choice_of_heads_is_another_search_though_names_and_sizes_agree(tmp_path: Path) -> None:
    layer = fxprune.untie_attention(nn.TransformerEncoderLayer(16, 4, 8, batch_first=True)).eval()
    graph = fxprune.trace(layer, torch.rand(1, 5, 16))
    heads, dims = (fxprune.find_groups(graph, heads=kind) for kind in ("num_heads", "head_dim"))
    assert [(g.name, g.size) for g in heads] == [(g.name, g.size) for g in dims]
    search = fxprune.search.Bisection(precision=0.5, progress=False)
    search(layer, heads, lambda model: 1.0, folder=tmp_path)
    with pytest.raises(fxprune.errors.InputError, match="another"):
        search(layer, dims, lambda model: 1.0, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"workers": 2}, r"workers is not a function; seen: 2; remedy: give fxprune.search.Workers\(2\)"),
        ({"tune": 3}, "tune is not a function"),
        ({"scorer": "L1Norm"}, r"the scorer is not a function; seen: 'L1Norm'; remedy: .*fxprune.scorers.L1Norm\(\)"),
        ({"scorer": fxprune.scorers.L1Norm}, "the scorer is a class"),
        ({"model": nn.Linear(2, 2)}, "the groups are of another model; seen: no 0.weight"),
        ({"model": None}, "the model is not of type Module"),
        ({"folder": ""}, "no path of a file or folder; seen: an empty text"),
    ],
    ids=str,
)
def test_unusable_arguments_are_refused_before_anything_runs(arguments: dict[str, Any], text: str) -> None:
    model, groups, _ = perceptron(8)
    given = {"model": model, "groups": groups, "evaluate": lambda _: pytest.fail("it runs"), **arguments}
    with pytest.raises(fxprune.errors.InputError, match=text):
        Bisection(progress=False)(**given)


def test_one_part_on_the_way_is_no_tuple() -> None:
    with pytest.raises(fxprune.errors.InputError, match=r"on_the_way is not a tuple of parts; .*\(0.7,\)"):
        fxprune.search.Progressive(on_the_way=0.7)  # type: ignore[arg-type]
