"""Who feeds whom, as it is drawn: groups, what is fixed around them, and the joints of concatenations.

Three things stand between `Groups.feeds` and a picture that can be read:

- a residual stream is read by its blocks, which write back into it: edges that return are kept apart from the others;
- after a concatenation each of n groups feeds each of m readers: one *joint* takes the place of the n·m edges;
- where channels are fixed, the flow would break off: the model's input and output, groups that are kept whole, and
  other fixed channels are nodes as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fxprune.analysis.grouping.reasons import FixedDim
from fxprune.analysis.groups import Groups

Kind = Literal["group", "kept", "fixed", "input", "output", "joint"]
_BOUNDARIES: tuple[Kind, ...] = ("input", "output")
NodePair = tuple[str, str]
Ends = Mapping[str, list[tuple[str, int]]]


@dataclass(frozen=True)
class Node:
    """A box of the picture, or a joint.

    Attributes:
        key: short unique identifier, safe in every markup.
        kind: "group"; "kept" (a group that must stay whole); "fixed" (other channels that must stay); "input" and
            "output" of the model; "joint" (every node above it feeds every node below it).
        name: the group's name, or what the box says.
        size: number of channels; 0 where it has no meaning.
        note: why it stays, if it does.
        loops: whether its channels are also made from themselves (a recurrent layer, a head applied to its own output).
    """

    key: str
    kind: Kind
    name: str
    size: int = 0
    note: str = ""
    loops: bool = False


class Edge(NamedTuple):
    """Data flows from `source` to `target`; `back` if it returns to an earlier node, `both` if it goes both ways."""

    source: str
    target: str
    back: bool = False
    both: bool = False


@dataclass(frozen=True)
class Flow:
    """The nodes in execution order, by key, and the edges. Without those that go back it has no cycle."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]

    def pairs(self) -> set[NodePair]:
        """Who feeds whom by key, through joints."""
        import networkx as nx

        graph = nx.DiGraph([(e.source, e.target) for e in self.edges])
        graph.add_edges_from([(e.target, e.source) for e in self.edges if e.both])
        for joint in [n for n in graph if self.nodes[n].kind == "joint"]:
            graph.add_edges_from([(a, b) for a in graph.predecessors(joint) for b in graph.successors(joint)])
            graph.remove_node(joint)
        return set(graph.edges)


def flow(groups: Groups) -> Flow:
    """The flow between `groups`, with what is fixed around them."""
    nodes, pairs = _nodes_and_pairs(groups)
    order = {n.key: i for i, n in enumerate(nodes)}
    forward, back = _split(order, pairs)
    joints, edges = _joined(order, forward)
    both = {(a, b) for a, b in edges if (b, a) in back}
    drawn = [Edge(a, b, both=(a, b) in both) for a, b in edges]
    drawn += [Edge(a, b, back=True) for a, b in _sorted(order, back) if (b, a) not in both]
    return Flow({n.key: n for n in (*nodes, *joints)}, tuple(drawn))


def _nodes_and_pairs(groups: Groups) -> tuple[list[Node], set[NodePair]]:
    """Input, groups and fixed channels in execution order, output; and who feeds whom by key."""
    every, prunable = groups.analysis.groups, set(groups)
    key = {g.name: f"g{i}" for i, g in enumerate(every)}
    why = {(d.tensor, d.dim): ", ".join(filter(None, (d.reason, d.where))) for d in groups.fixed}
    age = {tensor: i for i, tensor in enumerate(groups.analysis.labelling.parameter_axes)}
    found: list[tuple[float, Node]] = []
    for g in every:
        kind: Kind = "group" if g in prunable else "kept"
        note = "" if g in prunable else why.get((g.slots[0].tensor, g.slots[0].dim), "")
        loops = not {s.tensor for s in g.producers}.isdisjoint(s.tensor for s in g.consumers)
        found.append((min(age[s.tensor] for s in g.slots), Node(key[g.name], kind, g.name, g.size, note, loops)))
    makers, readers = _ends(groups, key, "producer"), _ends(groups, key, "consumer")
    pairs = {(a, b) for t, made in makers.items() for a, _ in readers.get(t, ()) for b, _ in made if a != b}
    for start, node, touching in _around(groups, makers, readers, age):
        if touching:
            found.append((start, node))
            pairs |= touching
    used = {k for pair in pairs for k in pair}
    found = [(start, n) for start, n in found if n.kind == "group" or n.key in used]
    return [n for _, n in sorted(found, key=lambda f: f[0])], pairs


