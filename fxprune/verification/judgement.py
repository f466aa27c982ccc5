"""Judgement: compare the masked and the pruned model, at first cheaply, then closely if anything is unclear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, nan
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.errors import FxpruneError, InputError, ProofError
from fxprune.module.isolation import Inputs, call, cloned, isolated, set_training
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import Rewritten
from fxprune.verification.compare import CLEAR, WHOLE, Outputs, are_equal, deviation, first_nan, is_finite, is_narrow
from fxprune.verification.inputs import other_inputs, smaller_inputs, tensors_in
from fxprune.verification.modes import comparable_calls
from fxprune.verification.numbers import Numbers, Precision, lifted
from fxprune.verification.randomise import drawn_inputs, has_constants, is_leaf
from fxprune.verification.reading import Twin


class Measured(NamedTuple):
    """What a comparison found.

    Attributes:
        deviation: see `fxprune.verify`.
        rounding: what rounding may amount to in the precision that was compared in.
        resized: whether it was found on inputs of another size than the example's, while the example shows none.
    """

    deviation: float
    rounding: float
    resized: bool = False

    @property
    def differs(self) -> bool:
        return self.deviation > self.rounding


@dataclass(frozen=True)
class Question:
    """Whether a model pruned as planned equals the masked one.

    Attributes:
        model: the full-size model.
        plan: what stays.
        seed: of all random numbers.
        called: the parametrised modules that a run calls, if known; then smaller inputs may do.
        astray: whether data decide which layers run, and some did not: other data may reach those, and are compared as
            well.
        sized: whether the model's code reads sizes of its activations: then what equals for one size of the inputs may
            differ for another, and inputs of other sizes than the example's are compared as well.
        small: the pruned model, if it was made already; it is run and comes out of that as it was.
        randomise: whether every signal differs from every other (see `fxprune.verify`).
    """

    model: nn.Module
    plan: Plan
    seed: int = 0
    randomise: bool = True
    small: Rewritten | None = None
    called: frozenset[str] = frozenset()
    astray: bool = False
    sized: bool = False


class _Pair(NamedTuple):
    """The masked and the pruned model, the inputs of both, and what the masked one made of them."""

    masked: Twin
    pruned: Twin
    inputs: Inputs
    expected: Outputs

    def differ(self, expected: Outputs, found: Outputs) -> float:
        """The deviation of what the pruned model gives from what is expected of it."""
        numbers = self.pruned.numbers
        scaled = {s.tensor.rpartition(".")[0] for s in numbers.plan.scales}
        if numbers.precision is not Precision.SINGLE:
            return deviation(expected, found, scaled, numbers.planned)
        if are_equal(expected, found, scaled, numbers.planned):
            return 0.0
        return max(2 * CLEAR, deviation(expected, found, scaled, numbers.planned))  # NaN in both is not equal here


_IN_DOUBLE = 1e-6  # what models may make of the rounding of float64


def judged(question: Question, inputs: Inputs) -> Measured:
    """The comparison on the example inputs, and on others where the model's code may go by their sizes or numbers.

    Raises:
        FxpruneError: see `fxprune.verify`.
    """
    found = _judged_on_example(question, inputs)
    if not found.differs and question.astray:
        found = next((other for other in _judged_astray(question, inputs) if other.differs), found)
    if found.differs or not question.sized:
        return found
    precision = Precision.SINGLE if _suits_single(question, inputs) else Precision.DOUBLE
    for other, pair in islice(_that_run(question, other_inputs(inputs), precision), 2):
        if not _is_equal(pair, question.seed):
            closely = _judged_on_other(question, other)
            if closely.differs:
                return closely._replace(resized=True)
    return found


def _judged_astray(question: Question, inputs: Inputs) -> Iterator[Measured]:
    """On numbers that may lead elsewhere: the example's, and the same with the other sign, in models drawn anew."""
    turned = tree_map(lambda t: -t if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)
    precision = Precision.SINGLE if _suits_single(question, inputs) else Precision.DOUBLE
    for k, given in enumerate([turned, inputs] * 2, 1):
        anew = replace(question, seed=question.seed + k)
        with suppress(Exception):
            if _is_equal(_pair(anew, given, precision, lazy=True), anew.seed):
                continue
        yield _judged_on_other(anew, given)


def _judged_on_other(question: Question, inputs: Inputs) -> Measured:
    try:
        return _judged_closely(question, inputs)
    except InputError:  # the model itself does not run on these
        return Measured(0.0, _IN_DOUBLE)
    except ProofError:
        return Measured(inf, _IN_DOUBLE)


