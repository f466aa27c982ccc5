"""What every scorer shares: the contract, and the way from tensors to channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_data, check_integer, check_kind
from fxprune.plan.plan import Slot

Scores = dict[str, Tensor]


class Scorer(Protocol):
    """Scores every channel of every group; larger means more worth keeping."""

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        """
        Args:
            model: the model that the groups are of; it is left as it is.
            groups: the groups to score.
            data: batches of inputs, or (inputs, targets) as data loaders give them, for scorers that need them.

        Returns:
            A float64 tensor of shape (channels,) for each group.
        """
        ...


class UnscorableError(InputError):
    """A scorer finds nothing to go by in some groups; `scorers.Fallback` leaves those to another scorer.

    Attributes:
        groups: their names.
    """

    def __init__(self, what: str, groups: Sequence[str], remedy: str = "") -> None:
        self.groups = tuple(groups)
        shown = ", ".join(self.groups[:8]) + (f" and {len(groups) - 8} more" if len(groups) > 8 else "")
        way_out = "ignore the group or score it by its weights: scorers.Fallback(this scorer, scorers.L2Norm())"
        super().__init__(what, where=f"group {shown}", remedy=remedy or way_out)


def per_channel(values: Tensor, slot: Slot, channels: int) -> Tensor:
    """Sum values along a slot's dim into the channels that own its positions, of shape (channels,).

    Args:
        values: one of each index of the dim. Where a grouped convolution uses one index several times (the same column
            of every group; all channels that a depthwise transposed kernel makes), one of each use.
        slot: the slot.
        channels: size of its group.

    Raises:
        InputError: an argument of another kind.
    """
    _check_of_slot(values, slot)
    check_integer("the number of channels", channels, 1, "give the size of the group")
    if len(values) != slot.length:
        values = (
            values.unflatten(0, (-1, slot.length)).sum(0) if slot.dim else values.unflatten(0, (slot.length, -1)).sum(1)
        )
    index = torch.from_numpy(slot.channels).to(values.device)
    picked = values[torch.from_numpy(slot.positions).to(values.device)]
    return torch.zeros(channels, dtype=torch.float64, device=values.device).index_add_(0, index, picked.double())


def along(tensor: Tensor, slot: Slot) -> Tensor:
    """What a tensor holds at each index of a slot's dim, of shape (length, elements), at least float32."""
    _check_of_slot(tensor, slot)
    rows = tensor.detach().movedim(slot.dim, 0).flatten(1) if tensor.dim() > 1 else tensor.detach()[:, None]
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _check_of_slot(tensor: Tensor, slot: Slot) -> None:
    check_kind("what a slot is of", tensor, Tensor, "give a tensor of the model, or one of its shape")
    check_kind("the slot", slot, Slot, "give one of the slots of a group: group.slots")


def makers(group: Group, tensors: Mapping[str, Tensor]) -> tuple[Slot, ...]:
    """The slots that stand for a channel: what makes it; where no layer makes it, all its parameters.

    Args:
        group: the group.
        tensors: the model's by name; a name that is not among them is not a parameter.

    Raises:
        UnscorableError: neither a layer nor a parameter belongs to the channels.
        InputError: an argument of another kind.
    """
    check_kind("the group", group, Group, "give one of the groups of fxprune.find_groups")
    check_kind("the tensors", tensors, Mapping, "give {name: tensor of the model}")
    slots = group.producers or tuple(s for s in group.slots if isinstance(tensors.get(s.tensor), nn.Parameter))
    if not slots:
        raise UnscorableError("no layer makes these channels, and they have no parameters", [group.name])
    return slots


def require_producers(groups: Groups) -> None:
    """Refuse groups whose channels no convolution or linear layer makes.

    Raises:
        UnscorableError: names them.
    """
    without = [g.name for g in groups if not g.producers]
    if without:
        raise UnscorableError("no convolution or linear layer makes these channels", without)


def share(scores: Tensor) -> Tensor:
    """Scores as parts of their sum; equal parts where the sum is zero."""
    total = scores.sum()
    if total.isinf():  # of finite scores
        return share(scores / scores.abs().amax())
    return torch.full_like(scores, 1 / len(scores)) if total == 0 else scores / total


def check_scores(scores: Mapping[str, Tensor], groups: Groups) -> None:
    """Refuse scores that a planner cannot use: groups missing, wrong lengths, no data, values that are not finite.

    Raises:
        InputError: names the group and what is wrong.
    """
    check_kind("the groups", groups, Groups, "planner(groups, scores), groups from fxprune.find_groups")
    check_kind("what the scorer gave", scores, Mapping, "give {name of a group: a score for each channel}")
    for g in groups:
        if g.name not in scores:
            raise InputError("a group has no scores", where=g.name, remedy="score all groups that are to be planned")
        _check(g, scores[g.name])


def _check(group: Group, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise InputError(
            "scores are not a tensor", where=group.name, seen=type(values).__name__, remedy="torch.as_tensor"
        )
    if tuple(values.shape) != (group.size,):
        raise InputError(
            "scores of the wrong shape", where=group.name, seen=f"{tuple(values.shape)}, not ({group.size},)"
        )
    if values.dtype == torch.bool or values.is_complex():
        remedy = "give a real number for each channel, larger for those more worth keeping"
        raise InputError("scores are no real numbers", where=group.name, seen=str(values.dtype), remedy=remedy)
    check_data(f"the scores of {group.name}", values)
    if not torch.isfinite(values).all():
        raise InputError(
            "scores that are not finite",
            where=group.name,
            seen=f"{int((~torch.isfinite(values)).sum())} of {group.size}",
            remedy="look for NaN or infinite weights, or a loss that diverged",
        )
