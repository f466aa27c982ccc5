"""Rewrite: cut a model's tensors as a plan says, and mend what its modules know of their widths."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fxprune.errors import PlanError, check_flag, check_kind
from fxprune.module.attributes import can_become, mend, own_holders
from fxprune.module.garbage import no_collections
from fxprune.module.tensors import check_initialised, in_attributes, overlapping, reach, swap_all, tensors_of, walk
from fxprune.module.undo import whole_or_not
from fxprune.module.wrappers import check_unwrapped
from fxprune.plan.plan import Ints, Plan, check_plan
from fxprune.rewriting.channel_sampler import BUFFER, add_samplers
from fxprune.rewriting.copying import copied

M = TypeVar("M", bound=nn.Module)


@no_collections()
def rewrite(model: M, plan: Plan, *, inplace: bool = False) -> M:
    """The smaller model: same class, same `state_dict` keys, fewer channels.

    A module whose code holds a width as a literal gets a subclass of its class with another number (`find_groups`).

    Needs no tracing: a plan applies to any fresh instance of the architecture that it was made from. Parameters stay
    `nn.Parameter` and keep `requires_grad`, dtype, device and memory format; gradients are dropped.

    Args:
        model: the full-size model.
        plan: what stays.
        inplace: cut `model` itself instead of a copy. Nothing is touched if the plan does not fit, or if the cut is
            interrupted.

    Raises:
        PlanError: tensors that the plan names are missing or have other shapes.
        InputError: the model is none, or cannot be copied.

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
    check_flag("inplace", inplace)
    tensors = check_fit(model, plan)
    if not inplace:
        return _copied(model, tensors, _cut_tensors(tensors, plan, plan.cuts()), plan)
    replaced = {id(tensors[name]): new for name, new in _cut_tensors(tensors, plan, plan.cuts()).items()}
    with whole_or_not([model]):
        swap_all(model, lambda _, tensor: replaced.get(id(tensor), tensor))
        own_holders(model, plan.attributes)
        return mend(model, plan.attributes)


class Rewritten(NamedTuple):
    """A pruned model, and what is known of its tensors.

    Attributes:
        model: what `rewrite` makes.
        cuts: the tensors that were cut for it, by name, with the version that each had then: writing raises it.
        kept: what stayed of each, `Plan.cuts`.
    """

    model: nn.Module
    cuts: Mapping[str, tuple[Tensor, int]]
    kept: dict[str, dict[int, Ints]]


@no_collections()
def rewritten(model: nn.Module, plan: Plan) -> Rewritten:
    """What `rewrite` does, for those who ask afterwards which tensors it has cut."""
    tensors = check_fit(model, plan)
    kept = plan.cuts()
    made = _cut_tensors(tensors, plan, kept)
    versions = {name: (tensor, tensor._version) for name, tensor in made.items()}
    return Rewritten(_copied(model, tensors, made, plan), versions, kept)


def _cut_tensors(tensors: Mapping[str, Tensor], plan: Plan, cuts: Mapping[str, dict[int, Ints]]) -> dict[str, Tensor]:
    """The tensors that the plan changes, by name, as it leaves them."""
    changed = dict.fromkeys([*cuts, *(s.tensor for s in plan.scales)])
    with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode could not be trained
        return {name: _cut_like(name, tensors[name], cuts.get(name, {}), plan) for name in changed}


def _copied(model: M, tensors: Mapping[str, Tensor], made: Mapping[str, Tensor], plan: Plan) -> M:
    """A copy with other tensors: deepcopy takes what is in its memo for the originals' copies."""
    with torch.inference_mode(False), torch.no_grad():
        replaced = {id(tensors[name]): new for name, new in made.items()}
        return mend(copied(model, _with_views(model, tensors, replaced)), plan.attributes)


