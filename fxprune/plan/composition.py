"""Composition: two plans in a row as one plan for the model that the first one is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fxprune.errors import PlanError
from fxprune.module.literals import same_place
from fxprune.plan.slots import Ints, PlanFields, PlannedGroup, Scale, Slot

Cuts = Mapping[str, Mapping[int, Ints]]


def composed_fields(first: PlanFields, second: PlanFields) -> dict[str, Any]:
    """The fields of the plan that does what `first` and then `second` do.

    Raises:
        PlanError: `second` is not a plan for the model that `first` leaves.
    """
    cuts = first.cuts()
    _check_shapes(first, second, cuts)
    groups = {name: _narrowed(name, g, second) for name, g in first.groups.items()}
    groups |= {name: _widened(g, first, cuts) for name, g in second.groups.items() if name not in groups}
    return {
        "groups": groups,
        "attributes": {
            path: _attributes(first.attributes.get(path, {}), second.attributes.get(path, {}))
            for path in {**first.attributes, **second.attributes}
        },
        "shapes": {**second.shapes, **first.shapes},
        "scales": (*first.scales, *(_original_rows(s, cuts) for s in second.scales)),
        "orders": _orders(first, second, cuts),
        "aliases": {**first.aliases, **second.aliases},
    }


def divided_otherwise(first: PlanFields, groups: Iterable[_Divided]) -> list[str]:
    """The groups of the model that `first` leaves which are not what a group of its own leaves, nor beside all of them.

    A width that is split into two factors may shrink by the other one where nothing of the first can go any more.
    """
    cuts = first.cuts()
    owners: dict[tuple[str, int], list[Slot]] = {}
    for group in first.groups.values():
        for slot in group.slots:
            owners.setdefault((slot.tensor, slot.dim), []).append(slot)
    return [g.name for g in groups if not _goes_on(g, first.groups.get(g.name), owners, cuts)]


class _Divided(Protocol):
    """A group: found, or planned."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def slots(self) -> Sequence[Slot]: ...


def _goes_on(
    group: _Divided, before: PlannedGroup | None, owners: Mapping[tuple[str, int], Sequence[Slot]], cuts: Cuts
) -> bool:
    """Whether a group has the channels that one of the plan before leaves, or shares no index with any."""
    if before is not None and group.size != len(before.kept):
        return False
    for slot in group.slots:
        full = _through(cuts, slot.tensor, slot.dim, slot.positions)
        for owner in owners.get((slot.tensor, slot.dim), ()):
            channel = np.full(owner.length, -1)
            channel[owner.positions] = owner.channels
            expected = -1 if before is None or owner not in before.slots else before.kept[slot.channels]
            if not np.array_equal(channel[full], np.broadcast_to(expected, full.shape)):
                return False
    return True


def check_composed(first: PlanFields, second: PlanFields, both: PlanFields) -> None:
    """Refuse a composition that does not leave of every tensor what the two plans leave in a row.

    Raises:
        PlanError: names a tensor.
    """
    before, after, found = first.cuts(), second.cuts(), both.cuts()
    for tensor in {**before, **after}:
        for dim in {**before.get(tensor, {}), **after.get(tensor, {})}:
            length = both.shapes[tensor][dim]
            expected = _through(before, tensor, dim, _kept(after, tensor, dim, _length(before, tensor, dim, length)))
            if not np.array_equal(_kept(found, tensor, dim, length), expected):
                raise PlanError(
                    "the second plan's groups are not those that the first plan leaves",
                    where=f"{tensor}[dim {dim}]",
                    remedy="find the groups of fxprune.rewrite(model, first) and plan on them",
                )


def _check_shapes(first: PlanFields, second: PlanFields, cuts: Cuts) -> None:
    for name, shape in second.shapes.items():
        full = first.shapes.get(name)
        left = full and tuple(_length(cuts, name, dim, n) for dim, n in enumerate(full))
        if left is not None and left != tuple(shape):
            raise PlanError(
                "the second plan is not for the model that the first one leaves",
                seen=f"{name} is {left} after the first plan, the second expects {tuple(shape)}",
                remedy="make the second plan on fxprune.rewrite(model, first)",
            )


def _attributes(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Of one module; what the first plan has set has its old number in its name, where it is a literal."""
    return {**first, **{same_place(first, name): value for name, value in second.items()}}


def _narrowed(name: str, group: PlannedGroup, second: PlanFields) -> PlannedGroup:
    """A group of the first plan, of which the second one may keep less."""
    then = second.groups.get(name)
    if then is None:
        return group
    if then.size != len(group.kept):
        raise PlanError(
            "the second plan is not for the model that the first one leaves",
            where=f"group {name}",
            seen=f"{then.size} channels, of which the first plan keeps {len(group.kept)}",
        )
    return PlannedGroup(name, group.size, group.kept[then.kept], group.slots)


def _widened(group: PlannedGroup, first: PlanFields, cuts: Cuts) -> PlannedGroup:
    """A group that only the second plan has, its slots at their places in the full-size tensors."""
    slots = tuple(
        Slot(
            s.tensor,
            s.dim,
            first.shapes[s.tensor][s.dim] if s.tensor in first.shapes else s.length,
            _through(cuts, s.tensor, s.dim, s.positions),
            s.channels,
            s.role,
        )
        for s in group.slots
    )
    return PlannedGroup(group.name, group.size, group.kept, slots)


def _original_rows(scale: Scale, cuts: Cuts) -> Scale:
    return Scale(scale.tensor, _through(cuts, scale.tensor, 0, scale.rows), scale.factor)


def _orders(first: PlanFields, second: PlanFields, cuts: Cuts) -> dict[str, dict[int, Ints]]:
    """What stays, in its order, of the dims that either plan puts in another order."""
    after = second.cuts()
    orders: dict[str, dict[int, Ints]] = {}
    for tensor in {**first.orders, **second.orders}:
        for dim in {**first.orders.get(tensor, {}), **second.orders.get(tensor, {})}:
            full = first.shapes.get(tensor, second.shapes.get(tensor, ()))[dim]
            kept = _through(cuts, tensor, dim, _kept(after, tensor, dim, _length(cuts, tensor, dim, full)))
            orders.setdefault(tensor, {})[dim] = kept
    return orders


def _through(cuts: Cuts, tensor: str, dim: int, positions: Ints) -> Ints:
    """Positions in a cut dim, as positions in the full-size one."""
    kept = cuts.get(tensor, {}).get(dim)
    return positions if kept is None else kept[positions]


def _kept(cuts: Cuts, tensor: str, dim: int, length: int) -> Ints:
    kept = cuts.get(tensor, {}).get(dim)
    return np.arange(length) if kept is None else kept


def _length(cuts: Cuts, tensor: str, dim: int, length: int) -> int:
    return len(_kept(cuts, tensor, dim, length))
