"""Groups: the slices of tensors that must live or die together, and why every other dim must stay."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, overload

import networkx as nx
import numpy as np
import numpy.typing as npt
from torch import fx

from fxprune.errors import InputError
from fxprune.factorings import Components, resolve
from fxprune.labels import UNSET, Axes, Dim, Fixed, Labelling, Labels, label
from fxprune.plan import Plan, PlannedGroup, Slot
from fxprune.rules import rule_of
from fxprune.rules.contraction import ROLES
from fxprune.trace import Graph


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can be removed one by one, each with all its slices.

    Attributes:
        name: the first producer's qualified name, for instance `layer1.0.conv1`; stable across runs.
        size: number of channels.
        slots: where the channels lie, in execution order.
        mixed_by: the op that computes over the whole of the pruned dim (a norm, mean or softmax), with its module, so
            that the pruned model differs from the masked one; empty where they are equal.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    mixed_by: str = ""

    @property
    def producers(self) -> tuple[Slot, ...]:
        """The weights' dims that make these channels."""
        return tuple(s for s in self.slots if s.role == "producer")

    @property
    def consumers(self) -> tuple[Slot, ...]:
        """The weights' dims that read these channels."""
        return tuple(s for s in self.slots if s.role == "consumer")


@dataclass(frozen=True)
class FixedDim:
    """Indices of a tensor dim that must stay, and the op or boundary that fixes them.

    Attributes:
        tensor: qualified name of the parameter or buffer.
        dim: the dim.
        count: how many of its indices are fixed.
        reason: why.
        where: the op and the module that issued it, if an op is the reason.
    """

    tensor: str
    dim: int
    count: int
    reason: str
    where: str = ""


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that is known of a graph: labels, components, and every candidate group, protected or not.

    Attributes:
        labelling: labels on every dim of the graph.
        components: the resolved components.
        group_of: index of each component's group, -1 where it belongs to none, of shape (components,).
        channel_of: each component's channel in its group, of shape (components,).
        groups: all candidate groups in execution order.
        fixed: the dims that must stay.
    """

    labelling: Labelling
    components: Components
    group_of: Labels
    channel_of: Labels
    groups: tuple[Group, ...]
    fixed: tuple[FixedDim, ...]

    def length(self, dim: Dim, size: int) -> tuple[int, dict[int, int]]:
        """A dim's length as (constant part, {group index: indices per channel}); other dims are all constant."""
        if not isinstance(dim, np.ndarray):
            return size, {}
        owners = self.group_of[self.components.of[dim]]
        counts = np.bincount(owners[owners >= 0], minlength=1)
        return int((owners < 0).sum()), {int(g): int(counts[g]) // self.groups[g].size for g in counts.nonzero()[0]}

    def attributes(self, counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """New values of the attributes that hold a dim's length, when `counts` channels of the named groups stay."""
        found: dict[str, dict[str, int]] = {}
        for use in self.labelling.labeller.widths:
            new, per_group = self.length(use.labels, len(use.labels))
            new += sum(n * counts.get(self.groups[g].name, self.groups[g].size) for g, n in per_group.items())
            if new != len(use.labels):
                found.setdefault(use.module, {})[use.attribute] = new
        return found


class Groups(Sequence[Group]):
    """The prunable groups of a model in execution order; also addressed by name.

    Attributes:
        graph: the recorded forward.
        fixed: every parameter dim that must stay, with the reason.
        unknown_ops: ops without a rule, counted; they fix what they touch.
    """

    def __init__(self, analysis: Analysis, members: Sequence[Group], fixed: Sequence[FixedDim]) -> None:
        self.analysis = analysis
        self.graph: Graph = analysis.labelling.graph
        self.fixed: tuple[FixedDim, ...] = tuple(fixed)
        self.unknown_ops: Counter[str] = analysis.labelling.labeller.unknown
        self._members = tuple(members)
        self._by_name = {g.name: g for g in members}

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, key: int | str) -> Group: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Group]: ...
    def __getitem__(self, key: Any) -> Any:
        return self._by_name[key] if isinstance(key, str) else self._members[key]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._by_name if isinstance(key, str) else key in self._members

    def plan(self, kept: Mapping[str, npt.ArrayLike]) -> Plan:
        """The plan that keeps the given channels of the named groups, and all channels of the others.

        Raises:
            InputError: an unknown group, a channel out of range, or a group that would lose all channels.
        """
        chosen = {name: _checked(self._known(name), channels) for name, channels in kept.items()}
        planned = {g.name: PlannedGroup(g.name, g.size, chosen.get(g.name, np.arange(g.size)), g.slots) for g in self}
        tensors = self.graph.tensors
        shapes = {s.tensor: tuple(tensors[s.tensor].shape) for g in self for s in g.slots}
        return Plan(planned, self.analysis.attributes({n: len(k) for n, k in chosen.items()}), shapes)

    def _known(self, name: str) -> Group:
        if name not in self._by_name:
            raise InputError(
                "no such prunable group", seen=name, remedy=f"groups: {', '.join(list(self._by_name)[:8])} ..."
            )
        return self._by_name[name]

    @cached_property
    def feeds(self) -> nx.DiGraph:
        """Which group's channels are read to make which other's: a graph of group names."""
        graph = nx.DiGraph()
        graph.add_nodes_from(g.name for g in self)
        readers: dict[str, set[str]] = {}
        for g in self:
            for s in g.consumers:
                readers.setdefault(s.tensor, set()).add(g.name)
        for g in self:
            for s in g.producers:
                graph.add_edges_from((r, g.name) for r in readers.get(s.tensor, ()) if r != g.name)
        return graph