def _with_views(model: nn.Module, tensors: Mapping[str, Tensor], replaced: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """New tensors by the old one's `id`: those that are cut, and views of one memory, which deepcopy would part."""
    made, known = dict(replaced), {**in_attributes(model), **tensors}
    for names in overlapping(known).items():
        part, whole = sorted((known[name] for name in names), key=lambda t: (t.numel(), isinstance(t, nn.Parameter)))
        offset = part.storage_offset() - whole.storage_offset()
        inside = offset >= 0 and offset + reach(part) <= reach(whole)
        plain = part.dtype is whole.dtype and {type(part), type(whole)} <= {Tensor, nn.Parameter}
        if inside and plain and not {id(part), id(whole)} & replaced.keys():
            new = made.setdefault(id(whole), _like(whole, whole.detach().clone(), vars(whole)))
            if new.stride() == whole.stride():
                start = new.storage_offset() + offset
                made[id(part)] = _like(part, new.detach().as_strided(part.shape, part.stride(), start), vars(part))
    return made


def cut_state(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Cut tensors that are laid out like the model's own: a `state_dict`, an average of weights, optimizer moments.

    Args:
        state: tensors by the names that the model has for them, all names of a shared one included; what the plan does
            not cut is passed on.
        plan: what stays. Its scales are applied as well, as to weights.

    Raises:
        InputError: the state is not a mapping of names to tensors.
        PlanError: a tensor that the plan cuts has another shape, or none of them is in the state.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    >>> cut = fxprune.cut_state(average, groups.plan({"0": [0, 2, 5]}))
    >>> {name: tuple(tensor.shape) for name, tensor in cut.items()}
    {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}
    """
    check_kind("the state", state, Mapping, "give tensors by name, as model.state_dict() does")
    for name in state:
        check_kind("a name in the state", name, str, "give tensors by name, as model.state_dict() does")
    check_plan(plan)
    names = {name: plan.aliases.get(name, name) for name in state}
    _check_names(names, plan)
    _check_shapes(state, {name: plan.shapes[known] for name, known in names.items() if known in plan.shapes})
    cuts = plan.cuts()
    with torch.inference_mode(False):
        return {
            name: cut(scaled(names[name], t, plan), cuts.get(names[name], {})) if isinstance(t, Tensor) else t
            for name, t in state.items()
        }


def check_fit(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Refuse a plan whose tensors or attributes the model lacks, or has in another shape.

    Returns:
        The model's tensors by name.
    """
    check_plan(plan)
    check_kind("the model", model, nn.Module, "give the full-size model")
    check_unwrapped(model)
    tensors = tensors_of(model)
    check_initialised(tensors)
    _check_shapes(tensors, plan.shapes)
    modules = dict(walk(model))
    for path, values in plan.attributes.items():
        for name, new in values.items():
            if path not in modules or not can_become(modules[path], name, new):
                seen = f"no width {name} in '{path}' that can become {new}"
                raise PlanError("the plan is for another model", seen=seen, remedy=_REMEDY)
    return tensors


def _check_names(names: Mapping[str, str], plan: Plan) -> None:
    """Refuse a state that the plan cuts nothing of."""
    if names and plan.shapes and plan.shapes.keys().isdisjoint(names.values()):
        raise PlanError(
            "the state is of another model",
            seen=f"{', '.join(list(names)[:3])}, but no {next(iter(plan.shapes))}",
            remedy="give tensors by the model's own names: of torch.optim.swa_utils.AveragedModel, that of its .module",
        )


def _check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            remedy = f"call fxprune.{add_samplers.__name__} first" if name.endswith(BUFFER) else _REMEDY
            raise PlanError("the plan is for another model", seen=f"no tensor {name}", remedy=remedy)
        check_kind(name, tensors[name], Tensor, "give tensors by name, as model.state_dict() does")
        if tuple(tensors[name].shape) != tuple(shape):
            seen = f"{name} is {tuple(tensors[name].shape)}, the plan expects {tuple(shape)}"
            raise PlanError("the plan is for another model, or was applied already", seen=seen, remedy=_REMEDY)


_REMEDY = "apply the plan to a full-size model of the architecture that it was made from"


_BLOCK = 2**20  # elements: what is cut in between stays in the processor's cache


def cut(tensor: Tensor, cuts: Mapping[int, Ints | Tensor]) -> Tensor:
    """The kept part of a tensor: {dim: kept indices}. Memory format is kept."""
    tensor = tensor.detach()
    if not cuts:
        return tensor
    layout = _memory_format(tensor)
    index = {dim: torch.as_tensor(kept, device=tensor.device) for dim, kept in cuts.items()}
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
    """Cut along several dims, the first one first: what lies together is copied together."""
    for dim in sorted(index):
        tensor = tensor.index_select(dim, index[dim])
    return tensor


def scaled(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """The full-size tensor with the factors that the plan lays on its rows."""
    for scale in plan.scales:
        if scale.tensor == name:
            tensor = tensor.detach().clone()
            tensor[torch.from_numpy(scale.rows).to(tensor.device)] *= scale.factor
    return tensor


def _cut_like(name: str, tensor: Tensor, cuts: Mapping[int, Ints], plan: Plan) -> Tensor:
    return _like(tensor, cut(scaled(name, tensor, plan), cuts), _noted(name, tensor, cuts))


def _like(tensor: Tensor, new: Tensor, noted: Mapping[str, Any]) -> Tensor:
    made = nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    made.__dict__.update(noted)
    return made


def _noted(name: str, tensor: Tensor, cuts: Mapping[int, Ints]) -> dict[str, Any]:
    """What code has noted on a tensor: its gradient's square (AdaHessian) is cut along, other tensors are left out."""
    noted, lost = dict[str, Any](), list[str]()
    for key, value in tensor.__dict__.items():
        if not isinstance(value, Tensor) or value.numel() == 1 or not cuts:
            noted[key] = value
        elif value.shape == tensor.shape and type(value) in (Tensor, nn.Parameter):
            noted[key] = cut(value, cuts)
        else:
            lost.append(key)
    if lost:
        warnings.warn(f"the tensor that is noted on {name} as {lost[0]!r} cannot be cut and is left out", stacklevel=2)
    return noted
