"""A plan: which channels stay, as a value. Applying it needs neither a graph nor the model that it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fxprune.errors import PlanError
from fxprune.files import write_whole

Ints = npt.NDArray[np.int64]
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the channels of a group lie in one dim of one tensor.

    Attributes:
        tensor: qualified name of the parameter or buffer.
        dim: the dim.
        length: the dim's length.
        positions: indices along the dim that belong to the group, of shape (n,), in the order in which they stand in
            the rewritten tensor (ascending).
        channels: the channel of each position, of shape (n,). One channel may own several positions: 49 columns of a
            linear layer after a 7x7 feature map was flattened.
        role: what the dim is to the op that uses the tensor: "producer" (makes the channels), "consumer" (reads them)
            or "other" (norms, biases, statistics).
    """

    tensor: str
    dim: int
    length: int
    positions: Ints
    channels: Ints
    role: str = "other"

    def __str__(self) -> str:
        return f"{self.tensor}[dim {self.dim}]"


@dataclass(frozen=True)
class PlannedGroup:
    """One group's part of a plan: its channels' places and the channels that stay.

    Attributes:
        name: the group's name.
        size: its number of channels.
        kept: the channels that stay, ascending, of shape (k,), 1 <= k <= size.
        slots: where its channels lie.
    """

    name: str
    size: int
    kept: Ints
    slots: tuple[Slot, ...]


@dataclass(frozen=True, eq=False)
class Scale:
    """Rows of a weight or bias that are multiplied by a factor.

    Where the model's code computes an attention scale from a width, the shorter width would change it; the weights
    before it take up the difference, so that the scale keeps its old effect.

    Attributes:
        tensor: qualified name.
        rows: positions along the first dim of the full-size tensor.
        factor: what they are multiplied by.
    """

    tensor: str
    rows: Ints
    factor: float


