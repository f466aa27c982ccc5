"""A plan's file: a plan as JSON data, and its fields from data that nobody has checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fxprune.errors import PlanError
from fxprune.plan.slots import Ints, PlanFields, PlannedGroup, Scale, Slot, kept_indices

_VERSION = 2
# Indices, so that a damaged file takes neither time nor memory for what it claims.
_MOST = 2**24  # in all: a transformer of 70 billion parameters has 2**23; as arrays, 256 MB
_LONGEST = 2**21  # of one dim: the 100,352 features of a flattened feature map, times twenty


def to_data(plan: PlanFields) -> dict[str, Any]:
    """A plan as JSON data."""
    groups = [
        {"name": g.name, "size": g.size, "kept": g.kept.tolist(), "slots": [_slot_to_dict(s) for s in g.slots]}
        for g in plan.groups.values()
    ]
    return {
        "fxprune_plan": _VERSION,
        "groups": groups,
        "attributes": {m: dict(a) for m, a in plan.attributes.items()},
        "scales": [{"tensor": s.tensor, "rows": s.rows.tolist(), "factor": s.factor} for s in plan.scales],
        "orders": {name: {str(d): order.tolist() for d, order in dims.items()} for name, dims in plan.orders.items()},
        "aliases": dict(plan.aliases),
        "shapes": {name: list(shape) for name, shape in plan.shapes.items()},
    }


def _slot_to_dict(slot: Slot) -> dict[str, Any]:
    """Regular slots (channel i at `start + i·repeat`, `repeat` times) are written without their index lists."""
    head: dict[str, Any] = {"tensor": slot.tensor, "dim": slot.dim, "role": slot.role}
    n = len(slot.positions)
    channels = int(slot.channels.max(initial=-1)) + 1
    repeat = n // max(channels, 1)
    regular = _regular(int(slot.positions[0]), channels, repeat)
    if all(map(np.array_equal, (slot.positions, slot.channels), regular)):
        return {**head, "start": int(slot.positions[0]), "channels": channels, "repeat": repeat}
    return {**head, "positions": slot.positions.tolist(), "channels": slot.channels.tolist()}


def _regular(start: int, channels: int, repeat: int) -> tuple[Ints, Ints]:
    return start + np.arange(channels * repeat), np.repeat(np.arange(channels), repeat)


def fields_of(data: Any) -> dict[str, Any]:
    """The fields of the plan that `to_data` wrote.

    Raises:
        PlanError: the data are inconsistent.
        ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError: they do not describe a plan.
    """
    _check_version(data)
    shapes = {str(k): tuple(_index(n) for n in v) for k, v in data["shapes"].items()}
    _check_size(data["groups"], shapes)
    groups = [_group(g, shapes) for g in data["groups"]]
    _check_disjoint(groups, shapes)
    kept = kept_indices(groups, shapes)
    _check_not_empty(kept)
    return {
        "groups": {g.name: g for g in groups},
        "attributes": {str(m): {str(k): _index(v) for k, v in a.items()} for m, a in data["attributes"].items()},
        "shapes": shapes,
        "scales": tuple(_scale(s, shapes) for s in data["scales"]),
        "orders": _orders(data["orders"], kept),
        "aliases": _aliases(data.get("aliases", {}), shapes),  # older files have none
    }


def _check_version(data: Any) -> None:
    version = data.get("fxprune_plan") if isinstance(data, dict) else None
    if version in range(1, _VERSION):
        raise PlanError(
            "a plan of an earlier version of fxprune",
            seen=f"version {version} of the file",
            remedy=f"make the plan again and save it with this version, which writes version {_VERSION}",
        )
    if version != _VERSION:
        raise PlanError("not a plan of this version", seen=str(data)[:60], remedy=f"version {_VERSION} is understood")


def _check_size(groups: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse numbers that no model has, before memory is taken for them: a few bytes can claim anything."""
    slots = [slot for group in groups for slot in group["slots"]]
    positions = [_index(s["channels"]) * _index(s["repeat"]) if "start" in s else len(s["positions"]) for s in slots]
    positions += [len(group["kept"]) for group in groups]
    dims = {(str(s["tensor"]), _index(s["dim"])) for s in slots}
    lengths = [shapes[tensor][dim] for tensor, dim in dims] + [_index(group["size"]) for group in groups]
    longest, total = max([*positions, *lengths], default=0), max(sum(positions), sum(lengths))
    if longest > _LONGEST or total > _MOST:
        raise PlanError(
            "a plan claims larger tensors than it can be read for",
            seen=f"{longest} indices of a dim, {total} in all",
            remedy=f"save the plan again, of a model whose pruned dims have at most {_LONGEST} indices, {_MOST} in all",
        )


