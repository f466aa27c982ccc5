"""Optimizers: after a cut they hold the new parameters, and what they remember of the old ones is cut along."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_leaves

from fxprune.errors import InputError
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import cut


def all_in(optimizer: Optimizer) -> Iterator[Optimizer]:
    """An optimizer, and those inside it."""
    yield optimizer
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer):
            yield from all_in(inner)


class Held(NamedTuple):
    """Weights that an optimizer keeps beside those of the model, to go on from: schedule-free z, slow ones.

    Attributes:
        value: what it keeps of a parameter; changed in place.
        before: the parameter as it was cut.
        parameter: the new one, which the plan's scales and a repair may change.
    """

    value: Tensor
    before: Tensor
    parameter: Tensor

    def follow(self) -> None:
        """Change them as the parameter was changed by now."""
        self.value.add_((self.parameter.detach() - self.before).to(self.value.dtype))


def follow(optimizers: Iterable[Optimizer], renewed: Mapping[Tensor, tuple[str, Tensor]], plan: Plan) -> list[Held]:
    """Put the new parameters in the place of the old ones, in all parameter groups, with what is left of their state.

    State that lies like the parameter (momentum, squared gradients) is cut along; numbers (steps) stay. A parameter
    whose state lies otherwise (factored moments, preconditioners, quantised numbers) begins anew, with a warning, and
    so does an optimizer whose state spans all parameters (LBFGS). Optimizers inside the optimizer follow as well. The
    plan's scales are not applied: state is about gradients, which change the other way round, and is forgotten within
    some steps; but for weights that are kept in it.

    Args:
        optimizers: changed in place.
        renewed: {old parameter: (its name, new parameter)}.
        plan: what was cut.

    Returns:
        Weights in the state, which are to follow the new parameters once these have all of their values.

    Raises:
        InputError: the optimizer keeps parameters elsewhere as well, as one that is shared among processes does.
    """
    every = {id(one): one for optimizer in optimizers for one in all_in(optimizer)}.values()
    for one in every:
        for group in one.param_groups:
            group["params"][:] = [renewed[p][1] if p in renewed else p for p in group["params"]]
    for one in every:
        _refuse_kept_elsewhere(one, renewed, plan)
    # A wrapper shows the state of the optimizer that is inside.
    return [held for one in {id(one.state): one for one in every}.values() for held in _follow(one, renewed, plan)]


def _follow(optimizer: Optimizer, renewed: Mapping[Tensor, tuple[str, Tensor]], plan: Plan) -> list[Held]:
    if isinstance(optimizer, LBFGS):
        held = {new for _, new in renewed.values()}
        _forget(optimizer, held=any(p in held for group in optimizer.param_groups for p in group["params"]))
        return []
    cuts, known, anew = plan.cuts(), _lying_like_parameters(optimizer), list[str]()
    before: dict[Tensor, Tensor] = {}
    for p, state in _states(optimizer):  # a repair may change parameters that no cut changes
        if p not in renewed and any(_is_of_weights(optimizer, key) for key in state):
            before[p] = p.detach().clone()
    for old, (name, new) in renewed.items():
        state = optimizer.state.pop(old, None)
        if state is None:
            continue
        if not all(_is_number(v) or (_lies_like(v, old) and key in known) for key, v in state.items()):
            anew.append(name)
            continue
        optimizer.state[new] = {k: cut(v, cuts.get(name, {})) if _lies_like(v, old) else v for k, v in state.items()}
        before[new] = cut(old, cuts.get(name, {}))
    _warn_of_forgotten(optimizer, anew)
    return [
        Held(state[key], before[p], p)
        for p, state in _states(optimizer)
        for key in state
        if p in before and _is_of_weights(optimizer, key) and _lies_like(state[key], p)
    ]


def _warn_of_forgotten(optimizer: Optimizer, names: list[str]) -> None:
    if names:
        kind = type(optimizer).__name__
        what = f"{kind} begins anew for {len(names)} parameters, such as {names[0]}: its state cannot be cut"
        warnings.warn(what, stacklevel=4)


def _states(optimizer: Optimizer) -> list[tuple[Tensor, Mapping[str, Any]]]:
    """What is remembered of each parameter; optimizers may have other entries there."""
    state = optimizer.state.items()
    return [(p, own) for p, own in state if isinstance(p, Tensor) and isinstance(own, Mapping)]


def _lying_like_parameters(optimizer: Optimizer) -> set[str]:
    """Keys of the state that lie like the parameter for each parameter that has them.

    The two sides of a square weight have preconditioners of its very shape. So another parameter must have the key as
    well, unless PyTorch's own optimizers have made it.
    """
    values = [(key, v, p) for p, state in _states(optimizer) for key, v in state.items() if not _is_number(v)]
    otherwise = {key for key, v, p in values if not _lies_like(v, p)}
    own = any(kind.__module__.startswith("torch.optim.") for kind in type(optimizer).__mro__ if kind is not Optimizer)
    seen = {key for key, _, p in values if own or p.dim() != 2 or p.shape[0] != p.shape[1]}
    return seen - otherwise


_ALWAYS = ("x0", "p0", "lookahead_slow_buff", "slow_buffer", "slow_params")
_OF_WEIGHTS = {"z": "ScheduleFree", "ax": "ASGD", **dict.fromkeys(_ALWAYS, "")}
"""State that holds weights, and what the name of the optimizer's class must have in it: elsewhere z is of gradients."""


