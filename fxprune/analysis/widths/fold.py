"""Fold: find the weights that make a tensor, so that they can absorb a scalar applied to it.

Weights are proposed on the way back from the tensor, through moves, sums, and one factor of each product: of two
activations the first, or else the second, as keys where queries are read elsewhere too. Then a factor
on their rows is followed forward: an element is of degree 1 if it is multiplied by s when these rows are, of degree 2
if by its square (the correlation of what one layer makes of two images), and of degree 0 if it stays. The weights
do if the whole tensor is of one degree above 0, and nothing else is that does not end in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.ops.terms import Term, Terms
from fxprune.plan.plan import Ints
from fxprune.tracing.trace import Graph

Rows = list[tuple[str, Ints]]  # parameters' names, each with positions along its first dim


class _NoDegreeError(Exception):
    """A tensor is multiplied in part only, more often than may be, or by a call that is not linear in it."""


def is_scaling(call: fx.Node) -> bool:
    """Whether a call multiplies or divides a tensor by a number."""
    spec = spec_of_node(call)
    return spec is not None and spec.scaling != 0 and isinstance(call.args[1], int | float)


class Folding:
    """Finds weights in one recorded graph.

    Args:
        graph: of the whole model.
        may_scale: whether rows of a tensor may be scaled and its others not.
    """

    def __init__(self, graph: Graph, may_scale: Callable[[str, Ints], bool]) -> None:
        self._may_scale = may_scale
        self._nodes = list(graph.fx.nodes)
        self._learned = {name for name, tensor in graph.tensors.items() if isinstance(tensor, nn.Parameter)}
        self._scalable = set[fx.Node]()
        for node in self._nodes:
            if _is_parameter(node) or self._passes_on(node):
                self._scalable.add(node)

    def _passes_on(self, node: fx.Node) -> bool:
        """Whether weights can be scaled so that a call's result is."""
        if _move(node) is not None:
            return all(n in self._scalable for n in _call_of(node).all_input_nodes)
        terms = _terms(node)
        if terms is None or not all(t and t.tensor in self._scalable for t in terms.addends):
            return False
        return any(f.tensor in self._scalable for f in terms.factors or terms.addends)  # type: ignore[union-attr]

    def absorbing_rows(self, call: fx.Node) -> tuple[Rows, frozenset[str], int]:
        """The parameter rows, if any, that can take up the scalar that `call` applies to its first argument.

        Returns them with the names of all calls that they do it for: `call`, and its like where a run in training mode
        was recorded that uses the same parameters; and how often each call's argument is multiplied when they are.
        """
        like = [call, *(n for n in self._nodes if _is_like(n, call))]
        for degree in (1, 2):
            for factor in (0, 1):
                with suppress(_NoDegreeError):
                    return *self._absorbing(call, like, factor, degree), degree
        return [], frozenset(), 1

    def _absorbing(
        self, call: fx.Node, like: Sequence[fx.Node], factor: int, degree: int
    ) -> tuple[Rows, frozenset[str]]:
        elements = self._proposed(call.args[0], factor)
        degrees = self._degrees(elements, like, degree)
        done = [n for n in like if n.args[0] in degrees]
        if not all(bool((_once(degrees[n.args[0]]) == degree).all()) for n in done):  # type: ignore[index]
            raise _NoDegreeError
        rows = [(str(p.target), _rows(of)) for p, of in elements.items()]
        if not all(self._may_scale(name, some) for name, some in rows):
            raise _NoDegreeError
        return rows, frozenset(n.name for n in done)

    def _proposed(self, tensor: Any, factor: int) -> dict[fx.Node, Tensor]:
        """The elements of parameters that are to be scaled, so that all of a tensor is."""
        if tensor not in self._scalable:
            raise _NoDegreeError
        wanted = {tensor: torch.ones((), dtype=torch.int8).expand(tensor.meta["shape"])}
        for node in reversed(self._nodes[: self._nodes.index(tensor) + 1]):
            near = (*node.users, *_call_of(node).all_input_nodes) if node in wanted else ()
            if any(0 in n.meta.get("shape", ()) for n in near):  # outputs have none
                raise _NoDegreeError  # what other inputs have there would have to be scaled as well
            if node in wanted and not _is_parameter(node):
                for source, part in self._sources(node, wanted.pop(node), factor):
                    wanted[source] = wanted[source] | part if source in wanted else part
        return dict(sorted(wanted.items(), key=lambda item: self._nodes.index(item[0])))

    def _sources(self, node: fx.Node, elements: Tensor, factor: int) -> Iterator[tuple[fx.Node, Tensor]]:
        """What is to be scaled in place of elements of a call's result."""
        if _move(node) is not None:
            yield from (s for s in _moved_back(node, elements) if _any(_once(s[1])))
            return
        terms: Any = _terms(node)
        factors = [f for f in terms.factors if f.tensor in self._scalable]
        weights = [f for f in factors if (name := _weight(f.tensor)) and name in self._learned]
        activations = [f for f in factors if not _weight(f.tensor)]
        # What a buffer holds may be the same for several tensors: the angles of queries and of keys.
        made = activations[factor : factor + 1] or activations[:1]
        for t in (*(weights[-1:] or made or factors[-1:]), *terms.addends):
            shape = t.tensor.meta["shape"]
            yield t.tensor, _laid(elements, terms.names, t.names, shape).expand(shape)

    def _degrees(
        self, elements: Mapping[fx.Node, Tensor], ends: Collection[fx.Node], most: int
    ) -> dict[fx.Node, Tensor]:
        """The degrees, up to `most`, of all that has another one than 0, from given elements to the calls `ends`."""
        degrees = dict(elements)
        ahead = {user for p in elements for user in p.users}
        for node in self._nodes:
            if node not in ahead or node in degrees or node in ends:
                continue
            if not _is_several(node):
                degree = _degree(node, degrees, most)
                if not _any(_once(degree)):
                    continue
                degrees[node] = degree
            ahead.update(node.users)
        return degrees


