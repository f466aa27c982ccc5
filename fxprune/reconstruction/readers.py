"""Readers: the layers whose inputs a plan cuts, what they should give, and in which order they can be fitted."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxprune.analysis.ops.layout import unturned
from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import moves, spec_of
from fxprune.plan.plan import Ints, Plan
from fxprune.statistics.observe import Contraction
from fxprune.tracing.trace import Graph


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that reads channels of which some are removed.

    Attributes:
        name: of the weight.
        cuts: what stays of its dims: {dim: kept indices}.
        scales: rows of the full-size weight whose output the plan multiplies by a factor.
    """

    name: str
    cuts: dict[int, Ints]
    scales: tuple[tuple[Ints, float], ...] = ()

    def outputs(self, seen: Contraction) -> tuple[Tensor, Tensor]:
        """The output channels of the full-size layer that stay, and what the plan multiplies them by."""
        full = torch.arange(seen.output.shape[1], device="cpu")
        factors = torch.ones(len(full), dtype=torch.float64, device="cpu")
        for rows, factor in self.scales:
            factors[torch.from_numpy(rows)] *= factor
        if seen.options is not None and seen.options[3]:  # (in, out/groups, ...): two dims make the output
            grid = full.view(seen.groups, -1)[self._blocks(seen)]
            kept = grid[:, torch.from_numpy(self.cuts[1])] if 1 in self.cuts else grid
            return kept.flatten(), factors[kept.flatten()]
        kept = torch.from_numpy(self.cuts[seen.dim]) if seen.dim in self.cuts else full
        return kept, factors[kept]

    def _blocks(self, seen: Contraction) -> Tensor:
        """The convolution groups that stay: those of which the weight's first dim keeps an index."""
        if 0 not in self.cuts:
            return torch.arange(seen.groups, device="cpu")
        return torch.from_numpy(self.cuts[0] // (seen.weight.shape[0] // seen.groups)).unique()

    def entries(self, seen: Contraction) -> tuple[Tensor, Tensor]:
        """What stays of the full-size layer's patches: its convolution groups, and the entries in each."""
        n = seen.kernels().shape[-1]
        transposed = seen.options is not None and seen.options[3]
        reads = 0 if transposed else 1 - seen.dim
        inner = seen.x.shape[1] // seen.groups
        kept = torch.from_numpy(self.cuts[reads]) if reads in self.cuts else torch.arange(inner, device="cpu")
        blocks = self._blocks(seen) if seen.groups > 1 else torch.zeros(1, dtype=torch.int64, device="cpu")
        if transposed:
            kept = kept.view(len(blocks), -1)[0] % inner  # the same in every group
        return blocks, (kept[:, None] * (n // inner) + torch.arange(n // inner, device="cpu")).flatten()


def readers_of(plan: Plan, names: Iterable[str] | None = None) -> dict[str, Reader]:
    """The weights that read a group of which channels are removed; or those of the given names."""
    cut = (s for g in plan.groups.values() if len(g.kept) < g.size for s in g.slots if s.role == "consumer")
    names = dict.fromkeys(s.tensor for s in cut) if names is None else names
    cuts = plan.cuts()
    scales: dict[str, list[tuple[Ints, float]]] = {}
    for scale in plan.scales:
        scales.setdefault(scale.tensor, []).append((scale.rows, scale.factor))
    return {name: Reader(name, cuts.get(name, {}), tuple(scales.get(name, ()))) for name in names}


def waves(graph: Graph, names: Iterable[str]) -> list[list[str]]:
    """The weights in waves: what a wave's layers compute depends on earlier waves alone, so they can share a pass.

    So does what their outputs are added to, if these go nowhere else: of parallel branches, one comes after the other,
    and makes up for what it lacks.

    Args:
        graph: of the model.
        names: weights; those that the graph does not use are left out.
    """
    wanted, depth, last = set(names), dict[fx.Node, int](), dict[str, int]()
    for node in graph.fx.nodes:
        depth[node] = max((depth[n] for n in node.all_input_nodes), default=0)
        if node.op == "get_attr" and node.target in wanted:
            last.setdefault(str(node.target), 0)
        for weight in _weights(node):
            if weight in wanted:
                depth[node] += 1
                last[weight] = max(last.get(weight, 0), depth[node])
        if (added := _added(node)) is not None:
            depth[node] = max(depth[node], _put_off(added, wanted, depth, last))
    found: dict[int, list[str]] = {}
    for name, wave in last.items():
        found.setdefault(wave, []).append(name)
    return [found[wave] for wave in sorted(found)]


def _put_off(added: tuple[fx.Node, fx.Node], wanted: set[str], depth: dict[fx.Node, int], last: dict[str, int]) -> int:
    """Where neither of two outputs that are added comes after the other, the second one's layer shall."""
    pairs = [(layer, other) for one, other in (added[::-1], added) if (layer := _layer(one, wanted))]
    if pairs and not any(last[layer] > depth[other] for layer, other in pairs):
        layer, other = pairs[0]
        last[layer] = depth[other] + 1
        return last[layer]
    return 0


def _added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """What a call adds."""
    spec = spec_of(node.target) if node.op == "call_function" else None
    if spec is None or not spec.adds or node.kwargs or len(node.args) < 2:
        return None
    a, b = node.args[:2]
    return (a, b) if isinstance(a, fx.Node) and isinstance(b, fx.Node) and a is not b else None


def _layer(node: fx.Node, wanted: set[str]) -> str | None:
    """The weight of the layer that made a tensor, past a batch norm and views; None if anything else reads it."""
    while len(node.users) == 1:
        if mine := wanted.intersection(_used_by(node)):
            return min(mine)
        if not _passes_on(node):
            return None
        node = node.all_input_nodes[0]
    return None


def read_twice(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """The weights of layers whose outputs are read by several ops, past a batch norm and views: what one of these adds
    to it lacks must not be made up for in all others.

    Args:
        graph: of the model.
        names: weights.
    """
    wanted, found = set(names), set[str]()
    for node in graph.fx.nodes:
        mine = wanted.intersection(_used_by(node))
        while mine and len(node.users) == 1 and _passes_on(next(iter(node.users))):
            node = next(iter(node.users))
        found |= mine if len(node.users) > 1 else set()
    return frozenset(found)


def _passes_on(node: fx.Node) -> bool:
    spec = spec_of(node.target) if node.op == "call_function" else None
    normed = spec is not None and spec.norm is not None and spec.norm.statistics is not None
    return node.target is operator.getitem or normed or moves(node.target, Move.RESHAPE)


def _used_by(node: fx.Node) -> Iterator[str]:
    """Parameters that a call uses; a weight that is merely turned is no call."""
    return iter(()) if unturned(node)[0].op == "get_attr" else _weights(node)


def repeated(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """The weights of layers that run again on what they have computed themselves, as a block in a loop does.

    Args:
        graph: of the model.
        names: weights.
    """
    wanted, found = set(names), set[str]()
    nodes = [n for n in graph.fx.nodes if unturned(n)[0].op != "get_attr"]  # weights, turned or not, are no calls
    calls = Counter(weight for node in nodes for weight in _weights(node) if weight in wanted)
    several = {weight for weight, times in calls.items() if times > 1}
    behind: dict[fx.Node, frozenset[str]] = {}
    for node in nodes if several else ():
        before = frozenset[str]().union(*(behind.get(n, ()) for n in node.all_input_nodes))
        here = several.intersection(_weights(node))
        found |= before & here
        behind[node] = before | here
    return frozenset(found)


def _weights(node: fx.Node) -> Iterator[str]:
    """Parameters that a node uses, directly or through a transposition."""
    for source in node.all_input_nodes:
        weight, _ = unturned(source)
        if weight.op == "get_attr":
            yield str(weight.target)