def _orders(data: Mapping[str, Any], cuts: Mapping[str, Mapping[int, Ints]]) -> dict[str, dict[int, Ints]]:
    orders: dict[str, dict[int, Ints]] = {}
    for tensor, dims in data.items():
        for dim, values in dims.items():
            kept = cuts[tensor][int(dim)]
            order = _indices(values, int(kept.max()) + 1, f"index in the order of {tensor}")
            if not np.array_equal(np.sort(order), np.sort(kept)):
                raise PlanError(f"the order of {tensor} is not one of what it keeps", remedy="save the plan again")
            orders.setdefault(tensor, {})[int(dim)] = order
    return orders


def _aliases(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    for name, tensor in data.items():
        if name in shapes or tensor not in shapes:
            raise PlanError(
                f"{name} is not another name of a tensor", seen=str(tensor)[:60], remedy="save the plan again"
            )
    return dict(data)


def _check_not_empty(cuts: Mapping[str, Mapping[int, Ints]]) -> None:
    """Balanced groups may lose all channels, but no dim may."""
    for tensor, dims in cuts.items():
        if any(not len(kept) for kept in dims.values()):
            raise PlanError(f"nothing is kept of {tensor}", remedy="save the plan again")


def _check_disjoint(groups: list[PlannedGroup], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Each group stands once, and each position of a dim belongs to one group."""
    owned: dict[tuple[str, int], list[Ints]] = {}
    for group in groups:
        for slot in group.slots:
            owned.setdefault((slot.tensor, slot.dim), []).append(slot.positions)
    twice = [
        f"{tensor}[dim {dim}]"
        for (tensor, dim), parts in owned.items()
        if len(parts) > 1 and not _differ(np.concatenate(parts), shapes[tensor][dim])
    ]
    if twice or len({g.name for g in groups}) != len(groups):
        raise PlanError("a group or position stands twice in a plan", seen=str(twice[:3]), remedy="save the plan again")


def _differ(indices: Ints, below: int) -> bool:
    """Whether no index stands twice."""
    return _count(indices, below) == len(indices)


def _count(indices: Ints, below: int) -> int:
    """The number of different indices, without sorting them."""
    met = np.zeros(below, dtype=bool)
    met[indices] = True
    return int(met.sum())


def _scale(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Scale:
    tensor, factor = str(data["tensor"]), float(data["factor"])
    if not 0 < factor < float("inf"):
        raise PlanError(f"a factor of {tensor} is out of range", seen=str(factor), remedy="save the plan again")
    return Scale(tensor, _indices(data["rows"], shapes[tensor][0], f"row of {tensor}"), factor)


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlanError(
            "a plan holds a value that is not an index", seen=repr(value)[:60], remedy="save the plan again"
        )
    return value


def _indices(values: Any, below: int, what: str) -> Ints:
    if not isinstance(values, list) or set(map(type, values)) - {int}:
        raise PlanError(
            "a plan holds a value that is not an index", seen=repr(values)[:60], remedy="save the plan again"
        )
    array = np.array(values, dtype=np.int64)
    if len(array) and not 0 <= array.min() <= array.max() < below:
        raise PlanError(
            f"{what} out of range", seen=f"{array.min()} to {array.max()} of {below}", remedy="save the plan again"
        )
    return array


def _group(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> PlannedGroup:
    size = _index(data["size"])
    if not data["slots"] or size > max(shapes[s["tensor"]][s["dim"]] for s in data["slots"]):
        raise PlanError(f"group {data['name']} is larger than its tensors", remedy="save the plan again")
    kept = _indices(data["kept"], size, f"kept channel of group {data['name']}")
    if not _differ(kept, size):
        raise PlanError(f"group {data['name']} keeps a channel twice", remedy="save the plan again")
    slots = tuple(_slot(s, size, shapes) for s in data["slots"])
    if not isinstance(data["name"], str) or any(_count(s.channels, size) != size for s in slots):
        raise PlanError(f"slots of group {data['name']} do not hold its channels", remedy="save the plan again")
    return PlannedGroup(data["name"], size, kept, slots)


def _slot(data: Mapping[str, Any], size: int, shapes: Mapping[str, tuple[int, ...]]) -> Slot:
    tensor, dim = str(data["tensor"]), _index(data["dim"])
    length = shapes[tensor][dim]
    if "start" in data:
        start, count, repeat = (_index(data[key]) for key in ("start", "channels", "repeat"))
        if count > size or start + count * repeat > length:
            raise PlanError(f"a slot of {tensor} is longer than its dim", remedy="save the plan again")
        positions, channels = _regular(start, count, repeat)
    else:
        positions = _indices(data["positions"], length, f"index of {tensor}")
        channels = _indices(data["channels"], size, f"channel of {tensor}")
    if len(positions) != len(channels) or not _differ(positions, length):
        raise PlanError(f"positions and channels of {tensor} disagree", remedy="save the plan again")
    if data["role"] not in ("producer", "consumer", "other"):
        raise PlanError(f"unknown role in {tensor}", seen=repr(data["role"])[:40], remedy="save the plan again")
    return Slot(tensor, dim, length, positions, channels, data["role"])