def _is_like(a: fx.Node, b: fx.Node) -> bool:
    """Whether a node is a call's counterpart in the other run; in evaluation and in training mode are two."""
    return a.target is b.target and a.args[1:] == b.args[1:] and a.meta["extra"] is not b.meta["extra"]


def _is_parameter(node: fx.Node) -> bool:
    return node.op == "get_attr" and bool(node.meta["shape"]) and not node.meta.get("constant")


def _weight(node: fx.Node) -> str:
    """The name of the parameter or buffer that it is, also rearranged; empty if it is none."""
    while _move(node) is not None:
        node = _call_of(node).all_input_nodes[0]
    return str(node.target) if _is_parameter(node) else ""


def _is_several(node: fx.Node) -> bool:
    """Whether a call has several results."""
    shape = node.meta.get("shape", ())
    return len(shape) > 0 and isinstance(shape[0], tuple)


def _call_of(node: fx.Node) -> fx.Node:
    """The call that has a tensor among its results."""
    return node.args[0] if node.target is operator.getitem else node  # type: ignore[return-value]


def _move(node: fx.Node) -> Move | None:
    """How a tensor is rearranged from others; None: it is computed, or given."""
    spec = spec_of_node(_call_of(node))
    return None if spec is None or spec.move is Move.CAST or _is_several(node) else spec.move


def _keeps_order(node: fx.Node) -> bool:
    """Whether a tensor holds the elements of one other, each once, in the same order."""
    move = _move(node)
    if move is Move.STRETCH:
        return prod(node.meta["shape"]) == prod(_call_of(node).all_input_nodes[0].meta["shape"])
    return move in (Move.COPY, Move.RESHAPE)


def _terms(node: fx.Node) -> Terms | None:
    """The sum of products that a tensor is, if it is one."""
    call = _call_of(node)
    spec = spec_of_node(call)
    return None if spec is None or (call is not node and node.args[1] != 0) else spec.terms(call)


def _moved(node: fx.Node, instead: Callable[[fx.Node], Tensor]) -> Tensor:
    """The result of a move, for other tensors in the place of its own."""
    call, move = _call_of(node), _move(node)
    if _keeps_order(node):
        first = instead(call.args[0])  # type: ignore[arg-type]
        return first if move is Move.COPY else first.reshape(node.meta["shape"])  # broadcast dims need no memory
    args, kwargs = fx.node.map_arg((call.args, call.kwargs), instead)  # type: ignore[misc, arg-type]
    result = call.target(*args, **kwargs)  # type: ignore[operator]
    return result if call is node else result[node.args[1]]  # type: ignore[no-any-return]


