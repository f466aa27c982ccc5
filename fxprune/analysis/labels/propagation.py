"""Propagation: run a recorded graph on labels instead of numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.analysis.labels.dims import (
    AS_BUFFER,
    ELSEWHERE,
    MODEL_INPUT,
    OVERLAPS,
    UNREGISTERED,
    Fix,
    Fixed,
    Labels,
    Loose,
    NotLooseError,
)
from fxprune.analysis.labels.labels import UNSET, Axes, Call, Env, Labeller, Labelling, Rule, fixed_result
from fxprune.module.parametrizations import REMEDY, computed_weights
from fxprune.tracing.trace import Graph


def label(
    graph: Graph,
    rules: Callable[[Any], Rule | None],
    free: frozenset[str] = frozenset(),
    unread: Callable[[fx.Node], bool] = lambda _: False,
) -> Labelling:
    """Run `graph` on labels instead of numbers.

    Args:
        graph: a recorded forward.
        rules: finds the rule of an op, or None. An op without a rule fixes all labels that it touches, and is counted.
        free: names of equal splits and grids whose parts keep equally many indices, but not the same ones.
        unread: whether no value of a call's first argument counts, but its shape alone (`zeros_like`).

    Raises:
        NotLooseError: a free grid is more than moved.
    """
    dropped = dead(graph.fx)
    seen = graph.on_meta or not _has_constants(graph.fx)
    lab = Labeller(free, unused := dead(graph.fx, unread) if seen else frozenset(), _of_no_layer(unused))
    axes: Env = {}
    computed = computed_weights(graph.model)
    for node in graph.fx.nodes:
        lab.node = node
        if node.op == "call_function":
            since = len(lab.fixes)
            axes[node] = _call(lab, node, axes, rules)
            weight = computed.get(node.meta["module"])
            if weight:
                _name_parametrization(lab, node, axes, since, weight)
        elif node.op == "get_attr":
            axes[node] = _source(lab, node)
        elif node.op == "placeholder":
            axes[node] = Axes(lab, node.meta["shape"], [_unless_one(n, MODEL_INPUT) for n in node.meta["shape"]])
        else:
            for out, name in zip(node.args[0], node.meta["names"], strict=True):  # type: ignore[arg-type]
                lab.fix_axes(axes[out], f"model output {name}".strip())  # type: ignore[arg-type]
    lab.node = None
    lab.fixes += _dropped(dropped, axes)
    return Labelling(graph, lab, axes)


def _unless_one(n: int, dim: Any) -> Any:
    return None if n <= 1 else dim


def _source(lab: Labeller, node: fx.Node) -> Axes:
    """Parameters and buffers can be sliced; constants in the code, and integers, which may be places, cannot."""
    start: Any = UNSET
    dtype = node.meta["dtype"]
    counts = dtype != torch.bool and not dtype.is_floating_point and not dtype.is_complex
    if node.meta.get("elsewhere"):
        start = Fixed(ELSEWHERE)
    elif node.meta.get("overlaps"):
        start = Fixed(OVERLAPS + node.meta["overlaps"])
    elif node.meta.get("unregistered"):
        start = Fixed(UNREGISTERED)
    elif node.meta.get("constant"):
        start = Fixed("constant held by the model's code" + ("" if counts else AS_BUFFER))
    elif counts:
        start = Fixed("index tensor")
    return Axes(lab, node.meta["shape"], [_unless_one(n, start) for n in node.meta["shape"]])


def _call(lab: Labeller, node: fx.Node, axes: Env, rules: Callable[[Any], Rule | None]) -> Axes | tuple[Axes, ...]:
    if node.target is operator.getitem:
        return axes[node.args[0]][node.args[1]]  # type: ignore[index,return-value]
    args = [_resolve(a, axes) for a in node.args]
    kwargs = {k: _resolve(v, axes) for k, v in node.kwargs.items()}
    shape = node.meta["shape"]
    rule = rules(node.target)
    dims = None if rule is None else rule(Call(lab, node, shape), *args, **kwargs)
    if dims is None:
        dims = _fix_everything(lab, node, (*args, *kwargs.values()), shape)
    if lab.free:
        _check_moved(lab, args, dims)
    if shape and isinstance(shape[0], tuple):
        return tuple(Axes(lab, s, d) for s, d in zip(shape, dims, strict=True))
    return Axes(lab, shape, dims)


def _check_moved(lab: Labeller, args: Sequence[Any], dims: Sequence[Any]) -> None:
    """Loose dims go on as they are, or are merged as a whole."""
    for a in args:
        for d in a.dims() if isinstance(a, Axes) else ():
            if isinstance(d, Loose) and id(d.flat) not in lab.closed and not any(d is e for e in dims):
                raise NotLooseError(d.node)


def _resolve(value: Any, axes: Env) -> Any:
    if isinstance(value, fx.Node):
        return axes[value]
    if isinstance(value, list | tuple):
        return [_resolve(v, axes) for v in value]
    return value


def _fix_everything(lab: Labeller, node: fx.Node, args: Sequence[Any], shape: Any) -> Any:
    """An op without a rule: never guessed, never fatal, always reported."""
    lab.unknown[str(node.target)] += 1
    name = node.target._schema.name.removeprefix("aten::")  # type: ignore[union-attr]
    reason = f"op {node.target} has no rule; to add one: fxprune.ops.register({name!r}, ...)"
    return fixed_result(lab, args, shape, reason)


def _name_parametrization(lab: Labeller, node: fx.Node, axes: Env, since: int, weight: str) -> None:
    """What a call fixes that computes a layer's weight, says so, and what makes the weight a parameter."""
    note = f"; it computes {weight}: {REMEDY} makes that a parameter"

    def told(reason: str) -> str:
        return reason if note in reason else reason + note

    lab.fixes[since:] = [replace(f, reason=told(f.reason)) for f in lab.fixes[since:]]
    for several in (axes[n] for n in (node, *node.all_input_nodes)):
        for a in [several] if isinstance(several, Axes) else several:
            for i, dim in enumerate(map(a.known, range(len(a)))):
                if isinstance(dim, Fixed):
                    a.adopt(i, Fixed(told(dim.reason)))