def _checked(group: Group, channels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    kept = np.unique(np.asarray(channels, dtype=np.int64))
    if not len(kept):
        raise InputError("a group must keep at least one channel", where=group.name, remedy="lower the pruning ratio")
    if kept[0] < 0 or kept[-1] >= group.size:
        raise InputError("a kept channel is out of range", where=group.name, seen=f"{kept[[0, -1]]} of {group.size}")
    return kept


def find_groups(graph: Graph, protect: Iterable[str] = ()) -> Groups:
    """Find all groups of channels that can be pruned.

    Args:
        graph: from `fxprune.trace`.
        protect: names (or shell patterns) of modules, parameters or groups that must keep all channels.

    Returns:
        The groups, in execution order, and in `.fixed` the reason for every dim that can't shrink.

    Raises:
        InputError: an entry of `protect` matches nothing.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8)))
    >>> [(g.name, g.size, len(g.slots)) for g in groups]
    [('0', 8, 7)]
    >>> groups.fixed[0]
    FixedDim(tensor='0.weight', dim=1, count=3, reason='model input', where='')
    """
    from fxprune.widths import held_by_code

    analysis = analyse(graph)
    reasons = {**_protected(analysis, tuple(protect))}
    reasons = {**held_by_code(analysis, frozenset(reasons)), **reasons}
    members = [g for g in analysis.groups if g.name not in reasons]
    fixed = [
        FixedDim(s.tensor, s.dim, len(s.positions), *reasons[g.name])
        for g in analysis.groups
        if g.name in reasons
        for s in g.slots
    ]
    return Groups(analysis, members, [*analysis.fixed, *fixed])


def _protected(analysis: Analysis, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    reasons: dict[str, tuple[str, str]] = {}
    for pattern in names:
        hits = [g.name for g in analysis.groups if _touches(g, pattern)]
        if not hits and not any(_matches(tensor, pattern) for tensor in analysis.labelling.graph.tensors):
            raise InputError(
                "nothing has the name to protect", seen=pattern, remedy="give a module, parameter or group"
            )
        reasons |= dict.fromkeys(hits, (f"protected by the caller ('{pattern}')", ""))
    return reasons


def _touches(group: Group, pattern: str) -> bool:
    return _matches(group.name, pattern) or any(_matches(s.tensor, pattern) for s in group.slots)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


_ANALYSES: weakref.WeakKeyDictionary[Graph, Analysis] = weakref.WeakKeyDictionary()


def analyse(graph: Graph) -> Analysis:
    """Label the graph and find its components and candidate groups; remembered as long as the graph lives."""
    if graph not in _ANALYSES:
        _ANALYSES[graph] = _analyse(graph)
    return _ANALYSES[graph]


def _analyse(graph: Graph) -> Analysis:
    labelling = label(graph, rule_of)
    components = resolve(labelling.labeller)
    parameters = labelling.parameter_axes()
    places = [
        (name, dim, axes[dim]) for name, axes in parameters.items() for dim in range(len(axes)) if _labelled(axes, dim)
    ]
    group_of, channel_of = _partition(components, [labels for *_, labels in places])  # type: ignore[misc]
    mixed = _mixed(labelling, components, group_of)
    groups = _make_groups(graph, components, places, group_of, channel_of, mixed)
    lone = {i for i, g in enumerate(groups) if g.size == 1}
    fixed = _fixed_dims(labelling, components, parameters)
    return (
        Analysis(labelling, components, group_of, channel_of, groups, (*fixed,))
        if not lone
        else _without(Analysis(labelling, components, group_of, channel_of, groups, (*fixed,)), lone)
    )


def _without(analysis: Analysis, lone: set[int]) -> Analysis:
    """Groups of one channel cannot shrink."""
    keep = [i for i in range(len(analysis.groups)) if i not in lone]
    renumber = np.full(len(analysis.groups) + 1, -1)
    renumber[keep] = np.arange(len(keep))
    fixed = [
        FixedDim(s.tensor, s.dim, len(s.positions), "all its channels are tied into one")
        for i in sorted(lone)
        for s in analysis.groups[i].slots
    ]
    groups = tuple(analysis.groups[i] for i in keep)
    return Analysis(
        analysis.labelling,
        analysis.components,
        renumber[analysis.group_of],
        analysis.channel_of,
        groups,
        (*analysis.fixed, *fixed),
    )


def _labelled(axes: Axes, dim: int) -> bool:
    return isinstance(axes.known(dim), np.ndarray)


def _partition(components: Components, places: Sequence[Labels]) -> tuple[Labels, Labels]:
    """Group components that touch the same places equally often; number the channels by first appearance.

    A component's signature is the sum of one random 64-bit key per touch: equal multisets of places have equal sums,
    and different ones differ but for a chance of about 1e-13 (10^3 groups).
    """
    count = len(components.fix)
    group_of, channel_of = np.full(count, -1), np.full(count, -1)
    if not places:
        return group_of, channel_of
    touched = components.of[np.concatenate(places)]
    keys = np.random.default_rng(0).integers(0, 2**63, len(places), dtype=np.uint64)
    signature = np.zeros(count, dtype=np.uint64)
    np.add.at(signature, touched, np.repeat(keys, [len(p) for p in places]))
    first = np.full(count, len(touched))
    first[touched[::-1]] = np.arange(len(touched))[::-1]
    free = np.flatnonzero((first < len(touched)) & (components.fix < 0))
    free = free[np.argsort(first[free])]
    if not len(free):
        return group_of, channel_of
    _, start, inverse, counts = np.unique(signature[free], return_index=True, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(start))
    group_of[free] = rank[inverse]
    order = np.argsort(inverse, kind="stable")
    channel_of[free[order]] = np.arange(len(free)) - np.repeat(np.cumsum(counts) - counts, counts)
    return group_of, channel_of


def _make_groups(
    graph: Graph,
    components: Components,
    places: Sequence[Any],
    group_of: Labels,
    channel_of: Labels,
    mixed: Mapping[int, str],
) -> tuple[Group, ...]:
    roles = _roles(graph)
    slots: dict[int, list[Slot]] = {}
    for name, dim, labels in places:
        touched = components.of[labels]
        owners = group_of[touched]
        role = roles.get((name, dim), "other")
        for g in [int(owners[0])] if (owners == owners[0]).all() else np.unique(owners).tolist():
            if g >= 0:
                positions = np.flatnonzero(owners == g)
                slots.setdefault(g, []).append(
                    Slot(name, dim, len(labels), positions, channel_of[touched[positions]], role)
                )
    names = _names([slots[g] for g in range(len(slots))])
    sizes = [1 + max(int(s.channels.max()) for s in slots[g]) for g in range(len(slots))]
    return tuple(Group(names[g], sizes[g], tuple(slots[g]), mixed.get(g, "")) for g in range(len(slots)))


def _mixed(labelling: Labelling, components: Components, group_of: Labels) -> dict[int, str]:
    """For each group that a norm, mean or softmax runs over: the first such op."""
    found: dict[int, str] = {}
    for mix in labelling.labeller.mixes:
        for g in np.unique(group_of[components.of[mix.labels]]).tolist():
            if g >= 0:
                found.setdefault(g, _place(mix.node))
    return found


def _names(members: Sequence[Sequence[Slot]]) -> list[str]:
    """Each group is called after its first producer's module, or the first tensor; later ones of one module get #2."""
    seen: Counter[str] = Counter()
    names = []
    for slots in members:
        lead = next((s for s in slots if s.role == "producer"), slots[0]).tensor
        base = lead.rpartition(".")[0] if lead.endswith((".weight", ".bias")) else lead
        seen[base] += 1
        names.append(base if seen[base] == 1 else f"{base}#{seen[base]}")
    return names


def _roles(graph: Graph) -> dict[tuple[str, int], str]:
    """What each weight dim is to the contraction that uses it."""
    roles: dict[tuple[str, int], str] = {}
    for node in graph.fx.nodes:
        find = ROLES.get(getattr(node.target, "_opname", "")) if node.op == "call_function" else None
        for argument, producer, consumer in find(node) if find else ():
            source, turned = _unturned(node.args[argument])
            if source.op == "get_attr":
                for dim, role in ((producer, "producer"), (consumer, "consumer")):
                    roles.setdefault((str(source.target), 1 - dim if turned else dim), role)
    return roles


def _unturned(node: Any) -> tuple[fx.Node, bool]:
    """Look through the transposition that a linear layer applies to its weight."""
    turned = node.op == "call_function" and getattr(node.target, "_opname", "") == "t"
    return (node.args[0], True) if turned else (node, False)


def _fixed_dims(labelling: Labelling, components: Components, parameters: Mapping[str, Axes]) -> list[FixedDim]:
    found = [d for name, axes in parameters.items() for i in range(len(axes)) for d in _why(components, name, axes, i)]
    unused = [name for name in labelling.graph.tensors if name not in parameters]
    for name in unused:
        shape = labelling.graph.tensors[name].shape
        found += [FixedDim(name, i, n, "not used by the recorded forward") for i, n in enumerate(shape) if n > 1]
    return found


def _why(components: Components, name: str, axes: Axes, i: int) -> Iterator[FixedDim]:
    dim = axes.known(i)
    if dim is UNSET:
        yield FixedDim(name, i, axes.shape[i], "no op reads this dim")
    elif isinstance(dim, Fixed):
        yield FixedDim(name, i, axes.shape[i], dim.reason)
    elif isinstance(dim, np.ndarray):
        causes = components.fix[components.of[dim]]
        for k, count in zip(*np.unique(causes[causes >= 0], return_counts=True), strict=True):
            fix = components.fixes[k]
            yield FixedDim(name, i, int(count), fix.reason, _place(fix.node))


def _place(node: fx.Node | None) -> str:
    if node is None or node.op == "output":
        return ""
    module = node.meta.get("module")
    return f"{node.target}" + (f" in {module}" if module else "")
