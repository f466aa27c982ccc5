"""Repair: all that can be done for a pruned model without training, in the right order, in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor, nn

from fxprune.errors import InputError, check_model
from fxprune.interrupts import interrupts_kept
from fxprune.module.batches import batches as batches_of
from fxprune.plan.plan import Plan
from fxprune.reconstruction.absorption import absorb_batchnorm
from fxprune.reconstruction.refit import reconstruct
from fxprune.rewriting.copying import copied
from fxprune.statistics.different import different_inputs
from fxprune.statistics.gram.collect import ENOUGH, Positions
from fxprune.statistics.merging import merged
from fxprune.statistics.shift import large_shift

M = TypeVar("M", bound=nn.Module)

IMAGES = 1024
"""Inputs that are used where the caller sets no number of batches."""


def repair(
    model: nn.Module,
    small: M,
    plan: Plan,
    data: Iterable[Any],
    *,
    batches: int | None = None,
    progress: bool = True,
    positions: Positions = ENOUGH,
    seed: int = 0,
) -> M:
    """A pruned model that computes what the original does, as nearly as its layers can; no training, no labels.

    Its layers that read removed channels are fitted by least squares to what the original gives, in execution order
    (see `fxprune.reconstruct`); shorter queries and keys become mixtures of all their dims, so that the logits stay;
    and the BatchNorms' running statistics become those of the data while the outputs stay as they are (see
    `fxprune.absorb_batchnorm`), so that a fine-tuning can follow.

    Each batch passes through the original once, and the first 128 inputs once more, for the warning. What the pruned
    model computes before the layers that are still to be fitted is held, up to 1 GiB, so that a batch passes through it
    about twice, where convolutions that are fitted alone are computed once; one that is not held passes through the
    layers before each fitted one. Statistics of a layer with n weights a kernel take rows·n² operations, at most 20·n³,
    and a fit 4·n²·outputs + n³/3 for each ridge that is tried.

    Args:
        model: the original; untouched.
        small: `fxprune.rewrite(model, plan)`; untouched.
        plan: what was removed.
        data: batches of inputs, or (inputs, targets) as data loaders give them; a generator does as well. They are read
            once and held in memory. A few hundred different inputs like those that the model is for do; labels are not
            read. From a few, layers are fitted where that helps on others of them; from a single one, none is. Inputs
            of another kind than those of training, by what batch norms read, are warned of. Batches of a few small
            images are merged, down to four, where the model is seen to give for the first of these what it gives for
            the batches that it is made of.
        batches: number of batches to use; None: as many as hold 1,024 inputs.
        progress: show a progress bar, where the output is a terminal.
        positions: as in `fxprune.reconstruct`; the default gives each layer 20 rows for each weight of a kernel.
        seed: of the positions.

    Returns:
        A repaired copy of `small`.

    Raises:
        PlanError: the plan is not of these models.
        InputError: unusable data or settings, or numbers that are not finite.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))  # of 8 linear channels, 4 suffice
    >>> x = torch.randn(256, 4)
    >>> plan = fxprune.find_groups(fxprune.trace(net, x)).plan({"0": [0, 1, 2, 3]})
    >>> small = fxprune.repair(net, fxprune.rewrite(net, plan), plan, [x])
    >>> float((net(x) - small(x)).detach().square().mean() / net(x).detach().var()) < 0.05
    True
    """
    if batches is not None and (not isinstance(batches, int) or batches < 1):
        raise InputError("batches must be a positive integer", seen=repr(batches), remedy="None takes 1,024 inputs")
    check_model("the pruned model", small)
    with interrupts_kept():
        held = held_batches(small, data, batches)
        if far := large_shift(model, held):
            warnings.warn(str(far), stacklevel=2)
        return repaired_on(held, model, small, plan, positions, seed, progress)


def repaired_on(
    held: Sequence[Any],
    model: nn.Module,
    small: M,
    plan: Plan,
    positions: Positions = ENOUGH,
    seed: int = 0,
    progress: bool = True,
) -> M:
    """As `repair`, on batches that can be read again and again."""
    repaired = refitted(model, small, plan, held, positions, seed, progress)
    absorb_batchnorm(repaired, held)
    return repaired


def refitted(
    model: nn.Module,
    small: M,
    plan: Plan,
    data: Sequence[Any],
    positions: Positions = ENOUGH,
    seed: int = 0,
    progress: bool = False,
) -> M:
    """A copy that gives the outputs of a repaired one, though its BatchNorms' statistics are not those of the data."""
    made = copied(small)
    if different_inputs(data, 2) > 1:  # a fit to one input holds for that input alone
        reconstruct(model, made, plan, data, positions=positions, ridge=None, seed=seed, progress=progress)
    return made


def held_batches(
    model: nn.Module, data: Iterable[Any], count: int | None = None, inputs: int | None = None, most: int | None = None
) -> list[Any]:
    """The first batches, read once: `count`, or as many as hold `inputs`.

    Small batches of images are merged, into ones of at most `most`; one batch of a single tensor comes in halves.
    """
    return merged(model, _in_halves(list(_first(model, data, count, inputs or IMAGES))), most)


def all_batches(model: nn.Module, data: Iterable[Any], most: int | None = None) -> list[Any]:
    """All batches, read once, in the same form."""
    given = list(data)
    return held_batches(model, given, len(given), most=most)


def choosing_batches(model: nn.Module, data: Iterable[Any], most: int, *, hold: bool) -> Iterable[Any]:
    """Batches to choose channels on: all held, of at most `most` inputs, or read anew in each pass."""
    return all_batches(model, data, most) if hold else _Halved(model, data)


@dataclass(frozen=True)
class _Halved:
    """Data in which one batch of a single tensor comes as two halves, so that some inputs can be held back."""

    model: nn.Module
    data: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        given = iter(self.data)
        first = list(islice(given, 2))
        yield from first if len(first) > 1 else held_batches(self.model, first)
        yield from given


def _in_halves(held: list[Any]) -> list[Any]:
    """One batch of a single tensor as two halves, so that some inputs can be held back; others as they are."""
    if len(held) != 1:
        return held
    given = held[0][0]
    alone = given[0] if isinstance(given, tuple) and len(given) == 1 else given
    if not isinstance(alone, Tensor) or alone.dim() < 2 or len(alone) < 2:
        return held
    return [((half,),) if alone is not given else (half,) for half in alone.chunk(2)]


def _first(model: nn.Module, data: Iterable[Any], count: int | None, most: int) -> Iterator[Any]:
    """The first batches, up to a number of batches, or of inputs."""
    inputs = 0
    for number, batch in enumerate(batches_of(model, data), 1):
        yield (batch.inputs[0] or batch.inputs[1],)
        inputs += batch.size
        if number == count or (count is None and inputs >= most):
            return
