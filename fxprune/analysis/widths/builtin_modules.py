"""What PyTorch's own modules are known to hold, without a look at their code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Dim, Factoring, Labels
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.forms import Equation, Labelled
from fxprune.module.attributes import int_of
from fxprune.module.tensors import walk
from fxprune.tracing.provenance import Attribute, Site


def known_attributes(analysis: Analysis) -> Iterator[Equation]:
    """The attributes in which PyTorch's own modules hold widths, though their forward may not read them."""
    for path, module in walk(analysis.labelling.graph.model):
        if type(module).forward is nn.MultiheadAttention.forward:
            for f in analysis.labelling.labeller.factorings:
                if f.node.meta["module"] != path:
                    continue
                if found := heads_of(analysis, f, module.num_heads, module.head_dim):
                    for attribute, labels in zip(("num_heads", "head_dim"), found, strict=True):
                        yield from _holds(nn.MultiheadAttention, path, attribute, labels)
        elif module._parameters.get("weight") is None:
            for kind, attribute, dim in _NORMS:
                if isinstance(module, kind) and int_of(module, attribute) is not None:
                    yield from _holds(kind, path, attribute, _read(analysis, path, dim))


def _holds(kind: type[nn.Module], path: str, attribute: str, labels: Any) -> Iterator[Equation]:
    """An attribute of a module is the length of a dim, if that carries channels."""
    if isinstance(labels, np.ndarray):
        held, site = Attribute(path, attribute, len(labels)), Site(kind.forward.__code__, 0, path)
        yield Equation(held, Labelled(labels, len(labels)), "a layer", site)


def _read(analysis: Analysis, path: str, dim: int) -> Any:
    """What a dim of a module's input carries."""
    first = next((n for n in analysis.labelling.graph.fx.nodes if n.meta.get("module") == path), None)
    axes = analysis.labelling.axes[first.all_input_nodes[0]] if first is not None else None
    return axes.known(dim % len(axes)) if isinstance(axes, Axes) and len(axes) > 1 else None


def heads_of(analysis: Analysis, f: Factoring, heads: Any, each: Any) -> tuple[Any, Any] | None:
    """What the heads and their widths carry in a grid of `nn.MultiheadAttention`, whose rows are heads, or the heads of
    each sample in turn; None for grids that tell something else apart: queries, keys and values, or samples and heads,
    which never lie in the last dim, though there may be as many.
    """
    if len(f.sizes) < 2 or f.sizes[-1] != each or f.sizes[-2] % heads:
        return None
    axes = analysis.labelling.axes[f.node]
    last = axes.known(len(axes) - 1) if isinstance(axes, Axes) else None
    if not isinstance(last, np.ndarray) or not any(_carries(last, part) for part in (f.factors[-1], f.flat)):
        return None
    rows = f.factors[-2]
    return rows[:heads] if isinstance(rows, np.ndarray) else rows, f.factors[-1]


def _carries(dim: Labels, other: Dim) -> bool:
    return isinstance(other, np.ndarray) and np.array_equal(dim, other)


# Norms whose width, if they have no weight, only an attribute holds: which, and that of which dim of their input.
_NORMS: tuple[tuple[type[nn.Module], str, int], ...] = (
    (nn.modules.instancenorm._InstanceNorm, "num_features", 1),
    (nn.LayerNorm, "normalized_shape", -1),
    (nn.RMSNorm, "normalized_shape", -1),
)