def dead(graph: fx.Graph, unread: Callable[[fx.Node], bool] = lambda _: False) -> frozenset[fx.Node]:
    """The calls whose results nothing depends on, or on their shape alone: no output, no tensor that is written to."""
    found: set[fx.Node] = set()

    def counts(node: fx.Node, user: fx.Node) -> bool:
        return user not in found and not (unread(user) and user.args[0] is node)

    for node in reversed(graph.nodes):
        if node.op == "call_function" and not _acts(node) and not any(counts(node, user) for user in node.users):
            found.add(node)
    return frozenset(found)


def _of_no_layer(dead: frozenset[fx.Node]) -> frozenset[fx.Node]:
    """Dead calls that no layer depends on; what a layer gives counts, for another forward may return it."""
    layers = {node for node in dead if any(source.op == "get_attr" for source in node.all_input_nodes)}
    ahead = list(layers)
    while ahead:
        before = {s for s in ahead.pop().all_input_nodes if s in dead and s not in layers}
        layers |= before
        ahead += before
    return dead - layers


def _has_constants(graph: fx.Graph) -> bool:
    """Whether tensors of unknown origin take part: code in C++ may have made them of real tensors, unseen."""
    return any(node.meta.get("constant") for node in graph.nodes)


def _acts(node: fx.Node) -> bool:
    """Whether a call writes into a tensor, or hands the model's code a number."""
    if node.meta.get("read"):
        return True
    return node.target is not operator.getitem and _changes_something(node.target)


@cache
def _changes_something(op: Any) -> bool:
    return op._schema.is_mutable or any("Tensor" not in str(r.type) for r in op._schema.returns)


def _dropped(dead: frozenset[fx.Node], axes: Env) -> Iterator[Fix]:
    """Labels of results that the recorded forward drops, where no other result has them.

    Another forward may return such a result: a head that always runs, and whose output is returned in training only.
    """
    ends = [node for node in dead if not node.users]
    if not ends:
        return
    alive = _labels(a for node, a in axes.items() if node.op == "call_function" and node not in dead)
    for node in ends:
        own = np.setdiff1d(_labels([axes[node]]), alive)
        if len(own):
            yield Fix(own, "computed, but dropped by the recorded forward", node)


def _labels(tensors: Iterable[Axes | tuple[Axes, ...]]) -> Labels:
    """All labels that tensors carry."""
    each = (a for several in tensors for a in ([several] if isinstance(several, Axes) else several))
    dims = {id(d): d for a in each for d in map(a.known, range(len(a))) if isinstance(d, np.ndarray)}
    return np.unique(np.concatenate(list(dims.values()))) if dims else np.empty(0, dtype=np.int64)
