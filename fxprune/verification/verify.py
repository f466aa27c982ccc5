"""Verify: the pruned model equals the masked one.

Zero the slices that a plan removes in the full-size model: its output must equal the pruned model's, whatever the
model is, except where a norm, mean or softmax runs over the pruned dim itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import FxpruneError, InputError, ProofError, check_data
from fxprune.module.default_dtype import DefaultDtype
from fxprune.module.isolation import (
    Inputs,
    as_call,
    call,
    cloned,
    isolated,
    output_tensors,
    plain_attention,
    seed_random_states,
    set_training,
    tensors_of,
)
from fxprune.plan.plan import Plan
from fxprune.rewriting.copying import copied
from fxprune.rewriting.rewrite import check_fit, rewrite
from fxprune.verification.compare import WHOLE, Outputs, deviation, first_nan
from fxprune.verification.modes import comparable_calls
from fxprune.verification.randomise import (
    calibrate,
    draw_constants,
    drawn_inputs,
    has_constants,
    is_leaf,
    outlives_the_call,
)


def verify(model: nn.Module, plan: Plan, example_inputs: Any, *, randomise: bool = True, seed: int = 0) -> float:
    """The largest relative deviation between the pruned model and the masked one.

    Computed in float64, or, where the model's code insists on another type, in the model's own.

    A deep net that was never trained damps its signal until a wrong channel in an early layer hides below rounding.
    Therefore the comparison runs, on copies, with every signal randomised: tensors whose elements are all equal (fresh
    scales and shifts, which look the same in any order, and blank example inputs, unless the model refuses others) are
    drawn anew, BatchNorm statistics are estimated on the masked model from the example, and biases are set so that no
    ReLU is dead. That tests the plan and the rewriting, whatever the weights and the example.

    Both models draw the same random numbers; where they differ in spite of that, for noise may have the shape of a
    pruned activation, they are compared again without noise, and with 0 in the place of what is not finite.

    Where modules run in training mode only (auxiliary heads), and the model trains without targets, both models are
    compared in training mode as well, with BatchNorm in evaluation mode and without dropout.

    Args:
        model: the full-size model; untouched.
        plan: the plan to prove.
        example_inputs: as for `fxprune.trace`.
        randomise: False compares with the model's own weights and statistics, and on the example, as they are.
        seed: of the values drawn for constant tensors, and of the random numbers that the models draw.

    Returns:
        max |pruned - masked| / max |masked|, the largest over all outputs, and over the results of all modules whose
        shape the plan leaves alone (a detector's outputs may be empty). Rounding gives about 1e-12, a wrong
        plan more than 1e-5; infinity if the masked model trains and the pruned one fails, or if either computes NaN
        where the model itself does not.

    Raises:
        PlanError: the plan is for another model.
        ProofError: the pruned model fails where the full-size one runs.
        InputError: the model fails on the inputs, computes NaN, is on the meta device, or cannot be copied; or there
            was nothing to compare.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> fxprune.verify(net, groups.plan({"0": [0, 3, 5]}), x) < 1e-12
    True
    """
    return measured(model, plan, example_inputs, randomise=randomise, seed=seed).deviation


class Measured(NamedTuple):
    """What a comparison found.

    Attributes:
        deviation: see `verify`.
        rounding: what rounding may amount to in the precision that was compared in.
    """

    deviation: float
    rounding: float

    @property
    def differs(self) -> bool:
        return self.deviation > self.rounding


def measured(model: nn.Module, plan: Plan, example_inputs: Any, *, randomise: bool = True, seed: int = 0) -> Measured:
    """What `verify` returns, and what is still rounding."""
    check_fit(model, plan)
    inputs = as_call(example_inputs)
    _check_all_data(model, inputs)
    with isolated(model) as model, plain_attention():
        try:
            with DefaultDtype(torch.float64):
                found = _compare(lambda: _double_copy(model), plan, tree_map(_double, inputs), randomise, seed)
                return Measured(found, _rounding([torch.float64]))
        except FxpruneError:
            raise
        except Exception:
            # The model's code insists on a type of its own (`.float()`, an assertion); its own precision must do.
            own = [t.dtype for t in (*tensors_of(model).values(), *_tensors(inputs)) if t.is_floating_point()]
            return Measured(_in_own_precision(model, plan, inputs, randomise, seed), _rounding(own))


def _rounding(dtypes: Iterable[torch.dtype]) -> float:
    """The root of the coarsest precision, for models may magnify their rounding; in float64 a little more."""
    return max(1e-6, *(torch.finfo(dtype).eps ** 0.5 for dtype in dtypes))


def _check_all_data(model: nn.Module, inputs: Inputs) -> None:
    for name, t in [*tensors_of(model).items(), *(("the example inputs", t) for t in _tensors(inputs))]:
        check_data(name, t)


def _in_own_precision(model: nn.Module, plan: Plan, inputs: Inputs, randomise: bool, seed: int) -> float:
    try:
        call(copied(model).eval(), cloned(inputs))  # a failure of the pruned model is none of the inputs'
    except Exception as error:
        message = (str(error).splitlines() or [""])[0][:160]
        raise InputError(
            "the model fails on the example inputs",
            where=type(model).__name__,
            seen=f"{type(error).__name__}: {message} (inputs of shape {[tuple(t.shape) for t in _tensors(inputs)]})",
            remedy="give the inputs that it was traced with",
        ) from error
    try:
        return _compare(lambda: copied(model), plan, inputs, randomise, seed)
    except FxpruneError:
        raise
    except Exception as error:
        raise ProofError(
            "the pruned model fails where the full-size one runs; the plan or fxprune's analysis is wrong",
            where=type(model).__name__,
            seen=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
            remedy="keep whole what fxprune.find_faulty_groups names, and report the model",
        ) from error


class _Pair(NamedTuple):
    """The masked and the pruned model, the inputs of both, and what the masked one made of them."""

    masked: nn.Module
    pruned: nn.Module
    inputs: Inputs
    expected: Outputs


def _compare(copy: Callable[[], nn.Module], plan: Plan, inputs: Inputs, randomise: bool, seed: int) -> float:
    """The deviation between two models made from fresh copies of one."""
    pair = _randomised_pair(copy, plan, inputs, seed) if randomise else _pair(copy(), plan, inputs, seed)
    if first_nan(pair.expected) is not None:
        _check_numbers(copy(), inputs, seed)
    error = deviation(pair.expected, _outputs(pair.pruned, pair.inputs, seed))
    if error > _WORTH_A_SECOND_LOOK:
        with comparable_calls():
            again = deviation(*(_outputs(m, pair.inputs, seed) for m in (pair.masked, pair.pruned)))
        error = min(error, again)
    return max(error, _training_deviation(pair))


_WORTH_A_SECOND_LOOK = 1e-8  # no rounding: noise, numbers that only masked channels cannot hold, or a wrong plan


def _randomised_pair(copy: Callable[[], nn.Module], plan: Plan, inputs: Inputs, seed: int) -> _Pair:
    def randomised(inputs: Inputs) -> _Pair:
        masked = copy()
        set_training(masked, False)
        draw_constants(masked, seed)
        mask(masked, plan)
        calibrate(masked, inputs, seed)
        return _pair(masked, plan, inputs, seed)

    if has_constants(inputs):
        # The model may refuse other values than the given ones.
        with suppress(Exception):
            pair = randomised(drawn_inputs(inputs, seed))
            if first_nan(pair.expected) is None:
                return pair
    return randomised(inputs)


def _pair(masked: nn.Module, plan: Plan, inputs: Inputs, seed: int) -> _Pair:
    """`masked`, a copy of the model, masked in place and run, and its pruned twin."""
    set_training(masked, False)
    mask(masked, plan)
    pruned = rewrite(masked, plan)
    return _Pair(masked, pruned, inputs, _outputs(masked, inputs, seed))


def mask(model: nn.Module, plan: Plan) -> None:
    """Zero, in place, what the plan removes: the full-size model that behaves like the pruned one.

    Raises:
        PlanError: the plan is for another model.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.mask(net, groups.plan({"0": [1]}))
    >>> net[0].weight[[0, 2]].flatten().tolist(), net[2].weight[0, [0, 2]].tolist()
    ([0.0, 0.0], [0.0, 0.0])
    """
    tensors = check_fit(model, plan)
    with torch.no_grad():
        for name, cuts in plan.cuts().items():
            for dim, kept in cuts.items():
                gone = np.delete(np.arange(tensors[name].shape[dim]), kept)
                tensors[name].index_fill_(dim, torch.from_numpy(gone).to(tensors[name].device), 0)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _double_copy(model: nn.Module) -> nn.Module:
    """A float64 copy, made without a float32 copy in between."""
    doubled: dict[int, Any] = {}
    for t in tensors_of(model).values():
        new = _double(t.detach()) if t.is_floating_point() and t.dtype != torch.float64 else t.detach().clone()
        doubled[id(t)] = nn.Parameter(new, requires_grad=False) if isinstance(t, nn.Parameter) else new
    return copied(model, doubled).double()


def _outputs(model: nn.Module, inputs: Inputs, seed: int) -> Outputs:
    """The results of the model's parametrised modules in execution order, and its outputs, of a run with that seed."""
    found: Outputs = []

    def keep(name: str) -> Any:
        return lambda _m, _args, out: found.extend((name, t) for t in output_tensors(out) if outlives_the_call(t))

    hooks = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if is_leaf(m)]
    seed_random_states(seed)
    try:
        output = call(model, cloned(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, *((WHOLE, t) for t in output_tensors(output))]


def _check_numbers(model: nn.Module, inputs: Inputs, seed: int) -> None:
    """Refuse a model whose outputs hold NaN; where it returns no numbers, its modules' results stand for them."""
    set_training(model, False)
    results = _outputs(model, inputs, seed)
    returned = [(name, t) for name, t in results if name == WHOLE and t.is_floating_point() and t.numel()]
    first = first_nan([*(("the example inputs", t) for t in _tensors(inputs)), *results])
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
    if all(name in ran for name in _callable_leaves(masked)):
        return 0.0
    for model in (masked, pruned):
        set_training(model, True)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
    try:
        once, *others = (_outputs(masked, inputs, seed) for seed in range(_RANDOM_RUNS))
    except Exception:
        return 0.0
    try:
        small = _outputs(pruned, inputs, 0)
    except Exception:
        return inf
    # A layer that is skipped at random may be skipped in no run; the pruned model has the first one's seed.
    return deviation(once, small) if all(deviation(once, other) == 0 for other in others) else 0.0


_RANDOM_RUNS = 3


def _callable_leaves(model: nn.Module) -> Iterator[str]:
    """Parametrised modules that run by being called; nn.MultiheadAttention reads its child's tensors instead."""
    inside = {id(c) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for c in m.children()}
    return (name for name, m in model.named_modules() if is_leaf(m) and id(m) not in inside)


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