def _ends(groups: Groups, key: Mapping[str, str], role: str) -> Ends:
    """For each weight the groups, kept ones too, that play `role` in it, and with which dim."""
    ends: dict[str, list[tuple[str, int]]] = {}
    for g in groups.analysis.groups:
        for s in g.slots:
            if s.role == role:
                ends.setdefault(s.tensor, []).append((key[g.name], s.dim))
    return ends


def _around(
    groups: Groups, makers: Ends, readers: Ends, age: Mapping[str, int]
) -> Iterator[tuple[float, Node, set[NodePair]]]:
    """A node for each reason that fixes channels which a group's weights read or make."""
    for i, ((kind, reason), dims) in enumerate(_causes(groups, age).items()):
        me = f"f{i}"
        # A dim of a weight beside the one that makes a group's channels is read for it, and the other way round.
        pairs = {(me, k) for d in dims for k, made in makers.get(d.tensor, ()) if d.dim != made}
        pairs |= {(k, me) for d in dims for k, read in readers.get(d.tensor, ()) if d.dim != read}
        start = {"input": -1.0, "output": float("inf")}.get(kind, float(min(age[d.tensor] for d in dims)))
        name = reason.partition(",")[0]
        yield start, Node(me, kind, name, note="" if kind in _BOUNDARIES else reason), pairs


def _causes(groups: Groups, age: Mapping[str, int]) -> dict[tuple[Kind, str], list[FixedDim]]:
    """Fixed channels by reason; the model's input is one, and so is its output."""
    found: dict[tuple[Kind, str], list[FixedDim]] = {}
    for d in groups.analysis.fixed:
        if d.dim < 2 and d.tensor in age:  # the others are sizes of kernels
            kind: Kind = next((k for k in _BOUNDARIES if d.reason.startswith(f"model {k}")), "fixed")
            reason = ", ".join(filter(None, (d.reason, d.where))) if kind == "fixed" else f"model {kind}"
            found.setdefault((kind, reason), []).append(d)
    return found


def _split(order: Mapping[str, int], pairs: set[NodePair]) -> tuple[list[NodePair], set[NodePair]]:
    """Edges that go forward, and those that close a cycle: they lead back within a strongly connected part."""
    import networkx as nx

    part = {k: i for i, keys in enumerate(nx.strongly_connected_components(nx.DiGraph(list(pairs)))) for k in keys}
    back = {(a, b) for a, b in pairs if part[a] == part[b] and order[a] >= order[b]}
    return _sorted(order, pairs - back), back


def _sorted(order: Mapping[str, int], pairs: Iterable[NodePair]) -> list[NodePair]:
    return sorted(pairs, key=lambda pair: (order[pair[0]], order[pair[1]]))


def _joined(order: Mapping[str, int], forward: Sequence[NodePair]) -> tuple[list[Node], list[NodePair]]:
    """Put a joint where it saves edges: between all nodes with the same readers and these readers.

    The readers of one joint may include those of another (each layer of a dense block reads all layers before it); then
    the first feeds the second.
    """
    readers: dict[str, frozenset[str]] = {}
    for a, b in forward:
        readers[a] = readers.get(a, frozenset()) | {b}
    chosen = _worth_a_joint(readers.values())
    joint = {targets: f"j{i}" for i, targets in enumerate(chosen)}

    def parts(targets: frozenset[str], inside: Sequence[frozenset[str]]) -> Iterator[str]:
        largest = next((c for c in inside if c <= targets), None)
        if largest is not None:
            yield joint[largest]
        yield from sorted(targets - (largest or frozenset()), key=order.__getitem__)

    pairs = [(a, b) for a, targets in readers.items() for b in parts(targets, chosen)]
    pairs += [(joint[c], b) for i, c in enumerate(chosen) for b in parts(c, chosen[i + 1 :])]
    return [Node(k, "joint", "") for k in joint.values()], pairs


def _worth_a_joint(sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Sets of readers that are shared often enough, the largest first."""
    count = Counter(sets)
    by_size = sorted(count, key=len, reverse=True)
    for i, targets in enumerate(by_size):
        inside = next((c for c in by_size[i + 1 :] if c < targets), None)
        if inside is not None:
            count[inside] += 1
    return [c for c in by_size if (count[c] - 1) * (len(c) - 1) > 1]
