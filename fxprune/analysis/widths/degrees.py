"""Degrees: how a scalar on some parameters passes through a recorded run, where their rows need not be told apart.

A tensor has degree 1 if it is multiplied by s when these parameters are, and degree 0 if it stays as it is. Rotary
embeddings are the typical case: `q * cos + rotated(q) * sin` reads the queries twice, and is of degree 1 in them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import Any

from torch import fx

from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of_node


class NoDegreeError(Exception):
    """No parameters make the tensor alone, or something else is multiplied as well."""


def parameters_of_degree_one(call: fx.Node, like: Collection[fx.Node]) -> list[fx.Node]:
    """Parameters in which the first argument of `call` is of degree 1, and nothing is that does not end there.

    Args:
        call: multiplies its first argument by a number.
        like: its counterparts in other recorded runs.
    """
    try:
        found = list(dict.fromkeys(_made_by(call.args[0])))
        _check(found, call, like)
        return found
    except NoDegreeError:
        return []


def _made_by(node: Any) -> list[fx.Node]:
    """The parameters that a tensor can be multiplied through."""
    if not isinstance(node, fx.Node):
        raise NoDegreeError
    if node.op == "get_attr":
        return [node] if node.meta["shape"] and not node.meta.get("constant") else _fail()
    name = _name(node)
    if name in ("add", "sub", "cat", "stack") and not node.kwargs:
        return [p for part in node.all_input_nodes for p in _made_by(part)]
    if name == "addmm":
        return [*_made_by(node.args[0]), *_made_by(node.args[2])]
    if name in ("mm", "convolution"):
        return [p for a in (node.args[1], *(node.args[2:3] if name == "convolution" else ())) if a for p in _made_by(a)]
    if name == "mul" and len(node.all_input_nodes) == 2:
        return _first_of(sorted(node.args, key=lambda a: not _is_parameter(a)))
    if name in ("bmm", "embedding") or _is_linear(node):
        return _made_by(node.args[0])
    return _fail()


def _first_of(factors: Iterable[Any]) -> list[fx.Node]:
    for factor in factors:
        try:
            return _made_by(factor)
        except NoDegreeError:
            continue
    return _fail()


def _fail() -> list[fx.Node]:
    raise NoDegreeError


def _is_parameter(node: Any) -> bool:
    while isinstance(node, fx.Node) and _is_move(node):
        node = node.args[0]
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _check(parameters: list[fx.Node], call: fx.Node, like: Collection[fx.Node]) -> None:
    """All that the parameters reach has a degree, and what is of degree 1 ends in `call`, or in its likes."""
    degrees = dict.fromkeys(parameters, 1)
    for node in call.graph.nodes:
        inputs = {n: degrees.get(n, 0) for n in node.all_input_nodes}
        if node is not call and node not in like and any(inputs.values()):
            degrees[node] = _degree(node, inputs)
    if degrees.get(call.args[0]) != 1:  # type: ignore[arg-type]
        raise NoDegreeError


def _degree(node: fx.Node, inputs: dict[fx.Node, int]) -> int:
    """The degree of a call's result.

    Raises:
        NoDegreeError: it has none.
    """
    name, found = _name(node), None
    if name in ("add", "sub", "cat", "stack") and not node.kwargs:
        tensors = node.args[0] if name in ("cat", "stack") else node.args[:2]
        found = {inputs[t] if isinstance(t, fx.Node) else 0 for t in tensors}  # type: ignore[union-attr]
    elif name in ("mul", "bmm", "mm") and len(node.args) == 2:
        found = {sum(inputs[a] for a in node.args if isinstance(a, fx.Node))}
    elif name == "addmm" and not node.kwargs:
        found = {inputs[node.args[0]], inputs[node.args[1]] + inputs[node.args[2]]}  # type: ignore[index]
    elif name == "convolution":
        product = inputs[node.args[0]] + inputs[node.args[1]]  # type: ignore[index]
        found = {product, inputs[node.args[2]]} if isinstance(node.args[2], fx.Node) else {product}
    elif _is_linear(node) or name == "embedding":
        found = {inputs[node.args[0]]}  # type: ignore[index]
    if found is None or len(found) != 1 or (degree := found.pop()) > 1:
        raise NoDegreeError
    return degree


_LINEAR = frozenset(["neg", "view_as_complex", "view_as_real", "flip", "roll", "sum", "cumsum"])


def _is_linear(node: fx.Node) -> bool:
    """Whether a call moves elements about, changes their signs, or multiplies them by a number."""
    spec = spec_of_node(node)
    by_number = spec is not None and spec.scaling != 0 and len(node.all_input_nodes) == 1 and not node.kwargs
    return _is_move(node) or _name(node) in _LINEAR or (by_number and node.args[0] in node.all_input_nodes)


def _is_move(node: fx.Node) -> bool:
    spec = spec_of_node(node)
    if node.target is operator.getitem:
        return _is_move(node.args[0])  # type: ignore[arg-type]
    moved = spec is not None and spec.move not in (None, Move.CAST)
    return moved and len(node.all_input_nodes) == 1


def _name(node: fx.Node) -> str:
    return getattr(node.target, "_opname", "") if node.op == "call_function" else ""