def _is_equal(pair: _Pair, seed: int) -> bool:
    with suppress(Exception):  # a wrong plan, or stand-ins that the code does not take
        return _deviation(pair, seed) == 0
    return False


def _judged_on_example(question: Question, inputs: Inputs) -> Measured:
    """With numbers that are made as they are read, or, if anything is unclear, with real copies."""
    error, seen = _in_single(question, inputs)
    if error == 0:
        return Measured(0.0, _IN_DOUBLE)
    if error > _FAR:
        return _judged_closely(question, seen)
    found = next(_that_run(question, smaller_inputs(inputs), Precision.DOUBLE), None)
    return _judged_on(question, inputs) if found is None else _judged_on(question, *found)


_FAR = 1e-2
"""More is hardly the rounding of float32: a wrong plan, or noise."""


def _in_single(question: Question, inputs: Inputs) -> tuple[float, Inputs]:
    """How far both models are apart in float32, and on which inputs: 0 if they are equal, NaN if that is not known."""
    if not _suits_single(question, inputs):
        return nan, inputs
    with suppress(Exception):
        smaller = next(_that_run(question, smaller_inputs(inputs), Precision.SINGLE), None)
        seen, pair = smaller or (inputs, _pair(question, inputs, Precision.SINGLE, lazy=True))
        return _deviation(pair, question.seed), seen
    return nan, inputs


def _suits_single(question: Question, inputs: Inputs) -> bool:
    own = [*tensors_of(question.model).values(), *tensors_in(inputs)]
    return any(t.is_floating_point() for t in own) and not any(map(is_narrow, own))


def _that_run(question: Question, among: Iterable[Inputs], precision: Precision) -> Iterator[tuple[Inputs, _Pair]]:
    """The inputs that reach the modules which the example reaches, and no others, with the models on them."""
    for given in among if question.called and question.randomise else ():
        with suppress(Exception):  # the model may take no other sizes
            pair = _pair(question, given, precision, lazy=True)
            if {name for name, _ in pair.expected if name} == question.called and first_nan(pair.expected) is None:
                yield given, pair


def _judged_on(question: Question, inputs: Inputs, pair: _Pair | None = None) -> Measured:
    try:
        known = pair or _pair(question, inputs, Precision.DOUBLE, lazy=True)
        has_nan = pair is None and first_nan(known.expected) is not None
        found = inf if has_nan else _deviation(known, question.seed)
    except FxpruneError:
        raise
    except Exception:  # calls that stand-ins go past, types that the code insists on, a wrong plan
        found = inf
    return Measured(found, _IN_DOUBLE) if found <= CLEAR else _judged_closely(question, inputs)


def _judged_closely(question: Question, inputs: Inputs) -> Measured:
    try:
        return Measured(_compared_closely(question, inputs, Precision.DOUBLE), _IN_DOUBLE)
    except FxpruneError:
        raise
    except Exception:
        # The model's code insists on a type of its own (an assertion); its own precision must do.
        _check_that_it_runs(question.model, inputs)
    try:
        found = _compared_closely(question, inputs, Precision.OWN)
    except FxpruneError:
        raise
    except Exception as error:
        raise ProofError(
            "the pruned model fails where the full-size one runs; the plan or fxprune's analysis is wrong",
            where=type(question.model).__name__,
            seen=_first_line(error),
            remedy="keep whole what fxprune.find_faulty_groups names, and report the model",
        ) from error
    own = [*question.model.parameters(), *question.model.buffers(), *tensors_in(inputs)]
    return Measured(found, _rounding(t.dtype for t in own if t.is_floating_point()))


def _rounding(dtypes: Iterable[torch.dtype]) -> float:
    """The root of the coarsest precision: models may magnify their rounding."""
    return max(_IN_DOUBLE, *(torch.finfo(dtype).eps ** 0.5 for dtype in dtypes))


