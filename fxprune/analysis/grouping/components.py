"""Analysis: labels, components and candidate groups of a graph, and why every other dim must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import lcm
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import fx, nn

from fxprune.analysis.grouping.partial_reads import never_read, replaced, untrained
from fxprune.analysis.grouping.partition import marks, partition, stations
from fxprune.analysis.grouping.reasons import FixedDim, fixed_dims, place
from fxprune.analysis.grouping.steps import Balanced, Ratio, Steps
from fxprune.analysis.grouping.traces import Keys, traces
from fxprune.analysis.grouping.zero_propagation import sums_of_weights, told_apart
from fxprune.analysis.labels.dims import Dim, Labels
from fxprune.analysis.labels.factorings import COLUMNS, ROWS, Components, Heads, resolve
from fxprune.analysis.labels.labels import Labelling
from fxprune.analysis.labels.propagation import label
from fxprune.analysis.ops.layout import unturned
from fxprune.analysis.ops.table import rule_of, spec_of_node
from fxprune.plan.plan import Ints, Slot
from fxprune.tracing.trace import Graph

_Place: TypeAlias = tuple[str, int, Labels]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can be removed one by one, each with all its slices.

    Attributes:
        name: the first producer's qualified name, for instance `layer1.0.conv1`; stable across runs.
        size: number of channels.
        slots: where the channels lie, in execution order.
        mixed_by: the op that computes over the whole of the pruned dim (a norm, mean or softmax), with its module, so
            that the pruned model differs from the masked one; empty where they are equal.
        multiple: planners keep a multiple of this, or all; more than 1 where an op takes no other widths.
    """

    name: str
    size: int
    slots: tuple[Slot, ...] = field(repr=False)
    mixed_by: str = ""
    multiple: int = field(default=1, repr=False)

    @property
    def producers(self) -> tuple[Slot, ...]:
        """The weights' dims that make these channels."""
        return tuple(s for s in self.slots if s.role == "producer")

    @property
    def consumers(self) -> tuple[Slot, ...]:
        """The weights' dims that read these channels."""
        return tuple(s for s in self.slots if s.role == "consumer")


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
        signatures: a number for each group that tells which places its channels touch.
        heads: what shrinks where a reshape splits a dim into heads, as the caller has chosen.
        balanced: sets of groups (by index) of which the code may keep equally many by position.
        balances: those sets of which it does (see `fxprune.analysis.grouping.balance`).
    """

    labelling: Labelling
    components: Components
    group_of: Labels
    channel_of: Labels
    groups: tuple[Group, ...]
    fixed: tuple[FixedDim, ...]
    signatures: Keys
    heads: Heads
    balanced: tuple[frozenset[int], ...] = ()
    balances: tuple[Balanced, ...] = ()

    def steps(self, names: Iterable[str]) -> Steps | None:
        """How tied groups can shrink together; None if they cannot."""
        wanted = frozenset(names)
        for balance in self.balances:
            if balance.names & wanted:
                return balance if balance.names == wanted else None
        ratio = Ratio({name: self.by_name[name].size for name in wanted})
        return ratio if ratio.step > 1 or len(wanted) == 1 else None

    def length(self, dim: Dim, size: int) -> tuple[int, dict[int, int]]:
        """A dim's length as (constant part, {group index: indices per channel}); other dims are all constant."""
        if not isinstance(dim, np.ndarray):
            return size, {}
        owners = self.group_of[self.components.of[dim]]
        counts = np.bincount(owners[owners >= 0], minlength=1)
        return int((owners < 0).sum()), {int(g): int(counts[g]) // self.groups[g].size for g in counts.nonzero()[0]}

    def keep(self, kept: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.bool_]:
        """Which components stay, given the kept channels of some groups, of shape (components,)."""
        keep = np.ones(len(self.group_of), dtype=bool)
        for name, channels in kept.items():
            group = self.index[name]
            stays = np.zeros(self.groups[group].size, dtype=bool)
            stays[np.asarray(channels, dtype=np.int64)] = True
            mine = self._members[group]
            keep[mine] = stays[self.channel_of[mine]]
        return keep

    @cached_property
    def choices(self) -> Heads:
        """What shrinks where a dim is a grid, as decided for these widths: smaller ones may tip the scale.

        Grids that left no choice say nothing of those that did, nor do those of no group, such as samples by tokens.
        """
        found: dict[tuple[str, bool], set[str]] = {}
        for f in self.components.chosen:
            if f in self.components.open and (self.group_of[self.components.of[f.flat]] >= 0).any():
                last = self.components.chosen[f] == len(f.sizes) - 1
                split, grid = ("head_dim", COLUMNS) if last else ("num_heads", ROWS)
                found.setdefault((f.node.meta["module"], f.split), set()).add(split if f.split else grid)
        alike = [(module, min(choices)) for (module, _), choices in found.items() if len(choices) == 1]
        return (*alike, *([("*", self.heads)] if isinstance(self.heads, str) else self.heads))

    @cached_property
    def traces(self) -> Keys:
        """For each label, a number that tells in which rows and parts it lies (see `traces`)."""
        return traces(self.labelling, self.components)

    def by_channel(self, slot: Slot) -> Ints:
        """Positions of a slot, of shape (channels, positions of each), those of a channel in order of their traces."""
        labels = self.labelling.parameter_axes[slot.tensor].known(slot.dim)[slot.positions]
        order = np.lexsort((slot.positions, self.traces[labels], slot.channels))
        return slot.positions[order].reshape(int(slot.channels.max()) + 1, -1)

    @cached_property
    def _members(self) -> list[Labels]:
        """The components of each group."""
        order = np.argsort(self.group_of, kind="stable")
        return np.split(order, np.searchsorted(self.group_of[order], np.arange(len(self.groups) + 1)))[1:-1]

    @cached_property
    def by_name(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def index(self) -> dict[str, int]:
        """Each group's place in `groups`."""
        return {g.name: i for i, g in enumerate(self.groups)}


def mended(analysis: Analysis, keep: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """New values of the attributes of PyTorch's own layers that hold a dim's length, without following tensors.

    Args:
        analysis: of the graph.
        keep: which components stay, from `Analysis.keep`.
    """
    found: dict[str, dict[str, int]] = {}
    model = analysis.labelling.graph.model
    for use in analysis.labelling.labeller.widths:
        new, module = int(keep[analysis.components.of[use.labels]].sum()), model.get_submodule(use.module)
        if new != len(use.labels) and isinstance(module, _WITH_GROUPS):
            found.setdefault(use.module, {})[use.attribute] = new
    return found


_WITH_GROUPS = (nn.modules.conv._ConvNd, nn.GroupNorm)


def analysed(graph: Graph, heads: Heads = "", free: frozenset[str] = frozenset()) -> Analysis:
    """Label the graph and find its components and candidate groups.

    Raises:
        NotLooseError: one of the `free` grids is more than moved (see `fxprune.analysis.labels.propagation.label`).
    """
    labelling = label(graph, rule_of, free, _is_unread)
    fixes = labelling.labeller.fixes
    # The first is told: that a tensor is put in another's place says more than that nothing reads the other afterwards.
    fixes[:] = [*replaced(labelling), *fixes, *never_read(labelling), *untrained(labelling)]
    return _grouped(labelling, resolve(labelling.labeller, heads), heads, ())


def _is_unread(node: fx.Node) -> bool:
    spec = spec_of_node(node)
    return spec is not None and spec.unread


def parted(analysis: Analysis, parts: Sequence[Labels]) -> Analysis:
    """The same analysis, with groups of their own for parts of a group: sets of components."""
    return _grouped(analysis.labelling, analysis.components, analysis.heads, parts)


def _grouped(labelling: Labelling, components: Components, heads: Heads, parts: Sequence[Labels]) -> Analysis:
    parameters = labelling.parameter_axes
    places = [
        (name, dim, labels)
        for name, axes in parameters.items()
        for dim in range(len(axes))
        if isinstance(labels := axes.known(dim), np.ndarray)
    ]
    passed = list(_of_parameters(components, places, [*stations(labelling, components), *marks(components, parts)]))
    group_of, channel_of, signatures = partition(components, [*places, *passed])
    mixed = _mixed(labelling, components, group_of)
    groups = _make_groups(labelling.graph, components, places, group_of, channel_of, mixed)
    for labels, number in labelling.labeller.multiples:
        least = np.where(np.isin(range(len(groups)), group_of[components.of[labels]]), number, 1).tolist()
        groups = tuple(replace(g, multiple=lcm(g.multiple, n)) for g, n in zip(groups, least, strict=True))
    fixed, balanced = tuple(fixed_dims(labelling, components, parameters)), _balanced(labelling, components, group_of)
    analysis = Analysis(labelling, components, group_of, channel_of, groups, fixed, signatures, heads, balanced)
    lone = {i: "all its channels are tied into one" for i, g in enumerate(groups) if g.size == 1}
    lone |= {i: reason for i, g in enumerate(groups) if (reason := _of_buffers(labelling.graph, g))}
    lone = {i: reason for i, reason in lone.items() if not any(i in b for b in balanced)}
    return _without(analysis, lone) if lone else analysis


def _of_parameters(components: Components, places: Sequence[_Place], passed: Sequence[_Place]) -> Iterator[_Place]:
    """What is passed, without the components that no parameter has, such as positions in an image."""
    has = np.zeros(len(components.fix), dtype=bool)
    for _, _, labels in places:
        has[components.of[labels]] = True
    for name, dim, labels in passed:
        known = has[components.of[labels]]
        yield name, dim, labels if known.all() else labels[known]


def _of_buffers(graph: Graph, group: Group) -> str:
    """Why a group is none, if buffers hold what no layer has made: statistics that a forward keeps, or data."""
    own = [s for s in group.slots if not isinstance(graph.tensors[s.tensor], nn.Parameter)]
    if len(own) == len(group.slots) and not {"producer", "consumer"} <= {s.role for s in own}:
        return "no parameter and no layer has these channels"
    made = any(s.role != "consumer" and s not in own for s in group.slots)
    data = any(s.role != "producer" and graph.tensors[s.tensor].is_floating_point() for s in own)  # no index
    return "numbers that a buffer gives to a layer, as data" if data and not made else ""


def _balanced(labelling: Labelling, components: Components, group_of: Labels) -> tuple[frozenset[int], ...]:
    """Groups that are cut into parts of equal number together."""
    sets: list[frozenset[int]] = []
    for flat in labelling.labeller.balances:
        mine = frozenset(np.unique(group_of[components.of[flat]]).tolist()) - {-1}
        touching = [s for s in sets if s & mine]
        sets = [s for s in sets if not s & mine] + [mine.union(*touching)]
    return tuple(s for s in sets if s)


def _without(analysis: Analysis, lone: Mapping[int, str]) -> Analysis:
    """The analysis without the groups that cannot shrink, or need not; the reasons are told."""
    keep = [i for i in range(len(analysis.groups)) if i not in lone]
    renumber = np.full(len(analysis.groups) + 1, -1)
    renumber[keep] = np.arange(len(keep))
    fixed = [
        FixedDim(s.tensor, s.dim, len(s.positions), reason)
        for i, reason in sorted(lone.items())
        for s in analysis.groups[i].slots
    ]
    groups = tuple(analysis.groups[i] for i in keep)
    return replace(
        analysis,
        group_of=renumber[analysis.group_of],
        groups=groups,
        fixed=(*analysis.fixed, *fixed),
        signatures=analysis.signatures[keep],
        balanced=tuple(frozenset(renumber[list(b)].tolist()) for b in analysis.balanced),
    )


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
    shares: dict[int, list[tuple[int, Labels, Labels]]] = {}  # equated dims have the very same label array
    for name, dim, labels in places:
        if id(labels) not in shares:
            shares[id(labels)] = list(_shares(components.of[labels], group_of, channel_of))
        role = roles.get((name, dim), "other")
        for g, positions, channels in shares[id(labels)]:
            slots.setdefault(g, []).append(Slot(name, dim, len(labels), positions, channels, role))
    names = _names([slots[g] for g in range(len(slots))])
    sizes = np.bincount(group_of[group_of >= 0]).tolist()  # one component a channel
    return tuple(Group(names[g], sizes[g], tuple(slots[g]), mixed.get(g, "")) for g in range(len(slots)))


def _shares(touched: Labels, group_of: Labels, channel_of: Labels) -> Iterator[tuple[int, Labels, Labels]]:
    """The groups that a dim carries, each with its positions and their channels."""
    owners = group_of[touched]
    order = np.arange(len(owners)) if (owners == owners[0]).all() else np.argsort(owners, kind="stable")
    owners, channels = owners[order], channel_of[touched[order]]
    starts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    for start, end in pairwise(starts):
        if owners[start] >= 0:
            yield int(owners[start]), order[start:end], channels[start:end]


def _mixed(labelling: Labelling, components: Components, group_of: Labels) -> dict[int, str]:
    """For each group that a norm, mean or softmax runs over: the first such op."""
    found: dict[int, str] = {}
    channels = group_of[components.of] >= 0
    for mix in (*labelling.labeller.mixes, *told_apart(labelling, channels), *sums_of_weights(labelling)):
        for g in np.unique(group_of[components.of[mix.labels]]).tolist():
            if g >= 0:
                found.setdefault(g, place(mix.node))
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
        spec = spec_of_node(node)
        for argument, producer, consumer in spec.weights(node) if spec else ():
            source, turned = unturned(node.args[argument])
            if source.op == "get_attr":
                for dim, role in ((producer, "producer"), (consumer, "consumer")):
                    roles.setdefault((str(source.target), 1 - dim if turned else dim), role)
    return roles
