"""Wiring: what the recorded graph says about the layers around a group's channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from fxprune.analysis.ops.layout import unturned
from fxprune.analysis.ops.table import spec_of_node
from fxprune.tracing.trace import Graph


@dataclass(frozen=True)
class Norm:
    """A norm that multiplies each channel by scale/√(variance + ε): batch normalisation in evaluation mode.

    Attributes:
        scale: name of γ; "" where the norm has none.
        variance: name of the running variance; "" where the norm uses the batch's.
        eps: ε.
    """

    scale: str
    variance: str
    eps: float

    def gain(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """γ²/(σ² + ε) of each channel, of shape (channels,), in float64; None where the norm uses the batch's σ²."""
        if not self.variance:
            return None
        inverse = 1 / (tensors[self.variance].detach().double() + self.eps)
        return inverse * tensors[self.scale].detach().double().square() if self.scale else inverse


def norms(graph: Graph) -> dict[fx.Node, Norm]:
    """The graph's norms of that kind, by the node that they normalise; the first of several."""
    found: dict[fx.Node, Norm] = {}
    for node in graph.fx.nodes:
        spec = spec_of_node(node)
        norm = spec.norm if spec else None
        if norm and norm.statistics and len(node.args) > norm.statistics.epsilon:
            scale, variance, eps = (node.args[i] for i in (norm.scale, *norm.statistics[1:]))
            found.setdefault(node.args[0], Norm(_name(scale), _name(variance), eps))
    return found


def gains_behind(graph: Graph) -> dict[str, Tensor]:
    """γ²/(σ² + ε) of the norm that directly follows a layer, by the name of the layer's weight."""
    behind = norms(graph)
    found: dict[str, Tensor] = {}
    for node, weight, _ in _layers(graph):
        gain = behind[node].gain(graph.tensors) if node in behind else None
        if gain is not None:
            found.setdefault(weight, gain)
    return found


def grouped(graph: Graph) -> frozenset[str]:
    """The weights of grouped convolutions: their kernels see a part of the input's channels only."""
    return frozenset(
        weight
        for node, weight, consumer in _layers(graph)
        if graph.tensors[weight].dim() > 2 and node.args[0].meta["shape"][1] != graph.tensors[weight].shape[consumer]  # type: ignore[union-attr]
    )


def execution_order(graph: Graph) -> list[str]:
    """The names of the tensors that the forward uses, by first use."""
    return [str(node.target) for node in graph.fx.nodes if node.op == "get_attr" and node.target in graph.tensors]


def _layers(graph: Graph) -> Iterator[tuple[fx.Node, str, int]]:
    """Convolutions and matrix products with a weight: the node, the weight's name, the dim that reads channels."""
    for node in graph.fx.nodes:
        spec = spec_of_node(node)
        for argument, _, consumer in spec.weights(node) if spec else ():
            source, _ = unturned(node.args[argument])
            weight = _name(source)
            if weight in graph.tensors:
                yield node, weight, consumer


def _name(value: object) -> str:
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else ""
