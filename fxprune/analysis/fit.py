"""Fit: whether groups are of a model, by the names and sizes of its tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, PlanError, check_kind, check_model
from fxprune.module.tensors import tensors_of
from fxprune.module.wrappers import check_unwrapped
from fxprune.plan.plan import Plan, check_plan

_REMEDY = "give fxprune.find_groups(fxprune.trace(model, example_inputs))"


def check_are_groups(groups: object) -> None:
    """Refuse what are no groups.

    Raises:
        InputError: they are none.
    """
    check_kind("what is given as groups", groups, Groups, "give what fxprune.find_groups(graph) returns")


def check_plan_of(groups: Groups, plan: Any) -> Plan:
    """Refuse what is no plan, and a plan for groups of other names or sizes. Groups that it does not name stay whole.

    Raises:
        PlanError: it is one.
    """
    check_plan(plan)
    sizes = {g.name: g.size for g in groups}
    for name, planned in plan.groups.items():
        if sizes.get(name) != planned.size:
            seen = f"{name} has {sizes[name]} channels, not {planned.size}" if name in sizes else f"no group {name}"
            raise PlanError(
                "the plan is for other groups", seen=seen, remedy="give a plan of a planner for these groups"
            )
    return plan  # type: ignore[no-any-return]


def check_groups(groups: Groups, model: nn.Module) -> dict[str, Tensor]:
    """Refuse groups of another model, such as a cut one, and a wrapped model, whose tensors have other names.

    Returns:
        The model's tensors by name.

    Raises:
        InputError: a tensor of a group is missing, or has another size; or what is given is none.
    """
    check_are_groups(groups)
    check_model("the model", model)
    check_unwrapped(model)
    tensors = tensors_of(model)
    for slot in (s for g in groups for s in g.slots):
        tensor = tensors.get(slot.tensor)
        if tensor is None or tensor.dim() <= slot.dim or tensor.shape[slot.dim] != slot.length:
            seen = f"no {slot.tensor}" if tensor is None else f"{slot.tensor} is {tuple(tensor.shape)}"
            raise InputError("the groups are of another model", seen=seen, remedy=_REMEDY)
    return tensors
