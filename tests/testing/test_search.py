"""The searches keep the contract, and the suite that says so catches one broken search for each promise."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

import fxprune
from fxprune.search import (
    BeeColony,
    Bisection,
    Candidate,
    Driver,
    Evaluator,
    MonotoneFit,
    Progressed,
    Progressive,
    Search,
    fastest,
)
from fxprune.testing import SEARCH_PROMISES, BrokenPromiseError, check_search

SEARCHES: dict[str, Any] = {
    "bisection": Bisection(0.5, precision=0.25, progress=False),
    "fastest": replace(fastest("macs", 0.5, precision=0.25), progress=False),
    "bees": BeeColony(sources=2, cycles=1, progress=False),
    "progressive": Progressive(0.95, step=0.4, top=0.5, progress=False),
    "monotone fit": MonotoneFit(tunings=4, progress=False),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("promise", SEARCH_PROMISES)
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_keep_the_contract(name: str, promise: str) -> None:
    check_search(SEARCHES[name], promises=[promise])


class Halves(Driver[float]):
    """A search of a user's own: it tries three plans."""

    progress, seed = False, 0

    def kept(self, size: int, part: float) -> list[int]:
        return list(range(max(1, int(size * part))))

    def candidates(self, evaluator: Evaluator[Any]) -> list[Candidate]:
        groups = evaluator.task.groups
        return [Candidate(groups.plan({g.name: self.kept(g.size, p) for g in groups})) for p in (0.5, 0.7, 0.9)]

    def steps(self, evaluator: Evaluator[Any]) -> Any:
        evaluator.baseline()
        candidates = self.candidates(evaluator)
        outcomes = evaluator.run(candidates)
        best = max(range(len(outcomes)), key=lambda i: outcomes[i].fitness)
        evaluator.keep([], candidates[best])
        yield Progressed(outcomes[best].fitness, 1.0, "")


def test_a_search_of_ones_own() -> None:
    check_search(Halves())


class Hasty(Halves):
    """It does not ask for the original's quality first."""

    def steps(self, evaluator: Evaluator[Any]) -> Any:
        yield Progressed(evaluator.run(self.candidates(evaluator))[0].fitness, 1.0, "")


class Drawn(Halves):
    def kept(self, size: int, part: float) -> list[int]:
        return torch.randperm(size)[: max(1, int(size * part))].sort().values.tolist()


class Eager(Halves):
    """It takes the first result that comes, whichever that is."""

    def __call__(self, model: Any, groups: Any, evaluate: Any, **options: Any) -> Any:
        runner = options.pop("workers", None)
        first = next(iter((runner or map)(lambda part: part, (0.5, 0.9))))
        plan = groups.plan({g.name: self.kept(g.size, first) for g in groups})
        return Search(plan, fxprune.rewrite(model, plan), 0.0)


class Growing(Halves):
    """It asks for other candidates each time."""

    calls = count(1)

    def kept(self, size: int, part: float) -> list[int]:
        return list(range(1 + next(self.calls) % size))


def spoiling(model: Any, *given: Any, **options: Any) -> Any:
    found = Halves()(model, *given, **options)
    model.train(not model.training)
    return found


def stubborn(model: Any, groups: Any, evaluate: Any, **options: Any) -> Any:
    try:
        return Halves()(model, groups, evaluate, **options)
    finally:
        evaluate(model)


def unlike(model: Any, *given: Any, **options: Any) -> Any:
    return replace(Halves()(model, *given, **options), model=model)


def loud(model: Any, groups: Any, evaluate: Any, **options: Any) -> Any:
    evaluate(model), evaluate(model)
    return Halves()(model, groups, evaluate, **options)


def swallowing(model: Any, groups: Any, evaluate: Any, **options: Any) -> Any:
    return Halves()(model, groups, evaluate, on_interrupt="return", **options)


BROKEN: list[tuple[str, Any, str]] = [
    ("works", lambda *_, **__: None, "it returns no Search"),
    ("works", lambda *_, **__: 1 / 0, "ZeroDivisionError"),
    ("works", Hasty(), "baseline: nan"),
    ("fits", unlike, "the model is not what the plan makes"),
    ("deterministic", Drawn(), "the same call finds something else"),
    ("any workers", Eager(), "results in another order lead elsewhere"),
    ("untouched", spoiling, "it changes the mode"),
    ("remembers", stubborn, "a search that is done is done again"),
    ("interruptible", loud, "Ctrl-C loses what was found"),
    ("interruptible", swallowing, "returns as if it had finished"),
    ("refuses clearly", Hasty(), "is accepted"),
]


@pytest.mark.parametrize(("promise", "search", "text"), BROKEN)
def test_broken_searches_are_caught(promise: str, search: Callable[..., Any], text: str) -> None:
    with pytest.raises(BrokenPromiseError, match=f"the search breaks the promise '{promise}'.*{text}") as caught:
        check_search(search, promises=[promise])
    assert caught.value.promise == promise


def test_other_candidates_are_done_again() -> None:
    with pytest.raises(BrokenPromiseError, match="'remembers': a search that is done is done again"):
        check_search(Growing(), promises=["remembers"])


def test_every_promise_is_broken_once() -> None:
    assert {promise for promise, *_ in BROKEN} == set(SEARCH_PROMISES)
