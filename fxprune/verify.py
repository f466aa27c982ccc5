"""Verify: the pruned model equals the masked one.

Zero the slices that a plan removes in the full-size model: its output must equal the pruned model's, whatever the
model is, except where a norm, mean or softmax runs over the pruned dim itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import InputError
from fxprune.plan import Plan
from fxprune.rewrite import check_fit, copied, rewrite
from fxprune.tracing.borrow import (
    Inputs,
    as_call,
    borrowed,
    call,
    cloned,
    output_tensors,
    plain_attention,
    set_training,
    tensors_of,
)


def verify(model: nn.Module, plan: Plan, example_inputs: Any, *, excite: bool = True, seed: int = 0) -> float:
    """The largest relative deviation between the pruned model and the masked one.

    Computed in float64, or, where the model's code insists on another type, in the model's own.

    A deep net that was never trained damps its signal until a wrong channel in an early layer hides below rounding.
    Therefore the comparison runs, on copies, with every signal excited: tensors whose elements are all equal (fresh
    scales and shifts, which look the same in any order) are drawn anew, BatchNorm statistics are estimated on the
    masked model from the example, and biases are set so that no ReLU is dead. That tests the plan and the rewriting,
    whatever the weights.

    Where modules run in training mode only (auxiliary heads), and the model trains without targets, both models are
    compared in training mode as well, with BatchNorm in evaluation mode and without dropout.

    Args:
        model: the full-size model; untouched.
        plan: the plan to prove.
        example_inputs: as for `fxprune.trace`.
        excite: False compares with the model's own weights and statistics as they are.
        seed: of the values drawn for constant tensors.

    Returns:
        max |pruned - masked| / max |masked|, the largest over all outputs, and over the results of all modules whose
        shape the plan leaves alone (a detector's outputs may be empty). Rounding gives about 1e-12, a wrong
        plan more than 1e-5; infinity if the masked model trains and the pruned one fails.

    Raises:
        PlanError: the plan is for another model.
        InputError: the model fails on the inputs or cannot be copied, or there was nothing to compare.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> fxprune.verify(net, groups.plan({"0": [0, 3, 5]}), x) < 1e-12
    True
    """
    check_fit(model, plan)
    inputs = as_call(example_inputs)
    with borrowed(model), plain_attention():
        try:
            with _default_dtype(torch.float64):
                return _compare(_double_copy(model), plan, tree_map(_double, inputs), excite, seed)
        except RuntimeError:
            # The model's code insists on a type of its own (`.float()`); its own precision must do.
            return _in_own_precision(model, plan, inputs, excite, seed)


def _in_own_precision(model: nn.Module, plan: Plan, inputs: Inputs, excite: bool, seed: int) -> float:
    try:
        call(copied(model).eval(), cloned(inputs))  # a failure of the pruned model is none of the inputs'
    except RuntimeError as error:
        shapes = [tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        raise InputError(
            "the model fails on the example inputs",
            where=type(model).__name__,
            seen=f"{(str(error).splitlines() or [''])[0][:160]} (inputs of shape {shapes})",
            remedy="give the inputs that it was traced with",
        ) from error
    return _compare(copied(model), plan, inputs, excite, seed)


def _compare(masked: nn.Module, plan: Plan, inputs: Inputs, excite: bool, seed: int) -> float:
    """The deviation after `masked`, a copy of the model, was masked."""
    set_training(masked, False)
    if excite:
        _draw_constants(masked, seed)
    mask(masked, plan)
    if excite:
        _calibrate(masked, inputs, seed)
        mask(masked, plan)
    pruned = rewrite(masked, plan)
    expected = _outputs(masked, inputs)
    error = _deviation(expected, _outputs(pruned, inputs))
    return max(error, _training_deviation(masked, pruned, inputs, expected))


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
                gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
                gone[torch.from_numpy(kept)] = False
                tensors[name].index_fill_(dim, gone.nonzero().flatten().to(tensors[name].device), 0)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that the model's own code makes are of this type as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _double_copy(model: nn.Module) -> nn.Module:
    """A float64 copy, made without a float32 copy in between."""
    doubled: dict[int, Any] = {}
    for t in tensors_of(model).values():
        new = _double(t.detach()) if t.is_floating_point() and t.dtype != torch.float64 else t.detach().clone()
        doubled[id(t)] = nn.Parameter(new, requires_grad=False) if isinstance(t, nn.Parameter) else new
    return copied(model, doubled).double()


def _draw_constants(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for t in tensors_of(model).values():
        if t.is_floating_point() and t.numel() > 1 and bool((t == t.flatten()[0]).all()):
            t.copy_(torch.rand(t.shape, generator=generator, dtype=t.dtype) + 0.5)


def _calibrate(model: nn.Module, inputs: Inputs, seed: int) -> None:
    """One forward that estimates the statistics of all BatchNorms, and sets biases so that no activation is dead."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum, m.training = None, True
    generator = torch.Generator().manual_seed(seed)
    biased = [m for m in model.modules() if _is_leaf(m) and _is_biased(m)]
    hooks = [m.register_forward_hook(_liven(generator)) for m in biased]
    try:
        call(model, cloned(inputs))
    except ValueError:
        # One value per channel (1x1 maps, batch 1) has no variance; the statistics stay at their defaults.
        pass
    finally:
        for hook in hooks:
            hook.remove()
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum, m.training = momentum, False


def _is_biased(module: nn.Module) -> bool:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return isinstance(weight, Tensor) and weight.dim() > 1 and isinstance(bias, nn.Parameter)


def _liven(generator: torch.Generator) -> Any:
    """A hook that shifts a layer's bias so that the mean response of every channel is between 0.5 and 1.5."""

    def shift(module: Any, _: Any, out: Tensor) -> Tensor | None:
        channel = out.dim() - 1 if isinstance(module, nn.Linear) else out.dim() - module.weight.dim() + 1
        if out.shape[channel] != len(module.bias):
            return None
        wanted = torch.rand(len(module.bias), generator=generator, dtype=torch.float64).to(out)
        delta = wanted + 0.5 - out.mean([d for d in range(out.dim()) if d != channel])
        module.bias += delta
        return out + delta.view([-1 if d == channel else 1 for d in range(out.dim())])

    return shift


Outputs = list[tuple[str, Tensor]]


def _outputs(model: nn.Module, inputs: Inputs) -> Outputs:
    """The model's outputs and the results of its parametrised modules, in execution order."""
    found: Outputs = []

    def keep(name: str) -> Any:
        return lambda _m, _args, out: found.extend((name, t) for t in output_tensors(out))

    hooks = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if _is_leaf(m)]
    try:
        output = call(model, cloned(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, *(("output", t) for t in output_tensors(output))]


def _is_leaf(module: nn.Module) -> bool:
    return bool(module._parameters) and not module._modules


def _training_deviation(masked: nn.Module, pruned: nn.Module, inputs: Inputs, seen: Outputs) -> float:
    """The deviation in training mode, if some modules ran only there; else 0. Infinite if only the masked model trains.

    BatchNorm stays in evaluation mode and dropout is off. A model that is random in spite of that is not compared, and
    one that needs targets to train is not even run.
    """
    ran = {name for name, _ in seen}
    if all(name in ran for name in _callable_leaves(masked)):
        return 0.0
    for model in (masked, pruned):
        set_training(model, True)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
    try:
        once, *others = (_seeded(masked, inputs, seed) for seed in range(_RANDOM_RUNS))
    except Exception:
        return 0.0
    try:
        small = _seeded(pruned, inputs, 0)
    except Exception:
        return float("inf")
    # A layer that is skipped at random may be skipped in no run; the pruned model has the first one's seed.
    return _deviation(once, small) if all(_deviation(once, other) == 0 for other in others) else 0.0


_RANDOM_RUNS = 3


def _seeded(model: nn.Module, inputs: Inputs, seed: int) -> Outputs:
    torch.manual_seed(seed)
    return _outputs(model, inputs)


def _callable_leaves(model: nn.Module) -> Iterator[str]:
    """Parametrised modules that run by being called; nn.MultiheadAttention reads its child's tensors instead."""
    inside = {id(c) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for c in m.children()}
    return (name for name, m in model.named_modules() if _is_leaf(m) and id(m) not in inside)


def _deviation(masked: Outputs, pruned: Outputs) -> float:
    errors = [
        float((p - m).abs().max() / m.abs().max().clamp_min(torch.finfo(m.dtype).tiny))
        for m, p in _pairs(masked, pruned)
    ]
    if not errors:
        raise InputError("no output to compare", remedy="give example inputs on which the model returns numbers")
    return max((e if e == e else float("inf")) for e in errors)


def _pairs(masked: Outputs, pruned: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    for (name, m), (_, p) in zip(masked, pruned, strict=False):
        if m.shape == p.shape and m.is_floating_point() and m.numel():
            yield m, p
        elif name == "output" and m.shape != p.shape:
            yield torch.ones(1), torch.full((1,), float("inf"))
