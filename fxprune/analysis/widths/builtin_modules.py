"""What PyTorch's own modules are known to hold, without a look at their code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Factoring, WidthUse
from fxprune.analysis.labels.labels import Axes
from fxprune.module.attributes import int_of
from fxprune.module.tensors import walk


def known_attributes(analysis: Analysis) -> list[WidthUse]:
    """The attributes in which PyTorch's own modules hold widths, though their forward may not read them."""
    known: list[WidthUse] = []
    for path, module in walk(analysis.labelling.graph.model):
        if type(module).forward is nn.MultiheadAttention.forward:
            known += _attention(analysis, path, module)
        elif module._parameters.get("weight") is None:
            for kind, attribute, dim in _NORMS:
                if isinstance(module, kind) and int_of(module, attribute) is not None:
                    known += _weightless(analysis, path, attribute, dim)
    return known


def _attention(analysis: Analysis, path: str, module: Any) -> Iterator[WidthUse]:
    for f in analysis.labelling.labeller.factorings:
        if f.node.meta["module"] == path and (found := heads_of(f, module.num_heads, module.head_dim)):
            for attribute, labels in zip(("num_heads", "head_dim"), found, strict=True):
                if isinstance(labels, np.ndarray):
                    yield WidthUse(path, attribute, labels)


def heads_of(f: Factoring, heads: int, each: int) -> tuple[Any, Any] | None:
    """What the heads and their widths carry in a grid of `nn.MultiheadAttention`, whose rows are heads, or the heads of
    each sample in turn; None for grids that tell something else apart (queries, keys and values).
    """
    if len(f.sizes) < 2 or f.sizes[-1] != each or f.sizes[-2] % heads:
        return None
    rows = f.factors[-2]
    return rows[:heads] if isinstance(rows, np.ndarray) else rows, f.factors[-1]


# Norms whose width, if they have no weight, only an attribute holds: which, and that of which dim of their input.
_NORMS: tuple[tuple[type[nn.Module], str, int], ...] = (
    (nn.modules.instancenorm._InstanceNorm, "num_features", 1),
    (nn.LayerNorm, "normalized_shape", -1),
    (nn.RMSNorm, "normalized_shape", -1),
)


def _weightless(analysis: Analysis, path: str, attribute: str, dim: int) -> list[WidthUse]:
    """A norm without a weight."""
    first = next((n for n in analysis.labelling.graph.fx.nodes if n.meta.get("module") == path), None)
    axes = analysis.labelling.axes[first.all_input_nodes[0]] if first is not None else None
    labels = axes.known(dim % len(axes)) if isinstance(axes, Axes) and len(axes) > 1 else None
    return [WidthUse(path, attribute, labels)] if isinstance(labels, np.ndarray) else []