def _moved_back(node: fx.Node, elements: Tensor) -> Iterator[tuple[fx.Node, Tensor]]:
    """The elements of a move's inputs that become some elements of its result."""
    move, inputs = _move(node), _call_of(node).all_input_nodes
    shapes = [n.meta["shape"] for n in inputs]
    if _keeps_order(node):
        yield inputs[0], elements.reshape(shapes[0])
    elif move in (Move.PART, Move.PICK, Move.TURN):  # views: what is written into them shows
        found = torch.zeros(shapes[0], dtype=torch.int8)
        _moved(node, lambda _: found).copy_(elements)
        yield inputs[0], found
    else:
        sizes = [prod(shape) for shape in shapes]
        numbers = torch.arange(sum(sizes), dtype=torch.int32)
        parts = {n: t.view(s) for n, t, s in zip(inputs, numbers.split(sizes), shapes, strict=True)}
        found = torch.zeros(sum(sizes), dtype=torch.int8)
        found[_moved(node, parts.__getitem__)[elements.bool()].long()] = 1
        yield from ((n, t.view(s)) for n, t, s in zip(inputs, found.split(sizes), shapes, strict=True))


def _degree(node: fx.Node, degrees: Mapping[fx.Node, Tensor], most: int) -> Tensor:
    """The degree of each element of a call's result; raises `_NoDegreeError` if it has none up to `most`."""

    def of(tensor: fx.Node) -> Tensor:
        known = degrees.get(tensor)
        return torch.zeros((), dtype=torch.int8).expand(tensor.meta["shape"]) if known is None else known

    if _move(node) is not None:
        return _moved(node, of)
    terms = _terms(node)
    inside = set() if terms is None else {t.tensor for t in (*terms.factors, *terms.addends) if t}
    if terms is None or any(n in degrees and n not in inside for n in _call_of(node).all_input_nodes):
        raise _NoDegreeError

    def laid(t: Term | None) -> Tensor:
        none = torch.zeros((), dtype=torch.int8)
        return none if t is None else _laid(of(t.tensor), t.names, terms.names, shape, alike=True)

    shape = node.meta["shape"]
    product = [reduce(torch.add, map(laid, terms.factors))] if terms.factors else []
    first, *others = (*product, *map(laid, terms.addends))
    if (first.numel() and first.amax() > most) or any(_differ(first, other) for other in others):
        raise _NoDegreeError
    return first.expand(shape)


def _laid(t: Tensor, names: Sequence[str], onto: Sequence[str], shape: Sequence[int], *, alike: bool = False) -> Tensor:
    """What is largest along the dims that another tensor lacks, with that tensor's dims: `onto`, of a `shape`.

    If all must be `alike` along the dims that it lacks, and are not, that is a `_NoDegreeError`.
    """
    t = _once(t)
    for i, name in enumerate(names):
        if t.shape[i] > 1 and (name not in onto or shape[onto.index(name)] == 1):
            t, every = t.amax(i, keepdim=True), t
            if alike and _differ(every, t):
                raise _NoDegreeError
    kept, t = [n for n in names if n in onto], t[tuple(slice(None) if n in onto else 0 for n in names)]
    t = t.permute([kept.index(n) for n in onto if n in kept])
    return t[tuple(slice(None) if n in kept else None for n in onto)]


def _any(t: Tensor) -> bool:
    """As `Tensor.any`, by a reduction that PyTorch does in less time."""
    return bool(t.numel()) and bool(t.amax())


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of integers differ; comparing bits takes less time than `!=`."""
    return _any(a ^ b)


def _once(t: Tensor) -> Tensor:
    """Without the repetitions along broadcast dims."""
    return t[tuple(slice(0, 1) if step == 0 else slice(None) for step in t.stride())]


def _rows(elements: Tensor) -> Ints:
    names = list(map(str, range(elements.dim())))
    rows = _laid(elements, names, names[:1], elements.shape[:1], alike=True).expand(elements.shape[0])
    return np.flatnonzero(rows.numpy())
