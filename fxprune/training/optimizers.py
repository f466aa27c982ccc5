"""Optimizers: after a cut they hold the new parameters, and what they remember of the old ones is cut along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import cut


def all_in(optimizer: Optimizer) -> Iterator[Optimizer]:
    """An optimizer, and those inside it."""
    yield optimizer
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer):
            yield from all_in(inner)


def follow(optimizer: Optimizer, renewed: Mapping[Tensor, tuple[str, Tensor]], plan: Plan) -> None:
    """Put the new parameters in the place of the old ones, in all parameter groups, with what is left of their state.

    State that lies like the parameter (momentum, squared gradients) is cut along; numbers (steps) stay. A parameter
    whose state lies otherwise (factored moments) begins anew, with a warning, and so does an optimizer whose state
    spans all parameters (LBFGS). Optimizers inside the optimizer follow as well. The plan's scales are not applied:
    state is about gradients, which change the other way round, and is forgotten within some steps.

    Args:
        optimizer: changed in place.
        renewed: {old parameter: (its name, new parameter)}.
        plan: what was cut.
    """
    for one in all_in(optimizer):
        _follow(one, renewed, plan)


def _follow(optimizer: Optimizer, renewed: Mapping[Tensor, tuple[str, Tensor]], plan: Plan) -> None:
    held = any(p in renewed for group in optimizer.param_groups for p in group["params"])
    for group in optimizer.param_groups:
        group["params"][:] = [renewed[p][1] if p in renewed else p for p in group["params"]]
    if isinstance(optimizer, LBFGS):
        _forget(optimizer, held=held)
        return
    cuts, anew = plan.cuts(), []
    for old, (name, new) in renewed.items():
        state = optimizer.state.pop(old, None)
        if state is None:
            continue
        if all(_lies_like(value, old) or _is_number(value) for value in state.values()):
            optimizer.state[new] = {
                key: cut(value, cuts.get(name, {})) if _lies_like(value, old) else value for key, value in state.items()
            }
        else:
            anew.append(name)
    if anew:
        kind = type(optimizer).__name__
        what = f"{kind} begins anew for {len(anew)} parameters, such as {anew[0]}: its state cannot be cut"
        warnings.warn(what, stacklevel=3)


def _forget(optimizer: LBFGS, *, held: bool) -> None:
    """Its history is of vectors of all parameters one after another, whose number it remembers."""
    if held and optimizer.state:
        optimizer.state.clear()
        warnings.warn("LBFGS begins anew: its state spans all parameters and cannot be cut", stacklevel=4)
    if held:
        optimizer._numel_cache = None


def _lies_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def warn_of_hooks(model: nn.Module, plan: Plan) -> None:
    """Tell of hooks on parameters that are cut: they stay with the full-size tensors, which nothing trains any more."""
    cuts = plan.cuts()
    hooked = [
        name
        for name, p in model.named_parameters()
        if name in cuts and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))
    ]
    if hooked:
        what = f"{len(hooked)} parameters that are cut have hooks, such as {hooked[0]}"
        warnings.warn(f"{what}; the smaller ones have none: register them again after this cut", stacklevel=4)