def _is_of_weights(optimizer: Optimizer, key: str) -> bool:
    return key in _OF_WEIGHTS and _OF_WEIGHTS[key] in type(optimizer).__name__


def _refuse_kept_elsewhere(optimizer: Optimizer, renewed: Mapping[Tensor, tuple[str, Tensor]], plan: Plan) -> None:
    """Refuse an optimizer that would go on with old parameters. Of what it has noted by them, tensors that lie like the
    parameter are cut along; the rest, which may be of its old shape, is forgotten, tensors with a warning.

    Raises:
        InputError: it keeps some in caches of its own.
    """
    old, cuts, anew = {id(p): name for p, (name, _) in renewed.items()}, plan.cuts(), list[str]()

    def renote(noted: dict[Any, Any], p: Tensor) -> None:
        name, new = renewed[p]
        value = noted.pop(p)
        if _lies_like(value, p):
            noted[new] = cut(value, cuts.get(name, {}))
        elif any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            anew.append(name)

    def found(value: Any, depth: int = 4) -> str | None:
        if isinstance(value, Tensor) or not depth:
            return old.get(id(value))
        if isinstance(value, dict):
            for key in [key for key in value if id(key) in old]:
                renote(value, key)
        inside = list(value.values()) if isinstance(value, Mapping) else value
        if not isinstance(inside, list | tuple | set | frozenset):
            return None
        return next((name for v in inside if (name := found(v, depth - 1)) is not None), None)

    for attribute, value in vars(optimizer).items():
        if attribute not in ("param_groups", "state") and (name := found(value)) is not None:
            raise InputError(
                "the optimizer keeps parameters in a place that no cut follows",
                where=f"{type(optimizer).__name__}.{attribute}",
                seen=name,
                remedy="give no optimizer=, and make a new one of model.parameters() after each cut",
            )
    _warn_of_forgotten(optimizer, anew)


def _forget(optimizer: LBFGS, *, held: bool) -> None:
    """Its history is of vectors of all parameters one after another, whose number it remembers."""
    if held and optimizer.state:
        optimizer.state.clear()
        warnings.warn("LBFGS begins anew: its state spans all parameters and cannot be cut", stacklevel=4)
    if held:
        optimizer._numel_cache = None


def _lies_like(value: Any, parameter: Tensor) -> bool:
    """Whether it has a number for each of the parameter's; quantised ones are kept in classes of their own."""
    return type(value) in (Tensor, nn.Parameter) and value.shape == parameter.shape


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
