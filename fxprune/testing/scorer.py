"""The contract of a scorer, as promises that are checked on small networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError
from fxprune.module.isolation import random_states, seed_random_states
from fxprune.scorers.base import Scorer
from fxprune.testing.footprint import changes, footprint
from fxprune.testing.promises import BrokenPromiseError, chosen
from fxprune.testing.subjects import SUBJECTS, Subject


def check_scorer(scorer: Scorer, *, promises: Iterable[str] = (), devices: Iterable[str] = ()) -> None:
    """Run a scorer on small networks, and raise at the first promise that it breaks.

    The networks hold chains, channels that several layers make, a layer that runs twice, grouped, depthwise and
    transposed convolutions, concatenations, flattened maps, linear layers, channel samplers and tables of positions, in
    float32 and float64. All end in three classes, and data comes as batches of (inputs, classes). Where a group has no
    batch norm, or no layer makes its channels, a scorer may refuse with an `InputError`; all others it must score.

    Args:
        scorer: any scorer; one with options is checked as it is configured.
        promises: names of those to check; default all of `PROMISES`.
        devices: where to run; default "cpu", and "cuda" where there is one.

    Raises:
        BrokenPromiseError: which promise is broken, on which network, what was seen, and what to do about it.
        InputError: an unknown promise.

    >>> import fxprune
    >>> from fxprune.testing import check_scorer
    >>> check_scorer(fxprune.scorers.L2Norm())
    >>> def forgetful(model, groups, data=None):
    ...     return {}
    >>> check_scorer(forgetful)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxprune.testing.promises.BrokenPromiseError: the scorer breaks the promise 'complete': a group has no scores in ...
    """
    names = chosen(promises, PROMISES)
    where = list(devices) or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with random_states():
        for subject in (s.on(device) for device in where for s in SUBJECTS):
            call = Call(scorer, subject)
            for name in names:
                PROMISES[name](call)


def _place(subject: Subject) -> str:
    return f"the network '{subject.name}' on {subject.device}"


Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Call:
    """A scorer and a network that it is called on.

    Attributes:
        scorer: what is checked.
        subject: the network, its groups and the data.
    """

    scorer: Scorer
    subject: Subject

    @cached_property
    def scores(self) -> Scores | None:
        """Scores of the first call, which most promises are about; None where the scorer may refuse and does."""
        return self.again(self.subject.groups)

    def again(self, groups: Groups) -> Scores | None:
        """Scores of one more call."""
        try:
            scores = self.scorer(self.subject.model, groups, self.subject.batches())
        except Exception as error:
            if isinstance(error, InputError) and not self.subject.ordinary:
                return None
            raise _failed(self.subject, error) from error
        if isinstance(scores, dict):
            return scores
        raise BrokenPromiseError(
            "works",
            "it returns no dict",
            where=_place(self.subject),
            seen=type(scores).__name__,
            remedy="{name: tensor}",
        )


def _failed(subject: Subject, error: Exception) -> BrokenPromiseError:
    return BrokenPromiseError(
        "works",
        "it fails on a network that it should score",
        where=_place(subject),
        seen=f"{type(error).__name__}: {error}",
        remedy="read the groups' slots, and refuse with fxprune.InputError only what gives nothing to go by",
    )


def _works(call: Call) -> None:
    call.scores  # noqa: B018  # it fails where the call does


def _complete(call: Call) -> None:
    subject, scores = call.subject, call.scores
    names = [g.name for g in subject.groups]
    if scores is None or set(scores) == set(names):
        return
    missing = [n for n in names if n not in scores]
    raise BrokenPromiseError(
        "complete",
        "a group has no scores" if missing else "scores of something other than a group",
        where=f"group {missing[0]} of {_place(subject)}" if missing else _place(subject),
        seen="" if missing else str(next(n for n in scores if n not in names)),
        remedy="return one tensor for each group of `groups`, by name",
    )


def _shaped(call: Call) -> None:
    for name, values in (call.scores or {}).items():
        size = call.subject.groups[name].size
        if not isinstance(values, Tensor):
            what, seen, remedy = "scores are not a tensor", type(values).__name__, "return torch tensors"
        elif tuple(values.shape) != (size,):
            what, seen, remedy = "scores of the wrong shape", f"{tuple(values.shape)}, not ({size},)", "one a channel"
        elif values.dtype != torch.float64:
            what, seen, remedy = "scores of the wrong type", str(values.dtype), "call .double()"
        elif values.requires_grad:
            what, seen, remedy = "scores carry a gradient", "requires_grad=True", "call .detach()"
        else:
            continue
        where = f"group {name} of {_place(call.subject)}"
        raise BrokenPromiseError("shaped", what, where=where, seen=seen, remedy=remedy)


def _finite(call: Call) -> None:
    for name, values in (call.scores or {}).items():
        if not values.isfinite().all():
            seen = f"{int((~values.isfinite()).sum())} of {len(values)}"
            raise BrokenPromiseError(
                "finite",
                "scores that are not finite",
                where=f"group {name} of {_place(call.subject)}",
                seen=seen,
                remedy="mind divisions by zero: equal channels, dead channels, a single sample",
            )


def _deterministic(call: Call) -> None:
    first = call.scores
    seed_random_states(12345)
    second = call.again(call.subject.groups)
    _compare("deterministic", "the same call gives other scores", call.subject, first, second, _SEED)


_SEED = "draw from a generator of your own: torch.Generator().manual_seed(self.seed)"


def _order_independent(call: Call) -> None:
    turned = call.subject.groups.subset(reversed(list(call.subject.groups)))
    remedy = "let no group's scores depend on what was scored before: seed by group name"
    first, second = call.scores, call.again(turned)
    _compare("order-independent", "groups in another order have other scores", call.subject, first, second, remedy)


def _compare(promise: str, what: str, subject: Subject, a: Scores | None, b: Scores | None, remedy: str) -> None:
    for name in a or {}:
        x, y = a[name].cpu(), (b or {}).get(name, torch.zeros(0)).cpu()  # type: ignore[index]
        same = x.shape == y.shape and torch.allclose(x, y, rtol=1e-9 if subject.device == "cpu" else 1e-3, atol=0)
        if not same:
            seen = f"{_shown(x)} and then {_shown(y)}"
            raise BrokenPromiseError(
                promise, what, where=f"group {name} of {_place(subject)}", seen=seen, remedy=remedy
            )


def _shown(values: Tensor) -> str:
    return str([round(v, 6) for v in values[:3].tolist()]).replace("]", ", ...]" if len(values) > 3 else "]")


def _untouched(call: Call) -> None:
    subject, data = replace(call.subject), call.subject.batches()  # a fresh model: what was done once is not seen again
    with _in_use(subject.model):
        before = footprint(subject.model, data)
        try:
            call.scorer(subject.model, call.subject.groups, data)
        except InputError as error:
            if subject.ordinary:
                raise _failed(subject, error) from error
        _same(before, subject, "untouched", data)


def _untouched_on_failure(call: Call) -> None:
    subject, data = replace(call.subject), call.subject.batches()

    def broken() -> Iterator[Any]:
        yield data[0]
        raise OSError("the data ends in an error, on purpose")

    with _in_use(subject.model):
        before = footprint(subject.model, data)
        with suppress(OSError, InputError):
            call.scorer(subject.model, call.subject.groups, broken())
        _same(before, subject, "untouched on failure", data)


def _same(before: Any, subject: Subject, promise: str, data: Any) -> None:
    for kind, place in changes(before, footprint(subject.model, data)):
        raise BrokenPromiseError(
            promise,
            f"it changes the {kind}",
            where=f"{place or 'the model'} of {_place(subject)}",
            remedy="run the copy of `with fxprune.testing.isolated(model, keep_buffers=True) as copy:`",
        )


@contextmanager
def _in_use(model: nn.Module) -> Iterator[None]:
    """The model as its owner may have left it: modes mixed, gradients, a frozen parameter, hooks."""
    modules, parameters = list(model.modules()), list(model.parameters())
    hooks = [m.register_forward_hook(lambda *_: None) for m in modules]
    hooks += [m.register_forward_pre_hook(lambda *_: None) for m in modules]
    model.train()
    modules[-1].eval()
    for p in parameters:
        p.grad = torch.ones_like(p)
    parameters[0].requires_grad_(False)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for p in parameters:
            p.grad = None
            p.requires_grad_(True)
        model.eval()


def _refuses_clearly(call: Call) -> None:
    try:
        call.scorer(call.subject.model, call.subject.groups, [])
    except InputError:
        pass
    except Exception as error:
        raise BrokenPromiseError(
            "refuses clearly",
            "data without a batch raise no InputError",
            where=_place(call.subject),
            seen=f"{type(error).__name__}: {error}",
            remedy="raise fxprune.InputError, or leave data alone; fxprune.testing.observe does it for you",
        ) from error


PROMISES: dict[str, Callable[[Call], None]] = {
    "works": _works,
    "complete": _complete,
    "shaped": _shaped,
    "finite": _finite,
    "deterministic": _deterministic,
    "order-independent": _order_independent,
    "untouched": _untouched,
    "untouched on failure": _untouched_on_failure,
    "refuses clearly": _refuses_clearly,
}
