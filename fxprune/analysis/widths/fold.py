"""Fold: find the weights that make a tensor, so that they can absorb a scalar applied to it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.analysis.ops.spec import Move, NormArguments
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.degrees import parameters_of_degree_one
from fxprune.plan.plan import Ints

Numbers = Any  # a tensor of row numbers, or the tuple of tensors that a split makes
# A parameter, its row for each element of a call's result (-1: another's), and the way from that result.
Term = tuple[fx.Node, Tensor, list[fx.Node]]


class _Unfoldable(Exception):
    """No weights make the tensor, or they make something else as well."""


# Parameters' names, each with positions along its first dim.
Rows = list[tuple[str, Ints]]


def is_scaling(call: fx.Node) -> bool:
    """Whether a call multiplies or divides a tensor by a number."""
    return _scaling(call) != 0 and isinstance(call.args[1], int | float)


def absorbing_rows(call: fx.Node) -> tuple[Rows, frozenset[str]]:
    """The parameter rows that can take up the scalar that `call` applies to its first argument.

    Returns:
        The rows, none if there are none, and the names of all calls that they do it for: `call`, and its like where a
        run in training mode was recorded that uses the same parameters.
    """
    rows, like = _producing_rows(call.args[0]), []  # type: ignore[arg-type]
    names = {name for name, _ in rows}
    used = [n for n in call.graph.nodes if n.op == "get_attr" and n.target in names]
    if any(not _same_run(user, call) for n in used for user in n.users):
        like = [n for n in call.graph.nodes if _alike(n, call) and _equal(_producing_rows(n.args[0]), rows)]
        rows = rows if like else []
    if not rows:
        like = [n for n in call.graph.nodes if _alike(n, call)]
        found = parameters_of_degree_one(call, like)
        rows = [(str(p.target), np.arange(p.meta["shape"][0])) for p in found]
    return rows, frozenset(n.name for n in (call, *like))


def _same_run(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes are of the same forward; in evaluation and in training mode are two."""
    return a.meta.get("extra", False) is b.meta.get("extra", False)


def _alike(a: fx.Node, b: fx.Node) -> bool:
    """Whether a node is another run's counterpart of a call with a scalar."""
    return a.target is b.target and a.args[1:] == b.args[1:] and not _same_run(a, b)


def _equal(a: Rows, b: Rows) -> bool:
    return len(a) == len(b) and all(n == m and np.array_equal(x, y) for (n, x), (m, y) in zip(a, b, strict=True))


def _producing_rows(node: fx.Node) -> Rows:
    """The parameter rows whose scaling scales the tensor that `node` makes, and nothing else in its run.

    Walks back through moves, sums, and the first factor of matrix products, to linear layers, convolutions, and the
    scales and shifts of norms.
    """
    try:
        if len(node.users) > 1:
            return []
        rows = [_rows(*term) for term in _terms(node, [])]
        return [(tensor, r) for tensor, r in rows if len(r)]
    except _Unfoldable:
        return []


def _rows(parameter: fx.Node, numbers: Tensor, way: list[fx.Node]) -> tuple[str, Ints]:
    rows = _present(_along(way[1:], numbers))
    if not _alone(way[0], numbers, way[1:], rows):
        raise _Unfoldable
    return str(parameter.target), rows.numpy().astype(np.int64)


def _terms(node: Any, way: list[fx.Node]) -> Iterator[Term]:
    """What is added up to make `node`; `way` leads from it to the tensor in question."""
    name = _name(node)
    if name == "getitem" and (norm := _norm(node.args[0])) and node.args[1] == 0:
        places = [norm.scale, *([] if norm.shift is None else [norm.shift])]
        yield from _weights(node.args[0], [node.args[0].args[i] for i in places], node, way)
    elif _is_move(node) or (_scaling(node) and not isinstance(node.args[1], fx.Node)):
        yield from _terms(node.args[0], [node, *way])
    elif name == "mul":
        yield from _weights(node, [next((a for a in node.args if _is_vector(a)), None)], node, way)
    elif name == "bmm":  # scaling the whole first factor scales the product
        if not _alone(node, torch.zeros(()).expand(node.meta["shape"]), way, torch.zeros(1)):
            raise _Unfoldable
        yield from _terms(node.args[0], [])
    elif name == "add" and all(isinstance(a, fx.Node) for a in node.args) and not node.kwargs:
        for a in node.args:
            yield from _weights(node, [a], node, way) if _is_vector(a) else _terms(a, [node, *way])
    else:
        yield from _weights(node, _layer(node), node, way)


def _weights(call: fx.Node, parameters: list[Any], result: fx.Node, way: list[fx.Node]) -> Iterator[Term]:
    """One term for each parameter of a call, with the rows that make its result."""
    if not parameters or parameters[0] is None:
        raise _Unfoldable
    shape = result.meta["shape"]
    norm = _norm(call)
    first = norm.channel == 1 if norm else _name(call) == "convolution"
    channel = 1 if first else len(shape) - 1
    for p in parameters:
        for source, numbers in _row_numbers(call, p) if p is not None else ():
            if len(numbers) != shape[channel]:
                raise _Unfoldable
            on_result = numbers.view([-1 if i == channel else 1 for i in range(len(shape))]).expand(shape)
            yield source, on_result, [result, *way]


