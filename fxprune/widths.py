"""Widths that the model's own code holds: found by probing.

Labels tell what the data allows; the model's Python code can hold widths too (`x.reshape(n, self.hidden, -1)`,
`C // heads`). A probe gives every group its own keep count, runs the model on meta tensors cut to these counts, and
compares the shape that each ATen call delivers with the one that the labels predict. A difference is noted with the
line of code that caused it, and answered with the predicted shape, so that one run finds all of them. Groups whose
width the code holds are fixed, with that line as the reason.
"""

from __future__ import annotations

import linecache
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fxprune import shapes
from fxprune.attributes import mend
from fxprune.borrow import borrowed, call, plain_attention, set_training, swap_tensors, watch_forwards
from fxprune.groups import Analysis
from fxprune.labels import Axes
from fxprune.trace import meta_like

Reason = tuple[str, str]


def held_by_code(analysis: Analysis, excluded: frozenset[str]) -> dict[str, Reason]:
    """Groups that the model's code forbids to shrink: {group: (reason, where)}.

    Args:
        analysis: of the graph.
        excluded: groups that are fixed anyway.
    """
    reasons: dict[str, Reason] = {}
    while (prediction := Prediction(analysis, excluded | frozenset(reasons))).can_differ():
        found = _probe(prediction)
        if not found:
            break
        reasons |= found  # A run that the model's code refuses halfway is repeated with the culprits fixed.
    return reasons


# Functions whose views take all their sizes from their arguments.
_RELATIVE = frozenset(
    ["flatten", "linear", "chunk", "matmul", "__matmul__", "adaptive_avg_pool2d", "adaptive_avg_pool1d"]
)
# Calls whose sizes are attributes of these modules, which are set to fit the cut tensors.
_MENDED = {
    "convolution": nn.modules.conv._ConvNd,
    "native_group_norm": nn.GroupNorm,
    "native_layer_norm": nn.LayerNorm,
}


class Prediction:
    """The shapes that the labels predict when every active group keeps a count of its own."""

    def __init__(self, analysis: Analysis, fixed: frozenset[str]) -> None:
        self.analysis = analysis
        self.active = np.array([g.name not in fixed for g in analysis.groups], dtype=bool)
        self.counts = {g.name: _own_count(i, g.size) for i, g in enumerate(analysis.groups) if self.active[i]}
        self._keep = self._kept_components()
        self._lengths: dict[int, tuple[Any, int]] = {}

    def _kept_components(self) -> npt.NDArray[np.bool_]:
        keep = np.ones(len(self.analysis.group_of), dtype=bool)
        for i, g in enumerate(self.analysis.groups):
            if self.active[i]:
                stays = np.zeros(g.size, dtype=bool)
                stays[np.random.default_rng(i).permutation(g.size)[: self.counts[g.name]]] = True
                mine = self.analysis.group_of == i
                keep[mine] = stays[self.analysis.channel_of[mine]]
        return keep

    def can_differ(self) -> bool:
        """Whether any size in the model's code concerns an active group."""
        axes, suspects = self.analysis.labelling.axes, self.analysis.labelling.labeller.suspects
        return any(len(self.groups(axes[node])) for node in suspects if not self._follows(node))

    def _follows(self, node: fx.Node) -> bool:
        """Whether the call's sizes follow from its tensors, or from attributes that are mended."""
        if node.meta["function"] in _RELATIVE:
            return True
        kinds = _MENDED.get(node.target._opname)  # type: ignore[union-attr]
        return kinds is not None and isinstance(
            self.analysis.labelling.graph.model.get_submodule(node.meta["module"]), kinds
        )

    def groups(self, axes: Axes | Iterable[Axes]) -> npt.NDArray[np.int64]:
        """The active groups that a tensor's dims carry, as indices."""
        tensors = [axes] if isinstance(axes, Axes) else list(axes)
        labels = [t.known(i) for t in tensors for i in range(len(t)) if isinstance(t.known(i), np.ndarray)]
        if not labels:
            return np.empty(0, dtype=np.int64)
        found = self.analysis.group_of[self.analysis.components.of[np.concatenate(labels)]]
        found = np.unique(found[found >= 0])
        return found[self.active[found]]

    def length(self, labels: npt.NDArray[np.int64]) -> int:
        """The predicted length of a labelled dim (or part of one)."""
        known = self._lengths.get(id(labels))
        if known is None:
            length = int(self._keep[self.analysis.components.of[labels]].sum())
            known = self._lengths[id(labels)] = (labels, length)
        return known[1]

    def shape(self, axes: Axes) -> tuple[int, ...]:
        dims = (axes.known(i) for i in range(len(axes)))
        return tuple(self.length(d) if isinstance(d, np.ndarray) else n for n, d in zip(axes.shape, dims, strict=True))