@dataclass(frozen=True)
class Plan:
    """Which channels of which groups stay.

    Attributes:
        groups: the planned groups by name, in execution order.
        attributes: new values of int attributes that do not follow from tensor shapes: {module: {"groups": 16}}.
        shapes: the full shape of each tensor that the plan cuts.
        scales: weights that take up a changed attention scale.
        heads: the choice of heads or head width that the groups were found with.
        orders: what stays of dims whose channels the smaller model's shuffles put in another order, in that order:
            {tensor: {dim: indices}}.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> plan = fxprune.planners.Uniform(0.25)(groups, fxprune.scorers.L2Norm()(net, groups))
    >>> plan.kept_counts()
    {'0': 6}
    >>> fxprune.Plan.from_json(plan.to_json()) == plan
    True
    """

    groups: Mapping[str, PlannedGroup]
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scales: tuple[Scale, ...] = ()
    heads: str | tuple[tuple[str, str], ...] = ""
    orders: Mapping[str, Mapping[int, Ints]] = field(default_factory=dict)

    def kept_counts(self) -> dict[str, int]:
        """Channels that stay, by group."""
        return {name: len(g.kept) for name, g in self.groups.items()}

    def cuts(self) -> dict[str, dict[int, Ints]]:
        """What stays of each tensor: {tensor: {dim: kept indices in their order}}; untouched dims are absent."""
        parts: dict[tuple[str, int], list[_Part]] = {}
        for group in self.groups.values():
            stays = np.zeros(group.size, dtype=bool)
            stays[group.kept] = True
            for slot in group.slots:
                parts.setdefault((slot.tensor, slot.dim), []).append((slot.positions, slot.channels, stays))
        cuts: dict[str, dict[int, Ints]] = {}
        known: dict[tuple[int, ...], Ints | None] = {}  # equated dims have the very same arrays
        for (tensor, dim), found in parts.items():
            length = self.shapes[tensor][dim]
            key = (length, *(id(array) for part in found for array in part))
            if key not in known:
                known[key] = _kept_positions(length, found)
            kept = known[key]
            if kept is not None:
                cuts.setdefault(tensor, {})[dim] = self.orders.get(tensor, {}).get(dim, kept)
        return cuts

    def to_json(self) -> str:
        """Readable JSON, one group a paragraph."""
        return json.dumps(_to_dict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "the given text") -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            PlanError: the text is truncated, malformed or inconsistent.
        """
        try:
            return _from_dict(json.loads(text))
        except PlanError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise PlanError(
                "not a plan",
                where=source,
                seen=f"{type(error).__name__}: {error}",
                remedy="the file is damaged, cut short or of another kind; save the plan again",
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; an existing file is replaced whole or not at all."""
        write_whole(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan written by `save`.

        Raises:
            PlanError: the file is truncated, malformed or inconsistent.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PlanError(
                "not a plan", where=str(path), seen="binary data", remedy="give a plan's JSON file"
            ) from error
        return cls.from_json(text, str(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and _to_dict(self) == _to_dict(other)

    def __hash__(self) -> int:
        return hash(tuple(self.kept_counts().items()))


_Part = tuple[Ints, Ints, npt.NDArray[np.bool_]]  # a slot's positions and channels, and which channels stay


def _kept_positions(length: int, parts: list[_Part]) -> Ints | None:
    """Indices that stay, in the slots' own order; indices outside every slot stay where they are. None for all."""
    source, keep = np.arange(length), np.ones(length, dtype=bool)
    for positions, channels, stays in parts:
        places = np.sort(positions)
        source[places] = positions
        keep[places] = stays[channels]
    return None if keep.all() else source[keep]


def _to_dict(plan: Plan) -> dict[str, Any]:
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
        "heads": plan.heads if isinstance(plan.heads, str) else [list(pair) for pair in plan.heads],
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


def _from_dict(data: Any) -> Plan:
    if not isinstance(data, dict) or data.get("fxprune_plan") != _VERSION:
        raise PlanError("not a plan of this version", seen=str(data)[:60], remedy=f"version {_VERSION} is understood")
    shapes = {str(k): tuple(_index(n) for n in v) for k, v in data["shapes"].items()}
    groups = [_group(g, shapes) for g in data["groups"]]
    _check_disjoint(groups)
    attributes = {str(m): {str(k): _index(v) for k, v in a.items()} for m, a in data["attributes"].items()}
    scales = tuple(_scale(s, shapes) for s in data["scales"])
    heads = data["heads"] if isinstance(data["heads"], str) else tuple((str(a), str(b)) for a, b in data["heads"])
    plan = Plan({g.name: g for g in groups}, attributes, shapes, scales, heads)
    _check_not_empty(plan)
    return replace(plan, orders=_orders(data["orders"], plan.cuts()))


def _orders(data: Mapping[str, Any], cuts: Mapping[str, Mapping[int, Ints]]) -> dict[str, dict[int, Ints]]:
    orders: dict[str, dict[int, Ints]] = {}
    for tensor, dims in data.items():
        for dim, values in dims.items():
            order, kept = np.array([_index(v) for v in values], dtype=np.int64), cuts[tensor][int(dim)]
            if not np.array_equal(np.sort(order), np.sort(kept)):
                raise PlanError(f"the order of {tensor} is not one of what it keeps", remedy="save the plan again")
            orders.setdefault(tensor, {})[int(dim)] = order
    return orders


def _check_not_empty(plan: Plan) -> None:
    """Balanced groups may lose all channels, but no dim may."""
    for tensor, dims in plan.cuts().items():
        if any(not len(kept) for kept in dims.values()):
            raise PlanError(f"nothing is kept of {tensor}", remedy="save the plan again")


def _check_disjoint(groups: list[PlannedGroup]) -> None:
    """Each group stands once, and each position of a dim belongs to one group."""
    owned: dict[tuple[str, int], list[Ints]] = {}
    for group in groups:
        for slot in group.slots:
            owned.setdefault((slot.tensor, slot.dim), []).append(slot.positions)
    twice = [f"{tensor}[dim {dim}]" for (tensor, dim), p in owned.items() if len(np.unique(_all(p))) != len(_all(p))]
    if twice or len({g.name for g in groups}) != len(groups):
        raise PlanError("a group or position stands twice in a plan", seen=str(twice[:3]), remedy="save the plan again")


def _all(parts: list[Ints]) -> Ints:
    return np.concatenate(parts)


def _scale(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Scale:
    tensor, factor = str(data["tensor"]), float(data["factor"])
    if not 0 < factor < float("inf"):
        raise PlanError(f"a factor of {tensor} is out of range", seen=str(factor), remedy="save the plan again")
    return Scale(tensor, _indices(data["rows"], shapes[tensor][0], f"row of {tensor}"), factor)


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlanError("a plan holds a value that is no index", seen=repr(value)[:60], remedy="save the plan again")
    return value


def _indices(values: Any, below: int, what: str) -> Ints:
    array = np.array([_index(v) for v in values], dtype=np.int64)
    if len(array) and array.max() >= below:
        raise PlanError(f"{what} out of range", seen=f"{array.max()} of {below}", remedy="save the plan again")
    return array


def _group(data: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> PlannedGroup:
    size = _index(data["size"])
    if not data["slots"] or size > max(shapes[s["tensor"]][s["dim"]] for s in data["slots"]):
        raise PlanError(f"group {data['name']} is larger than its tensors", remedy="save the plan again")
    kept = _indices(data["kept"], size, f"kept channel of group {data['name']}")
    if len(np.unique(kept)) != len(kept):
        raise PlanError(f"group {data['name']} keeps a channel twice", remedy="save the plan again")
    slots = tuple(_slot(s, size, shapes) for s in data["slots"])
    if not isinstance(data["name"], str) or any(len(np.unique(s.channels)) != size for s in slots):
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
    if len(positions) != len(channels) or len(np.unique(positions)) != len(positions):
        raise PlanError(f"positions and channels of {tensor} disagree", remedy="save the plan again")
    if data["role"] not in ("producer", "consumer", "other"):
        raise PlanError(f"unknown role in {tensor}", seen=repr(data["role"])[:40], remedy="save the plan again")
    return Slot(tensor, dim, length, positions, channels, data["role"])
