"""Bilinear products: rows of two layers that only meet in a product, as queries and keys do in logits.

q·k stays the same when q becomes Aq and k becomes A⁻ᵀk, so that nothing but the product of such rows has a meaning.
Whether rows meet in a product alone is read off the recorded calls: the number of its output channel goes with each
element of a layer's output through views, permutations, slices, repetitions and factors, up to the calls that compute
with it. Where anything else computes with a row (a norm, a rotary embedding, a second use), it is left alone.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.analysis.ops.layout import unturned
from fxprune.analysis.ops.spec import Move, OpSpec, Weight
from fxprune.analysis.ops.table import spec_of
from fxprune.analysis.ops.terms import Terms
from fxprune.tracing.trace import Graph

_MOVES = (Move.COPY, Move.CAST, Move.RESHAPE, Move.TURN, Move.PART, Move.PICK, Move.STRETCH)


@dataclass(frozen=True)
class Side:
    """One factor of a product.

    Attributes:
        name: of the weight of a linear layer, or of a convolution in one group.
        dim: of the weight, along which its output channels lie.
        bias: the name of its bias; empty where there is none.
        later: whether the bias is added by a call of its own, and is no part of the layer's output.
        rows: the layer's output channels, in the order in which they are multiplied, for each head.
    """

    name: str
    dim: int
    bias: str
    later: bool
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Bilinear:
    """Products Σ_j left_j · right_j of heads that share their right side.

    Attributes:
        left: of one or several heads.
        right: of one.
    """

    left: Side
    right: Side


def bilinear(graph: Graph) -> list[Bilinear]:
    """The rows of layers that meet in a product, and nowhere else."""
    calls = _calls(graph)
    uses: dict[fx.Node, list[_Use]] = {}
    for layer in filter(None, map(_followed, graph.fx.nodes)):
        if calls[layer.name] == 1:
            for use in layer.uses():
                uses.setdefault(use.node, []).append(use)
    pairs = [pair for node, those in uses.items() for pair in _pairs(node, those)]
    found = [p for p in pairs if max(calls[p.left.bias], calls[p.right.bias]) <= 1]
    if not found:
        return []
    read, met = _times_read(uses), Counter(row for pair in found for row in _rows_of(pair))
    return [p for p in found if all(read[row] == met[row] == 1 for row in _rows_of(p))]


def _rows_of(pair: Bilinear) -> Iterator[tuple[str, int]]:
    """The rows of a pair, each as often as it is multiplied."""
    return ((side.name, row) for side in (pair.left, pair.right) for rows in side.rows for row in rows)


def _calls(graph: Graph) -> Counter[str]:
    """How many calls take each tensor of the model, directly or transposed."""
    found: Counter[str] = Counter()
    for node in graph.fx.nodes:
        for source in node.all_input_nodes:
            tensor, turned = unturned(source)
            if tensor.op == "get_attr" and (turned or unturned(node)[0] is node):
                found[str(tensor.target)] += 1
    return found


@dataclass(frozen=True, eq=False)
class _Use:
    """A call that computes with a layer's output.

    Attributes:
        node: the call.
        source: its argument.
        layer: the layer.
        channels: of each element of the argument, the layer's output channel.
    """

    node: fx.Node
    source: fx.Node
    layer: _Layer
    channels: Tensor


@dataclass(eq=False)
class _Layer:
    """A layer whose output is followed.

    Attributes:
        node: its call.
        name: of its weight.
        stored: dim of the weight that makes its output channels.
        dim: of the result, along which these lie.
        bias: the name of its bias.
        later: whether that is added by a call of its own.
    """

    node: fx.Node
    name: str
    stored: int
    dim: int
    bias: str = ""
    later: bool = False

    def side(self, rows: tuple[tuple[int, ...], ...]) -> Side:
        return Side(self.name, self.stored, self.bias, self.later, rows)

    def uses(self) -> list[_Use]:
        shape = self.node.meta["shape"]
        along = [-1 if d == self.dim else 1 for d in range(len(shape))]
        return [*self._onwards(self.node, torch.arange(shape[self.dim], device="cpu").view(along).expand(shape))]

    def _onwards(self, node: fx.Node, channels: Any) -> Iterator[_Use]:
        for user in node.users:
            moved = self._moved(user, node, channels)
            if moved is None:
                parts = channels if isinstance(channels, list | tuple) else [channels]
                yield from (_Use(user, node, self, part) for part in parts)
            else:
                yield from self._onwards(user, moved)

    def _moved(self, user: fx.Node, node: fx.Node, channels: Any) -> Any:
        """The channels of a call's result, where it only moves or scales what it is given; else None."""
        if user.op != "call_function":
            return None
        if user.target is operator.getitem:
            return channels[user.args[1]]
        spec = spec_of(user.target)
        if spec is None or user.all_input_nodes != [node] or user.args[0] is not node:
            return self._biased(user, node, channels, spec)
        if spec.move in (Move.COPY, Move.CAST) or (spec.scaling and len(user.args) == 2):
            return channels
        if spec.move in _MOVES:
            return user.target(channels.contiguous(), *user.args[1:], **user.kwargs)  # type: ignore[operator]
        return None

    def _biased(self, user: fx.Node, node: fx.Node, channels: Any, spec: OpSpec | None) -> Any:
        """The same where a bias is added; it must be one number for each channel, and the only one."""
        added = spec is not None and spec.adds and not user.kwargs and len(user.args) == 2 and user.args[0] is node
        other = user.args[1] if added else None
        if not isinstance(other, fx.Node) or other.op != "get_attr" or self.bias or len(other.users) != 1:
            return None
        size = self.node.meta["shape"][self.dim]
        if tuple(other.meta["shape"]) != (size,) or not bool((channels == torch.arange(size, device="cpu")).all()):
            return None
        self.bias, self.later = str(other.target), True
        return channels


