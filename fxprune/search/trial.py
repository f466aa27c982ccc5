"""One candidate: the original cut by a plan, tuned and evaluated under a seed of its own."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError
from fxprune.module.isolation import random_states, same_modes, seed_random_states
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Plan
from fxprune.scorers.base import Scorer, check_scores

M = TypeVar("M", bound=nn.Module)
Floats = npt.NDArray[np.float32]
Evaluate = Callable[[Any], Any]
"""A model to a number, or to one number per sample of which the mean counts; higher is better."""
Tune = Callable[[Any], object]
"""Trains a model in place, with randomness from the global generators only."""


@dataclass(frozen=True, eq=False)
class Task(Generic[M]):
    """The task of a search.

    Attributes:
        model: the original.
        groups: its groups.
        evaluate: the quality of a model.
        scorer: which channels matter.
        data: batches for scorer and refits.
        tune: trains a cut model in place; None for none.
        repair: a cut model and its plan to the model that is tuned; None for the cut model as it is.
        known: scores of the channels, if they were measured before; those of other groups are left out.
    """

    model: M
    groups: Groups
    evaluate: Evaluate
    scorer: Scorer
    data: Iterable[Any] | None = None
    tune: Tune | None = None
    repair: Callable[[M, Plan], M] | None = None
    known: Mapping[str, Tensor] | None = None

    def scores(self) -> Mapping[str, Tensor]:
        """Of the original's channels.

        Raises:
            InputError: unusable scores.
        """
        if self.known is not None:
            return {g.name: self.known[g.name] for g in self.groups}
        scores = self.scorer(self.model, self.groups, self.data)
        check_scores(scores, self.groups)
        return scores


@dataclass(frozen=True)
class Candidate:
    """A plan to be tried, for the first time or once more, and how its model is made.

    Attributes:
        plan: what stays.
        repeat: 0, 1, ...; each repeat is tuned under another seed.
        tuned: whether it is tuned at all; the original is not.
        base: the name of what it is made from, if that is not the original.
        can_win: whether its model may be asked for later.
        source: the model that a copy is made of; None is the original, cut by the plan.
        change: what is done with the copy, in place; None is the search's `tune`.
    """

    plan: Plan
    repeat: int = 0
    tuned: bool = True
    base: str = ""
    can_win: bool = True
    source: nn.Module | None = field(default=None, repr=False, compare=False)
    change: Tune | None = field(default=None, repr=False, compare=False)

    @cached_property
    def key(self) -> str:
        """Names the candidate in the journal: 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.repeat} {self.tuned} {self.base}".encode())
        for name, group in self.plan.groups.items():
            digest.update(f"{name} {len(group.kept)} ".encode() + group.kept.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is known of a candidate.

    Attributes:
        key: of the candidate.
        fitness: the value of `evaluate`, or its mean over the samples.
        samples: the value of each sample, of shape (samples,); None if `evaluate` returned one number.
        seed: of the tuning.
        seconds: wall clock of tuning and evaluation.
    """

    key: str
    fitness: float
    samples: Floats | None
    seed: int
    seconds: float


@dataclass(frozen=True)
class Job(Generic[M]):
    """All that is needed to try a candidate, here or elsewhere.

    Attributes:
        key: of the candidate.
        model: the cut model; changed by the tuning.
        tune: None for none.
        evaluate: judges the model.
        seed: what the global generators are seeded with.
    """

    key: str
    model: M
    tune: Tune | None
    evaluate: Evaluate
    seed: int


def attempt(job: Job[M]) -> tuple[Outcome, M]:
    """Tune and evaluate; the random states of this process are as before.

    The model is evaluated, and given back, in the modes (`training`) that it has before the tuning: the original's.
    """
    start = time.perf_counter()
    with random_states():
        seed_random_states(job.seed)
        torch.manual_seed(job.seed)  # also for a GPU that the tuning is the first to use
        with same_modes(job.model):
            if job.tune is not None:
                with same_modes(job.model):
                    tuned(job.tune, job.model)
            before = _kinds(job.model)
            fitness, samples = measured(job.evaluate(job.model))
            if (after := _kinds(job.model)) != before:
                name = min(name for name, _ in before.items() ^ after.items())
                seen, remedy = f"{before.get(name)} before, {after.get(name)} after", "change copy.deepcopy(model)"
                raise InputError("evaluate has changed the model's structure", where=name, seen=seen, remedy=remedy)
    return Outcome(job.key, fitness, samples, job.seed, time.perf_counter() - start), job.model


class Cutting:
    """A step of a search that cuts a model, and may tune it afterwards."""


def tuned(tune: Tune, model: nn.Module) -> None:
    """Tune a model in place.

    Raises:
        InputError: another model came back, or one with other parameters or buffers, which no file of the plan would
            fit.
    """
    before = _shapes(model)
    back = tune(model)  # type: ignore[func-returns-value]  # of those who return it all the same
    if isinstance(back, nn.Module) and back is not model:
        remedy = "train the model that is given; from a copy, model.load_state_dict(copy.state_dict())"
        raise InputError("tune gave back another model", seen=type(back).__name__, remedy=remedy)
    if (after := _shapes(model)) != before and not isinstance(tune, Cutting):
        name = min(name for name, _ in before.items() ^ after.items())
        seen, remedy = (
            f"{before.get(name)} before, {after.get(name)} after",
            "train the parameters that are there, and register no buffers",
        )
        raise InputError("tune has changed the model's structure", where=name, seen=seen, remedy=remedy)


def _kinds(model: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of parameters and buffers, which a file of the plan has to fit."""
    return {name: (str(t.dtype), tuple(t.shape)) for name, t in tensors_of(model).items() if not t.is_meta}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of parameters and buffers, those with numbers."""
    own = (*model.named_parameters(), *model.named_buffers())
    return {name: tuple(t.shape) for name, t in own if not t.is_meta}


def measured(value: Any) -> tuple[float, Floats | None]:
    """What `evaluate` returned, as the fitness and the values of the samples, if it gave them.

    Raises:
        InputError: neither a number nor a list of numbers.
    """
    if isinstance(value, tuple):  # such as (accuracy, loss), whose mean says nothing
        remedy = "return the one number that counts, such as result[0], higher is better"
        raise InputError("evaluate gave a tuple", seen=repr(value)[:80], remedy=remedy)
    try:
        array = np.asarray(value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError, RuntimeError):  # of lists whose parts are of different lengths
        array = np.empty(0)
    if array.dtype.kind not in "biuf" or array.ndim > 1 or not array.size:
        remedy = "return a number, or a tensor of one number per sample, higher is better"
        seen = " ".join(f"{type(value).__name__} {value!r}".split())[:80]
        raise InputError("evaluate gave no number", seen=seen, remedy=remedy)
    if array.ndim == 0:
        return float(array), None
    samples = array.astype(np.float32)
    return (float(samples.mean(dtype=np.float64)) if np.isfinite(samples).all() else math.nan), samples
