"""Rewrite: cut a model's tensors as a plan says, and mend what its modules know of their widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxprune.attributes import holds_int, mend
from fxprune.errors import InputError, PlanError
from fxprune.literals import is_literal
from fxprune.plan import Ints, Plan
from fxprune.sampler import BUFFER, add_samplers
from fxprune.tracing.borrow import swap_tensors, tensors_of, walk

M = TypeVar("M", bound=nn.Module)


def rewrite(model: M, plan: Plan, *, inplace: bool = False) -> M:
    """The smaller model: same class, same `state_dict` keys, fewer channels.

    A module whose `forward` holds a width as a literal becomes a `torch.fx.GraphModule` (see `find_groups`).

    Needs no tracing: a plan applies to any fresh instance of the architecture that it was made from. Parameters stay
    `nn.Parameter` and keep `requires_grad`, dtype, device and memory format; gradients are dropped.

    Args:
        model: the full-size model.
        plan: what stays.
        inplace: cut `model` itself instead of a copy. Nothing is touched if the plan does not fit.

    Raises:
        PlanError: tensors that the plan names are missing or have other shapes, or the root module would have to become
            a GraphModule in place.
        InputError: the model cannot be copied.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> fxprune.rewrite(net, groups.plan({"0": [0, 2, 5]}))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    tensors = check_fit(model, plan)
    if inplace:
        _check_in_place(plan)
    cuts = plan.cuts()
    changed = dict.fromkeys([*cuts, *(s.tensor for s in plan.scales)])
    replaced = {id(tensors[name]): _cut_like(name, tensors[name], cuts.get(name, {}), plan) for name in changed}
    if inplace:
        swap_tensors(model, lambda _, tensor: replaced.get(id(tensor), tensor))
    else:
        # A pre-filled memo makes deepcopy take the cut tensors for the originals' copies.
        model = copied(model, dict(replaced))
    return mend(model, plan.attributes)


def copied(model: M, memo: dict[int, Any] | None = None) -> M:
    """A copy of a model; what is in `memo` stands for the copies of what has these ids.

    Raises:
        InputError: it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        held = [f"{path}.{k}" for path, m in walk(model) for k, v in vars(m).items() if _is_computed(v)]
        if not held:
            raise
        raise InputError(
            "a module holds a tensor that was computed from its parameters and cannot be copied",
            where=held[0].lstrip("."),
            remedy="make it a plain parameter: torch.nn.utils.prune.remove, torch.nn.utils.remove_weight_norm",
        ) from error


def _is_computed(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def cut_state(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Cut tensors that are laid out like the model's own: a `state_dict`, an average of weights, optimizer moments.

    Args:
        state: tensors by parameter name; those that the plan does not cut are passed on.
        plan: what stays. Its scales are applied as well, as to weights.

    Raises:
        PlanError: a tensor that the plan cuts has another shape.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    >>> cut = fxprune.cut_state(average, groups.plan({"0": [0, 2, 5]}))
    >>> {name: tuple(tensor.shape) for name, tensor in cut.items()}
    {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}
    """
    cuts = plan.cuts()
    _check_shapes(state, {name: shape for name, shape in plan.shapes.items() if name in state})
    return {name: cut(_scaled(name, t, plan), cuts.get(name, {})) for name, t in state.items()}


def check_fit(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Refuse a plan whose tensors or attributes the model lacks, or has in another shape.

    Returns:
        The model's tensors by name.
    """
    if not isinstance(plan, Plan):
        raise PlanError("this is no plan", seen=type(plan).__name__, remedy="give what a planner returns")
    tensors = tensors_of(model)
    _check_shapes(tensors, plan.shapes)
    modules = dict(walk(model))
    for path, values in plan.attributes.items():
        for name in values:
            if path not in modules or not holds_int(modules[path], name):
                raise PlanError("the plan is for another model", seen=f"no width {name} in '{path}'", remedy=_REMEDY)
    return tensors


def _check_in_place(plan: Plan) -> None:
    literals = list(filter(is_literal, plan.attributes.get("", ())))
    if literals:
        raise PlanError(
            "the model's own forward holds a width; it cannot be changed in place",
            seen=", ".join(literals),
            remedy="take the model that rewrite returns, or find the groups with rewrite_code=False",
        )


def _check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            remedy = f"call fxprune.{add_samplers.__name__} first" if name.endswith(BUFFER) else _REMEDY
            raise PlanError("the plan is for another model", seen=f"no tensor {name}", remedy=remedy)
        if tuple(tensors[name].shape) != tuple(shape):
            seen = f"{name} is {tuple(tensors[name].shape)}, the plan expects {tuple(shape)}"
            raise PlanError("the plan is for another model, or was applied already", seen=seen, remedy=_REMEDY)


_REMEDY = "apply the plan to a full-size model of the architecture that it was made from"


_BLOCK = 2**20  # elements: what is cut in between stays in the processor's cache


def cut(tensor: Tensor, cuts: Mapping[int, Ints]) -> Tensor:
    """The kept part of a tensor: {dim: kept indices}. Memory format is kept."""
    tensor = tensor.detach()
    if not cuts:
        return tensor
    layout = _memory_format(tensor)
    index = {dim: torch.from_numpy(kept).to(tensor.device) for dim, kept in cuts.items()}
    if len(index) == 1 or 0 not in index or tensor.numel() <= _BLOCK:
        return _select(tensor, index).contiguous(memory_format=layout)
    # Block by block, so that no half-cut copy of a large weight is made.
    rows = index.pop(0)
    shape = [len(cuts.get(dim, range(n))) for dim, n in enumerate(tensor.shape)]
    result = torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)
    step = max(1, _BLOCK // tensor[0].numel())
    for start in range(0, len(rows), step):
        result[start : start + step] = _select(tensor.index_select(0, rows[start : start + step]), index)
    return result


def _memory_format(tensor: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _select(tensor: Tensor, index: Mapping[int, Tensor]) -> Tensor:
    """Cut along several dims, first where least is left."""
    for dim, kept in sorted(index.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        tensor = tensor.index_select(dim, kept)
    return tensor


def _scaled(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    for scale in plan.scales:
        if scale.tensor == name:
            tensor = tensor.detach().clone()
            tensor[torch.from_numpy(scale.rows).to(tensor.device)] *= scale.factor
    return tensor


def _cut_like(name: str, tensor: Tensor, cuts: Mapping[int, Ints], plan: Plan) -> Tensor:
    smaller = cut(_scaled(name, tensor, plan), cuts)
    if isinstance(tensor, nn.Parameter):
        smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    smaller.__dict__.update(tensor.__dict__)
    return smaller