def _layer(node: Any) -> list[Any]:
    """The weight and bias that a linear layer or convolution uses."""
    name = _name(node)
    if name == "addmm":
        return [node.args[2], node.args[0]]
    if name == "mm":
        return [node.args[1]]
    if name == "convolution" and not node.args[6]:
        return [node.args[1], node.args[2]]
    return []


def _row_numbers(call: fx.Node, argument: Any) -> Iterator[tuple[fx.Node, Tensor]]:
    """The parameters that a call's argument is taken from, each with its row for each channel of the call's result."""
    way: list[fx.Node] = []
    while _is_move(argument):
        way.insert(0, argument)
        argument = argument.args[0]
    for parameter, start in _sources(argument):
        numbers = _along(way, start)
        lines = numbers.t() if numbers.dim() == 2 and _name(call) != "convolution" else numbers  # one a channel
        lines = _once(lines, 1).reshape(len(lines), -1)
        first = lines[:, 0]
        if not bool((lines == first[:, None]).all()):
            raise _Unfoldable
        if not _alone(argument, start, [*way, call], first[first >= 0]):
            raise _Unfoldable
        yield parameter, first


def _sources(node: Any) -> Iterator[tuple[fx.Node, Tensor]]:
    """A parameter, or several that are concatenated: the number of each row, -1 for the others'."""
    joined = _name(node) == "cat" and node.args[1:] in ((), (0,))
    parts = node.args[0] if joined else [node]
    start = 0
    for part in parts:
        if not isinstance(part, fx.Node) or part.op != "get_attr" or (joined and _is_read_twice(part, node)):
            raise _Unfoldable
        shape, rows = node.meta["shape"], part.meta["shape"][0]
        numbers = torch.full((shape[0],), -1, dtype=torch.int32)
        numbers[start : start + rows] = torch.arange(rows, dtype=torch.int32)
        yield part, numbers.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        start += rows


def _is_read_twice(parameter: fx.Node, reader: fx.Node) -> bool:
    return sum(_same_run(user, reader) for user in parameter.users) > 1


def _alone(node: fx.Node, numbers: Numbers, way: list[fx.Node], rows: Tensor) -> bool:
    """Whether the given rows, on their way from `node`, are used by nobody else."""
    for step in way:
        if not all(u is step or _misses(u, numbers, rows) for u in node.users if _same_run(u, step)):
            return False
        if step is not way[-1]:
            numbers = _step(step, numbers)
        node = step
    return True


def _misses(node: fx.Node, numbers: Numbers, rows: Tensor) -> bool:
    """Whether none of the rows gets through to anything but moves that drop them."""
    if not _is_move(node):
        return False
    left = _step(node, numbers)
    if isinstance(left, Tensor) and not bool(torch.isin(_present(left), rows).any()):
        return True
    return all(_misses(u, left, rows) for u in node.users)


def _present(numbers: Tensor) -> Tensor:
    """The row numbers that occur, each once, without -1."""
    rows = torch.unique(_once(numbers))
    return rows[rows >= 0]


def _once(numbers: Tensor, start: int = 0) -> Tensor:
    """Without the repetitions along broadcast dims, from dim `start` on."""
    dims = enumerate(numbers.stride())
    return numbers[tuple(slice(0, 1) if step == 0 and i >= start else slice(None) for i, step in dims)]


def _name(node: Any) -> str:
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return "getitem" if node.target is operator.getitem else node.target._opname  # type: ignore[union-attr]


def _move(node: Any) -> Move | None:
    spec = spec_of_node(node) if isinstance(node, fx.Node) else None
    return None if spec is None else spec.move


def _is_move(node: Any) -> bool:
    """Whether a call rearranges the elements of its first argument, or is one of its results."""
    return _name(node) == "getitem" or _move(node) not in (None, Move.CAST)


def _scaling(node: Any) -> int:
    spec = spec_of_node(node) if isinstance(node, fx.Node) else None
    return 0 if spec is None else spec.scaling


def _norm(node: Any) -> NormArguments | None:
    spec = spec_of_node(node) if isinstance(node, fx.Node) else None
    return None if spec is None else spec.norm


def _is_vector(node: Any) -> bool:
    """Whether it is a parameter with one number a channel, or a part of one."""
    vector = isinstance(node, fx.Node) and len(node.meta.get("shape", ())) == 1
    while vector and _is_move(node):
        node = node.args[0]
    return vector and node.op == "get_attr"


def _along(way: list[fx.Node], numbers: Numbers) -> Tensor:
    """The numbers at the end of a way."""
    for node in way:
        numbers = _step(node, numbers)
    return numbers  # type: ignore[no-any-return]


def _step(node: fx.Node, numbers: Numbers) -> Numbers:
    """What a move, or an op that works element by element, does to the numbers."""
    if node.target is operator.getitem:
        return numbers[node.args[1]]
    if _move(node) is Move.COPY:
        return numbers  # uncopied, broadcast dims need no memory
    if _move(node) is Move.RESHAPE:
        return numbers.reshape(node.meta["shape"])
    if _is_move(node):
        return node.target(numbers, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return numbers.broadcast_to(node.meta["shape"])