def _own_count(i: int, size: int) -> int:
    """An odd keep count between a quarter and all of the channels that few other groups have."""
    choices = range(max(1, size // 4) | 1, size, 2)
    return choices[(5 * i) % len(choices)] if len(choices) else 1


def _probe(prediction: Prediction) -> dict[str, Reason]:
    graph = prediction.analysis.labelling.graph
    parameters = prediction.analysis.labelling.parameter_axes()

    def smaller(name: str, tensor: Tensor) -> Tensor:
        meta = meta_like(name, tensor)
        shape = prediction.shape(parameters[name]) if name in parameters else tensor.shape
        return meta if shape == tensor.shape else meta_like(name, meta.new_empty(shape).requires_grad_(False))

    with borrowed(graph.model):
        names = swap_tensors(graph.model, smaller)
        mend(graph.model, prediction.analysis.attributes(prediction.counts))
        inputs = tree_map(lambda t: meta_like("", t) if isinstance(t, Tensor) else t, graph.inputs)
        prober = _Prober(prediction, names)
        watch_forwards(graph.model, prober.stack)
        with plain_attention(), prober:
            for training in (False, True):
                set_training(graph.model, training)
                if not prober.run(training, lambda: call(graph.model, inputs)):
                    break
    return prober.found


class _Diverged(Exception):
    """The model's code called another op than in the recorded run."""


@dataclass
class _Script:
    """The recorded calls, one after another."""

    nodes: list[fx.Node]
    at: int = 0

    def next(self, op: Any) -> fx.Node | None:
        """The recorded call of `op`; None for a copy between devices or types that the recorded run did not need."""
        while (
            self.at < len(self.nodes) and self.nodes[self.at].target is not op and self.nodes[self.at].target in _COPIES
        ):
            self.at += 1
        node = self.nodes[self.at] if self.at < len(self.nodes) else None
        if node is not None and node.target is op:
            self.at += 1
            return node
        if op in _COPIES:
            return None
        raise _Diverged(f"{op} is called where {node.target if node else 'nothing'} was")


_COPIES = frozenset([torch.ops.aten._to_copy.default, torch.ops.aten.detach.default, torch.ops.aten.lift_fresh.default])


class _Prober(TorchDispatchMode):
    """Compares each call of the running model with the recorded one, cut as predicted."""

    def __init__(self, prediction: Prediction, names: Mapping[int, str]) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.found: dict[str, Reason] = {}
        self._prediction = prediction
        self._axes = prediction.analysis.labelling.axes
        self._graph = prediction.analysis.labelling.graph
        calls = [n for n in self._graph.fx.nodes if n.op == "call_function" and n.target is not operator.getitem]
        self._scripts = {extra: _Script([n for n in calls if n.meta["extra"] is extra]) for extra in (False, True)}
        self._script = self._scripts[False]
        self._names = names

    def run(self, training: bool, forward: Callable[[], Any]) -> bool:
        """Run one forward, if it was recorded; False if the model's code refused to go on."""
        self._script = self._scripts[training]
        try:
            if self._script.nodes:
                forward()
        except Exception as error:
            self._refused(error)
            return False
        return True

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        node = self._script.next(op)
        args, kwargs = tree_map(_on_meta, args), tree_map(_on_meta, kwargs)
        if node is None:
            return shapes.answer(op, args, kwargs)
        predicted = self._predicted(node)
        try:
            result = shapes.answer(op, args, kwargs)
        except Exception as error:
            self._differs(node, _brief(error))
            return self._as_predicted(node, predicted, args)
        seen = _shapes(result)
        if seen != predicted:
            self._differs(node, f"shape {_text(seen)} where {_text(predicted)} was expected")
            return self._as_predicted(node, predicted, args)
        self._check_offsets(node, op, args)
        return result

    def _predicted(self, node: fx.Node) -> Any:
        axes = self._axes[node]
        shape = self._prediction.shape
        return shape(axes) if isinstance(axes, Axes) else tuple(shape(a) for a in axes)

    def _as_predicted(self, node: fx.Node, predicted: Any, args: Any) -> Any:
        if node.name in self._graph.answers:
            return self._graph.answers[node.name]
        returned = node.target._schema.returns  # type: ignore[union-attr]
        if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
            return args[0]
        if predicted and isinstance(predicted[0], tuple):
            made = [torch.empty(s, dtype=d, device="meta") for s, d in zip(predicted, node.meta["dtype"], strict=True)]
            return made if len(returned) == 1 else tuple(made)
        return torch.empty(predicted, dtype=node.meta["dtype"], device="meta")

    def _check_offsets(self, node: fx.Node, op: Any, args: Any) -> None:
        """A slice of the right length may still be the wrong one."""
        if op is not torch.ops.aten.slice.Tensor or len(args) < 3:
            return
        source = self._axes[node.args[0]]  # type: ignore[index]
        dim = args[1] % len(source.shape)  # type: ignore[union-attr]
        labels = source.known(dim)  # type: ignore[union-attr]
        recorded = node.args[2]
        if not isinstance(labels, np.ndarray) or not isinstance(recorded, int) or not isinstance(args[2], int):
            return
        length, full = self._prediction.length(labels), len(labels)
        start = self._prediction.length(labels[: recorded % full if recorded < 0 else min(recorded, full)])
        asked = args[2] % length if args[2] < 0 else min(args[2], length)
        if asked != start:
            self._differs(node, f"slice starts at {asked} where {start} was expected")

    def _differs(self, node: fx.Node, what: str) -> None:
        """Fix the groups on the call's result; else those on its arguments; else those of the issuing module."""
        involved = [self._axes[node], *(self._axes[a] for a in node.all_input_nodes)]
        for axes in involved:
            groups = self._prediction.groups(axes)
            if len(groups):
                self._fix(groups, f"the model's code holds this width: {what}", _line(node))
                return
        seen = what.split(":")[0]
        if "NotImplemented" not in seen and self._graph.on_meta:
            self._fix_module(node.meta["module"], f"the model's code holds this width: {what}", _line(node))

    def _refused(self, error: Exception) -> None:
        """The forward raised: the innermost module that has groups left keeps them."""
        what = f"the model's code refuses other widths: {_brief(error)}"
        self._fix_module(self.stack[-1] if self.stack else "", what, self.stack[-1] if self.stack else "")

    def _fix_module(self, path: str, what: str, where: str) -> None:
        groups = self._prediction.analysis.groups
        while True:
            inside = [
                i
                for i, g in enumerate(groups)
                if self._prediction.active[i] and any(not path or s.tensor.startswith(path + ".") for s in g.slots)
            ]
            if inside or not path:
                self._fix(inside, what, where)
                return
            path = path.rpartition(".")[0]

    def _fix(self, indices: Iterable[int], reason: str, where: str) -> None:
        for i in indices:
            self.found.setdefault(self._prediction.analysis.groups[i].name, (reason, where))


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _on_meta(value: Any) -> Any:
    return meta_like("", value) if isinstance(value, Tensor) and not value.is_meta else value


def _shapes(result: Any) -> Any:
    if isinstance(result, Tensor):
        return tuple(result.shape)
    if isinstance(result, tuple | list):
        return tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in result)
    return ()


def _text(shape: Any) -> str:
    return "×".join(map(str, shape)) if not shape or isinstance(shape[0], int) else ", ".join(map(_text, shape))


_MACHINERY = ("fxprune", "torch/_ops", "torch/_compile", "torch/_dynamo", "torch/utils", "torch/_tensor.py")


def _line(node: fx.Node) -> str:
    """The line of the model's code that issued the present call."""
    frame = sys._getframe(2)
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _MACHINERY):
        frame = frame.f_back
    file, number = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number} `{source[:80]}` in {node.meta['module']}"
