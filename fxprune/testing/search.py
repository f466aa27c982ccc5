"""The contract of a search, as promises that are checked on small networks."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.module.isolation import random_states, seed_random_states
from fxprune.rewriting.rewrite import rewrite
from fxprune.search import Search
from fxprune.testing.footprint import changes, footprint
from fxprune.testing.promises import BrokenPromiseError, chosen
from fxprune.testing.subjects import SUBJECTS, Subject

AnySearch = Callable[..., Search[Any, Any]]
_NAMES = ("chain", "linear, without norms")


def check_search(search: AnySearch, *, promises: Iterable[str] = ()) -> None:
    """Run a search on two small networks, and raise at the first promise that it breaks.

    The search is called as `search(model, groups, evaluate, data=..., tune=..., folder=..., workers=...)`. The quality
    of a model is the part of its parameters that is left, less a little that depends on its weights.

    Args:
        search: any search; it is checked as it is configured. Give it few candidates, since it runs a dozen times.
        promises: names of those to check; default all of `SEARCH_PROMISES`.

    Raises:
        BrokenPromiseError: which promise is broken, on which network, what was seen, and what to do about it.
        InputError: an unknown promise.

    >>> import fxprune
    >>> from fxprune.testing import check_search
    >>> check_search(fxprune.search.Bisection(0.5, precision=0.25, progress=False))
    """
    names = chosen(promises, SEARCH_PROMISES)
    with random_states(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of budgets that so small networks cannot spend
        for subject in (s for s in SUBJECTS if s.name in _NAMES):
            for name in names:
                SEARCH_PROMISES[name](search, subject)


class _Quality:
    """The part of the parameters that is left; remembers how often it was asked, and may be interrupted."""

    def __init__(self, model: nn.Module) -> None:
        self.full, self.stop, self.asked = sum(p.numel() for p in model.parameters()), -1, 0

    def interrupted_at(self, number: int) -> _Quality:
        """The same, interrupted when it is asked for the given time."""
        self.stop = number
        return self

    def __call__(self, model: nn.Module) -> float:
        self.asked += 1
        if self.asked == self.stop:
            raise KeyboardInterrupt
        left = sum(p.numel() for p in model.parameters()) / self.full
        return left - 1e-3 * float(sum(p.detach().abs().mean() for p in model.parameters()))


def _tune(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-3 * torch.randn_like(p))


def _backwards(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """A runner whose results come in another order."""
    return reversed([function(job) for job in jobs])


def _broken(promise: str, what: str, subject: Subject, seen: str = "", remedy: str = "") -> BrokenPromiseError:
    where = f"the network '{subject.name}'"
    return BrokenPromiseError(promise, what, of="search", where=where, seen=seen, remedy=remedy)


def _found(search: AnySearch, subject: Subject, evaluate: Any = None, **options: Any) -> Search[Any, Any]:
    evaluate = evaluate or _Quality(subject.model)
    try:
        found = search(subject.model, subject.groups, evaluate, data=subject.batches(), tune=_tune, **options)
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        raise _broken("works", "it fails on a network that it should search", subject, seen) from error
    if not isinstance(found, Search):
        remedy = "derive it from fxprune.search.Driver, or return a fxprune.search.Search"
        raise _broken("works", "it returns no Search", subject, type(found).__name__, remedy)
    return found


def _works(search: AnySearch, subject: Subject) -> None:
    found = _found(search, subject)
    if not found.finished or found.baseline != _Quality(subject.model)(subject.model):
        seen = f"finished: {found.finished}, baseline: {found.baseline}"
        raise _broken("works", "it does not end with the original's quality as the baseline", subject, seen)


def _fits(search: AnySearch, subject: Subject) -> None:
    found = _found(search, subject)
    wanted, got = (_shapes(m) for m in (rewrite(subject.model, found.plan), found.model))
    if wanted != got:
        different = next(name for name in {**wanted, **got} if wanted.get(name) != got.get(name))
        raise _broken("fits", "the model is not what the plan makes of the original", subject, seen=different)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _deterministic(search: AnySearch, subject: Subject) -> None:
    first = _found(search, subject)
    seed_random_states(12345)
    remedy = "draw from a generator of your own: numpy.random.default_rng(self.seed)"
    _same("deterministic", "the same call finds something else", subject, (first, _found(search, subject)), remedy)


def _any_workers(search: AnySearch, subject: Subject) -> None:
    pair = _found(search, subject), _found(search, subject, workers=_backwards)
    remedy = "decide when `evaluator.run` has returned, by the order of the candidates that it was given"
    _same("any workers", "results in another order lead elsewhere", subject, pair, remedy)


def _same(promise: str, what: str, subject: Subject, pair: tuple[Search[Any, Any], ...], remedy: str) -> None:
    a, b = pair
    weights = [torch.cat([p.detach().flatten() for p in found.model.parameters()]) for found in pair]
    if a.plan != b.plan or not torch.equal(*weights):
        raise _broken(promise, what, subject, f"{a.plan.kept_counts()} and then {b.plan.kept_counts()}", remedy)


def _untouched(search: AnySearch, subject: Subject) -> None:
    before = footprint(subject.model)
    _found(search, subject)
    for kind, place in changes(before, footprint(subject.model)):
        raise _broken("untouched", f"it changes the {kind}", subject, seen=place, remedy="let the evaluator run models")


def _remembers(search: AnySearch, subject: Subject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, quality = _found(search, subject, folder=folder), _Quality(subject.model)
        again = _found(search, subject, quality, folder=folder)
    if quality.asked:
        seen, remedy = f"{quality.asked} evaluations", "ask for the same candidates when the answers are the same"
        raise _broken("remembers", "a search that is done is done again", subject, seen, remedy)
    _same("remembers", "its folder leads elsewhere", subject, (first, again), "see fxprune.search.Driver")


def _interruptible(search: AnySearch, subject: Subject) -> None:
    whole = _Quality(subject.model)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = _found(search, subject, whole)
        try:
            _found(search, subject, _Quality(subject.model).interrupted_at(3), folder=folder)
        except KeyboardInterrupt:
            rest = _Quality(subject.model)
            again = _found(search, subject, rest, folder=folder)
        else:
            if whole.asked < 3:  # it ends before it could be interrupted
                return
            remedy = "let KeyboardInterrupt through, or derive it from fxprune.search.Driver"
            raise _broken(
                "interruptible", "an interrupted search returns as if it had finished", subject, remedy=remedy
            )
    if rest.asked >= whole.asked:
        seen = f"{rest.asked} evaluations after the interruption, {whole.asked} without one"
        remedy = "derive it from fxprune.search.Driver"
        raise _broken("interruptible", "Ctrl-C loses what was found", subject, seen, remedy)
    _same("interruptible", "after Ctrl-C, its folder leads elsewhere", subject, (undisturbed, again), "see the Driver")


def _refuses_clearly(search: AnySearch, subject: Subject) -> None:
    try:
        search(subject.model, subject.groups, lambda _: float("nan"), data=subject.batches())
    except InputError:
        return
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
        raise _broken(
            "refuses clearly", "a quality that is not a number raises no InputError", subject, seen
        ) from error
    remedy = "begin with evaluator.baseline(), which does"
    raise _broken("refuses clearly", "an original whose quality is not a number is accepted", subject, remedy=remedy)


SEARCH_PROMISES: dict[str, Callable[[AnySearch, Subject], None]] = {
    "works": _works,
    "fits": _fits,
    "deterministic": _deterministic,
    "any workers": _any_workers,
    "untouched": _untouched,
    "remembers": _remembers,
    "interruptible": _interruptible,
    "refuses clearly": _refuses_clearly,
}
