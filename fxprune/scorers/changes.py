"""Changes of layers' outputs, summed over all calls and brought to the channels of groups."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scores, UnscorableError, per_channel, share
from fxprune.scorers.wiring import gains_behind
from fxprune.statistics.observe import Contraction

WeightDim: TypeAlias = tuple[str, int]  # name of a weight, the dim that makes channels
Rescaling: TypeAlias = Literal["bn"] | None


class Sums:
    """Sums over all calls of each layer: named values of shape (channels out,) or ()."""

    def __init__(self) -> None:
        self._sums: dict[WeightDim, dict[str, Tensor]] = {}

    def add(self, seen: Contraction, values: Mapping[str, Tensor]) -> None:
        known = self._sums.setdefault((seen.name, seen.dim), {})
        for name, value in values.items():
            known[name] = known[name] + value if name in known else value

    def items(self) -> ItemsView[WeightDim, dict[str, Tensor]]:
        return self._sums.items()


def shares_of_producers(groups: Groups, changes: Mapping[WeightDim, Tensor], scale: Rescaling = None) -> Scores:
    """Each channel's mean share over its group's producers.

    Args:
        groups: the groups.
        changes: importance of each layer's output channels; layers that did not run are absent.
        scale: "bn" multiplies them by γ²/(σ² + ε) of the batch norm that directly follows.

    Raises:
        UnscorableError: groups none of whose producers ran.
    """
    gains = gains_behind(groups.graph) if scale == "bn" else {}
    idle = [g.name for g in groups if not any((s.tensor, s.dim) in changes for s in g.producers)]
    if idle:
        raise UnscorableError("no layer that makes these channels runs on the data in evaluation mode", idle)

    def part(group: Group, slot: Slot) -> Tensor:
        change = changes[slot.tensor, slot.dim]
        gain = gains.get(slot.tensor)
        scaled = change if gain is None else change * gain.to(change.device)
        return share(per_channel(scaled, slot, group.size))

    return {
        g.name: torch.stack([part(g, s) for s in g.producers if (s.tensor, s.dim) in changes]).mean(0) for g in groups
    }


def check_scale(scale: str | None, distance: str) -> None:
    """Refuse a scale for a distance that does not depend on it."""
    if scale and distance != "squared":
        raise InputError("a scale for a distance that does not depend on it", seen=distance, remedy="leave out scale")
