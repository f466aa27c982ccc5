"""Constraints: which widths a group may have, whatever the allocation asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from fxprune.analysis.fit import check_are_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.grouping.reasons import IGNORED, decisive_first
from fxprune.analysis.groups import Groups
from fxprune.analysis.ignored import touches
from fxprune.errors import InputError, check_integer, check_kind, check_number, check_several
from fxprune.module.names import matches
from fxprune.planners.allocation.units import Together, Unit

V = TypeVar("V", int, float)


@dataclass(frozen=True)
class Constraints:
    """Which widths are allowed; every planner takes one, so that they compose with any way to allocate.

    A wish is raised to the next allowed width. The full width is always allowed, so that a group can stay whole.
    Groups that are tied to one another (`groups.ties`) keep the same part of their channels, allowed for each of them.

    Attributes:
        round_to: kept counts are multiples of this; 8 or 16 suit most hardware. A group smaller than it stays whole.
        minimum: channels that stay at least; or {name or shell pattern of groups or of modules that make their
            channels: channels}, of which the first that fits counts.
        max_pruning_ratio: part of a group that may be removed, in [0, 1]; or {pattern: part}.
        ignored: names or shell patterns of groups, or of modules and parameters that keep all channels; or one of them.

    Raises:
        InputError: a value out of range or, when used, a pattern that fits no group.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(20, 20) for _ in range(4)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 20)))
    >>> rules = fxprune.planners.Constraints(round_to=4, minimum={"1": 14}, ignored=("2.bias",))
    >>> rules.fit(groups, {"0": 5, "1": 5, "2": 5})
    {'0': 8, '1': 16, '2': 20}
    """

    round_to: int = 1
    minimum: int | Mapping[str, int] = 1
    max_pruning_ratio: float | Mapping[str, float] = 1.0
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.ignored, str):
            object.__setattr__(self, "ignored", (self.ignored,))
        check_integer("round_to", self.round_to, 1, "8 or 16 are usual")
        for value in _values(self.minimum):
            check_integer("a minimum width", value, 1, "give 1 or more, or {pattern: channels}")
        for part in _values(self.max_pruning_ratio):
            check_number("max_pruning_ratio", part, "[0, 1]", "0.5 removes half of a group at most")
        check_several("the ignored names", self.ignored, 'give names or shell patterns: ("0", "layers.*")')
        object.__setattr__(self, "ignored", tuple(self.ignored))
        for name in self.ignored:
            check_kind("an ignored name", name, str, 'give names or shell patterns: ("0", "layers.*")')

    def units(self, groups: Groups) -> tuple[Unit, ...]:
        """What can be decided by itself: each group, or each set of tied groups, with its allowed widths.

        Raises:
            InputError: a pattern that fits no group, or what is given are no groups.
        """
        return tuple(Unit.of(s, self.round_to) for s in self._sets(groups))

    def fit(self, groups: Groups, wished: Mapping[str, int]) -> dict[str, int]:
        """The allowed widths nearest above the wished ones, {group: channels}; a group without a wish stays whole.

        Tied groups take the mean of the parts that they wish to keep.
        """
        check_kind("the wished widths", wished, Mapping, "give {group: channels}")
        kept: dict[str, int] = {}
        for together in self._sets(groups):
            kept |= together.raised(wished, self.round_to)
        return {g.name: kept[g.name] for g in groups}

    def _sets(self, groups: Groups) -> list[Together]:
        check_are_groups(groups)
        self._check_patterns(groups)
        tied = {name: tie for tie in groups.ties for name in tie}
        sets = dict.fromkeys(tied.get(g.name, frozenset([g.name])) for g in groups)
        members = [[g for g in groups if g.name in names] for names in sets]
        steps = [groups.steps(names) for names in sets]
        return [Together(m, s, [self._least(g) for g in m]) for m, s in zip(members, steps, strict=True)]

    def _least(self, group: Group) -> int:
        """Channels that must stay, before rounding."""
        if any(touches(group, pattern) for pattern in self.ignored):
            return group.size
        ratio = _chosen(self.max_pruning_ratio, group, 1.0)
        # The tolerance absorbs the rounding of the product: 0.9 of 10 channels are 9, not 9.000000000000002.
        return min(group.size, max(_chosen(self.minimum, group, 1), ceil((1 - ratio) * group.size - 1e-9)))

    def _check_patterns(self, groups: Groups) -> None:
        for pattern in self.ignored:
            if not any(touches(g, pattern) for g in groups):
                raise unknown(pattern, groups)
        for table in (self.minimum, self.max_pruning_ratio):
            if isinstance(table, Mapping):
                check_patterns(table, groups)


def check_constraints(constraints: object) -> None:
    """Refuse what are no constraints.

    Raises:
        InputError: they are none.
    """
    check_kind("the constraints", constraints, Constraints, "give planners.Constraints(round_to=8)")


def check_patterns(patterns: Iterable[str], groups: Groups) -> None:
    """Refuse a name or pattern that stands for no group.

    Raises:
        InputError: names the pattern.
    """
    for pattern in patterns:
        check_kind("a name of groups", pattern, str, "give a name or a shell pattern")
        if not any(stands_for(pattern, g) for g in groups):
            raise unknown(pattern, groups)


def unknown(pattern: str, groups: Groups) -> InputError:
    """What is wrong with a name or pattern that stands for no group: what has it is fixed, or only follows a group."""
    fixed = [d for d in groups.fixed if matches(d.tensor, pattern)]
    reasons = decisive_first([d for d in fixed if d.dim == 0] or fixed)
    if reasons:
        ignored = any(reason.startswith(IGNORED) for reason in reasons)
        remedy = "take it out of ignored=" if ignored else f'leave it out; groups.why("{pattern}") tells more'
        return InputError("what has the name or pattern is fixed", seen=f"{pattern}: {reasons[0]}", remedy=remedy)
    if found := [g.name for g in groups if any(matches(s.tensor, pattern) for s in g.slots)]:
        remedy = f"give the group: {', '.join(found[:8])}"
        return InputError("what has the name or pattern makes no channels of its own", seen=pattern, remedy=remedy)
    names = ", ".join(g.name for g in list(groups)[:8])
    return InputError("no prunable group has the name or pattern", seen=pattern, remedy=f"groups: {names} ...")


def stands_for(pattern: str, group: Group) -> bool:
    """Whether a name or shell pattern is that of the group or of a module that makes its channels."""
    return any(matches(name, pattern) for name in (group.name, *(s.tensor for s in group.producers)))


def first_fit(table: Mapping[str, V], group: Group, default: V) -> V:
    """The value of the first name or pattern that stands for the group."""
    return next((v for pattern, v in table.items() if stands_for(pattern, group)), default)


def _values(value: V | Mapping[str, V]) -> list[V]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _chosen(value: V | Mapping[str, V], group: Group, default: V) -> V:
    return first_fit(value, group, default) if isinstance(value, Mapping) else value


UNCONSTRAINED = Constraints()
