"""The contract of a planner, as promises that are checked on small networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fxprune.errors import InputError
from fxprune.module.isolation import random_states, seed_random_states
from fxprune.plan.plan import Plan
from fxprune.planners.budget import Planner
from fxprune.rewriting.rewrite import rewrite
from fxprune.testing.footprint import changes, footprint
from fxprune.testing.promises import BrokenPromiseError, chosen
from fxprune.testing.subjects import SUBJECTS, Subject


def check_planner(planner: Planner, *, promises: Iterable[str] = ()) -> None:
    """Run a planner on small networks with positive scores, and raise at the first promise that it breaks.

    The networks are those of `check_scorer`.

    Args:
        planner: any planner `(groups, scores) -> Plan`; one with options is checked as it is configured.
        promises: names of those to check; default all of `PLANNER_PROMISES`.

    Raises:
        BrokenPromiseError: which promise is broken, on which network, what was seen, and what to do about it.
        InputError: an unknown promise.

    >>> import fxprune
    >>> from fxprune.testing import check_planner
    >>> check_planner(fxprune.planners.Uniform(0.5))
    >>> check_planner(lambda groups, scores: None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxprune.testing.promises.BrokenPromiseError: the planner breaks the promise 'works': it returns no plan in ...
    """
    names = chosen(promises, PLANNER_PROMISES)
    with random_states(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of budgets that so small networks cannot spend
        for subject in SUBJECTS:
            for name in names:
                PLANNER_PROMISES[name](planner, subject)


def _broken(promise: str, what: str, subject: Subject, seen: str = "", remedy: str = "") -> BrokenPromiseError:
    where = f"the network '{subject.name}'"
    return BrokenPromiseError(promise, what, of="planner", where=where, seen=seen, remedy=remedy)


def _scores(subject: Subject) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {g.name: torch.rand(g.size, generator=generator, dtype=torch.float64) + 0.01 for g in subject.groups}


def _plan(planner: Planner, subject: Subject, scores: Mapping[str, Tensor] | None = None) -> Plan:
    try:
        plan = planner(subject.groups, scores or _scores(subject))
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        raise _broken("works", "it fails on a network that it should plan", subject, seen) from error
    if not isinstance(plan, Plan):
        seen, remedy = type(plan).__name__, "return groups.plan({group name: kept channels})"
        raise _broken("works", "it returns no plan", subject, seen, remedy)
    return plan


def _works(planner: Planner, subject: Subject) -> None:
    plan = _plan(planner, subject)
    if list(plan.groups) != [g.name for g in subject.groups]:
        seen, remedy = str(list(plan.groups)[:3]), "make the plan by groups.plan, which adds the groups that stay whole"
        raise _broken("works", "the plan has other groups", subject, seen, remedy)


def _fits(planner: Planner, subject: Subject) -> None:
    small = rewrite(subject.model, _plan(planner, subject))
    images = subject.batches()[0][0]
    if small(images).shape != subject.model(images).shape:
        raise _broken("fits", "the smaller model has outputs of another shape", subject)


def _deterministic(planner: Planner, subject: Subject) -> None:
    first = _plan(planner, subject)
    seed_random_states(12345)
    if _plan(planner, subject) != first:
        remedy = "draw from a generator of your own: torch.Generator().manual_seed(self.seed)"
        raise _broken("deterministic", "the same call gives another plan", subject, remedy=remedy)


def _order_independent(planner: Planner, subject: Subject) -> None:
    scores = _scores(subject)
    if _plan(planner, subject, dict(reversed(scores.items()))) != _plan(planner, subject, scores):
        remedy = "look scores up by the group's name"
        raise _broken("order-independent", "scores in another order give another plan", subject, remedy=remedy)


def _untouched(planner: Planner, subject: Subject) -> None:
    scores = _scores(subject)
    before, kept = footprint(subject.model), {name: s.clone() for name, s in scores.items()}
    _plan(planner, subject, scores)
    if scores.keys() != kept.keys() or not all(torch.equal(scores[name], s) for name, s in kept.items()):
        raise _broken("untouched", "it changes the scores", subject, remedy="work on copies")
    for kind, place in changes(before, footprint(subject.model)):
        raise _broken("untouched", f"it changes the {kind}", subject, seen=place)


def _refuses_clearly(planner: Planner, subject: Subject) -> None:
    name, *_ = scores = _scores(subject)
    wrong = {
        "none of a group": {n: s for n, s in scores.items() if n != name},
        "NaN": {**scores, name: scores[name] / 0 * 0},
    }
    for what, given in wrong.items():
        try:
            planner(subject.groups, given)
        except InputError:
            continue
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
            raise _broken("refuses clearly", f"unusable scores ({what}) raise no InputError", subject, seen) from error
        remedy = "call fxprune.scorers.check_scores(scores, groups), or fxprune.planners.keep_best, which does"
        raise _broken("refuses clearly", f"unusable scores ({what}) are taken", subject, remedy=remedy)


PLANNER_PROMISES: dict[str, Callable[[Planner, Subject], None]] = {
    "works": _works,
    "fits": _fits,
    "deterministic": _deterministic,
    "order-independent": _order_independent,
    "untouched": _untouched,
    "refuses clearly": _refuses_clearly,
}