def _followed(node: fx.Node) -> _Layer | None:
    """A product with a weight, which makes output channels."""
    spec = spec_of(node.target) if node.op == "call_function" and not node.meta.get("extra") else None
    terms = spec.terms(node) if spec else None
    if spec is None or terms is None:
        return None
    for weight in spec.weights(node):
        source = node.args[weight.argument]
        tensor, turned = unturned(source) if isinstance(source, fx.Node) else (None, False)
        bias = _bias(terms)
        if tensor is not None and tensor.op == "get_attr" and bias is not None:
            letter = next(t.names[weight.producer] for t in terms.factors if t.tensor is source)
            stored = 1 - weight.producer if turned else weight.producer
            if letter in terms.names:
                dim = list(terms.names).index(letter)
                whole = spec.layers is not None or _reads_all(node, weight, dim)
                return _Layer(node, str(tensor.target), stored, dim, bias) if whole else None
    return None


def _reads_all(node: fx.Node, weight: Weight, dim: int) -> bool:
    """Whether each of a convolution's channels, along a dim, reads all of its input's: then they can be mixed."""
    x, w = (node.args[i].meta["shape"] for i in (0, weight.argument))  # type: ignore[union-attr]
    return bool(x[dim] == w[weight.consumer])


def _bias(terms: Terms) -> str | None:
    """The name of the one tensor that is added; empty where nothing is; None where it is not the layer's own."""
    if not terms.addends:
        return ""
    (bias,) = terms.addends if len(terms.addends) == 1 else (None,)
    own = bias is not None and bias.tensor.op == "get_attr" and len(bias.tensor.users) == 1
    return str(bias.tensor.target) if own and bias is not None and len(bias.names) == 1 else None


def _pairs(node: fx.Node, uses: list[_Use]) -> Iterator[Bilinear]:
    """The rows that meet in a call, if it multiplies two of these outputs, and sums over their channels."""
    spec = spec_of(node.target) if node.op == "call_function" else None
    terms = spec.terms(node) if spec else None
    if spec is None or spec.layers is None or terms is None or terms.addends or len(uses) != 2:
        return
    sides = [next((u for u in uses if u.source is t.tensor), None) for t in terms.factors]
    names = [list(t.names) for t in terms.factors]
    summed = [n for n in names[0] if n in names[1] and n not in terms.names]
    if None in sides or sides[0] is sides[1] or len(summed) != 1:
        return
    shared = [n for n in names[0] if n in names[1] and n in terms.names]
    rows = [_rows(u.channels, n, shared, summed[0]) for u, n in zip(sides, names, strict=True)]  # type: ignore[union-attr]
    if rows[0] is None or rows[1] is None:
        return
    heads: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for left, right in zip(*rows, strict=True):
        heads.setdefault(right, {})[left] = None
    for right, left in heads.items():
        one, other = (u.layer for u in sides)  # type: ignore[union-attr]
        yield Bilinear(one.side(tuple(left)), other.side((right,)))


def _rows(channels: Tensor, names: list[str], shared: list[str], summed: str) -> list[tuple[int, ...]] | None:
    """For each index of the shared dims, the channels along the summed one; None where they differ along others."""
    order = [*shared, *(n for n in names if n not in (*shared, summed)), summed]
    turned = channels.permute([names.index(n) for n in order])
    flat = turned.reshape(*turned.shape[: len(shared)], -1, turned.shape[-1]).flatten(0, len(shared) - 1)
    if not shared:
        flat = turned.reshape(1, -1, turned.shape[-1])
    if not bool((flat == flat[:, :1]).all()):
        return None
    return [tuple(row) for row in flat[:, 0].tolist()]


def _times_read(uses: Mapping[fx.Node, list[_Use]]) -> Counter[tuple[str, int]]:
    """By how many calls an output channel is read."""
    return Counter(
        (use.layer.name, row) for those in uses.values() for use in those for row in _different(use.channels)
    )


def _different(channels: Tensor) -> list[int]:
    """The numbers in a tensor, each once; most repeat one along whole dims, which take no memory and need no look."""
    for dim, step in enumerate(channels.stride()):
        if step == 0 and channels.shape[dim]:
            channels = channels.narrow(dim, 0, 1)
    found: list[int] = channels.unique().tolist()
    return found