def _check_that_it_runs(model: nn.Module, inputs: Inputs) -> None:
    """A failure of the pruned model is not one of the inputs."""
    try:
        with isolated(model, keep_buffers=True) as work:
            set_training(work, False)
            call(work, cloned(inputs))
    except Exception as error:
        raise InputError(
            "the model fails on the example inputs",
            where=type(model).__name__,
            seen=f"{_first_line(error)} (inputs of shape {[tuple(t.shape) for t in tensors_in(inputs)]})",
            remedy="give the inputs that it was traced with",
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def _pair(question: Question, inputs: Inputs, precision: Precision, *, lazy: bool) -> _Pair:
    """The two models, and the masked one's results, on inputs that vary, where the model takes such."""
    *others, last = _candidates(question, inputs)
    for given in others:  # the model may refuse other values than the given ones
        with suppress(Exception):
            pair = _pair_on(question, given, precision, lazy=lazy)
            if first_nan(pair.expected) is None:
                return pair
    return _pair_on(question, last, precision, lazy=lazy)


def _pair_on(question: Question, inputs: Inputs, precision: Precision, *, lazy: bool) -> _Pair:
    seed = question.seed if question.randomise else None
    numbers = Numbers(question.model, question.plan, seed, precision, small=question.small)
    masked = Twin(question.model, numbers, "masked", lazy=lazy)
    expected = masked.run(given := _in_precision(inputs, precision), question.seed)
    return _Pair(masked, Twin(question.model, numbers, "pruned", lazy=lazy), given, expected)


def _in_precision(inputs: Inputs, precision: Precision) -> Inputs:
    double = precision is Precision.DOUBLE
    return tree_map(lambda t: lifted(t) if double and isinstance(t, Tensor) else t, inputs)


def _candidates(question: Question, inputs: Inputs) -> Iterator[Inputs]:
    if question.randomise and has_constants(inputs):
        yield drawn_inputs(inputs, question.seed)
    yield inputs


def _deviation(pair: _Pair, seed: int) -> float:
    error = pair.differ(pair.expected, pair.pruned.run(pair.inputs, seed))
    return error if error > CLEAR else max(error, _training_deviation(pair))  # what is wrong in evaluation is wrong


def _compared_closely(question: Question, inputs: Inputs, precision: Precision) -> float:
    """The deviation between real copies; noise, and numbers that only masked channels cannot hold, do not count."""
    pair, seed = _pair(question, inputs, precision, lazy=False), question.seed
    if first_nan(pair.expected) is not None:
        _check_numbers(question, inputs, precision)
    found = pair.pruned.run(pair.inputs, seed)
    error = pair.differ(pair.expected, found)
    noisy = pair.masked.has_drawn or pair.pruned.has_drawn
    if error > CLEAR and (noisy or not all(map(is_finite, (pair.expected, found)))):
        with comparable_calls():
            error = min(error, pair.differ(*(twin.run(pair.inputs, seed) for twin in (pair.masked, pair.pruned))))
    return error if error > _FAR else max(error, _training_deviation(pair))


def _check_numbers(question: Question, inputs: Inputs, precision: Precision) -> None:
    """Refuse a model whose outputs hold NaN; where it returns no numbers, its modules' results stand for them."""
    numbers = Numbers(question.model, question.plan, None, precision)
    twin = Twin(question.model, numbers, "whole", lazy=False)
    results = twin.run(_in_precision(inputs, precision), question.seed)
    returned = [(name, t) for name, t in results if name == WHOLE and t.is_floating_point() and t.numel()]
    first = first_nan([*(("the example inputs", t) for t in tensors_in(inputs)), *results])
    if first is not None and (not returned or first_nan(returned) is not None):
        raise InputError(
            "the model computes NaN; it first appears",
            where=first or "the output",
            remedy="look for weights or inputs that are not finite",
        )


def _training_deviation(pair: _Pair) -> float:
    """The deviation in training mode, if some modules ran only there; else 0. Infinite if only the masked model trains.

    BatchNorm stays in evaluation mode and dropout is off. A model that is random in spite of that is not compared, and
    one that needs targets to train is not even run.
    """
    masked, pruned, inputs, seen = pair
    ran = {name for name, _ in seen}
    if all(name in ran for name in _callable_leaves(masked.model)):
        return 0.0
    try:
        once, *others = (masked.run(inputs, seed, training=True) for seed in range(_RANDOM_RUNS))
    except Exception:
        return 0.0
    try:
        small = pruned.run(inputs, 0, training=True)
    except Exception:
        return inf
    # A layer that is skipped at random may be skipped in no run; the pruned model has the first one's seed.
    return pair.differ(once, small) if all(deviation(once, other) == 0 for other in others) else 0.0


_RANDOM_RUNS = 3


def _callable_leaves(model: nn.Module) -> Iterator[str]:
    """Parametrised modules that run by being called; nn.MultiheadAttention reads its child's tensors instead."""
    inside = {id(c) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for c in m.children()}
    return (name for name, m in model.named_modules() if is_leaf(m) and id(m) not in inside)
