"""What PyTorch's own modules are known to hold, without a look at their code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import WidthUse
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.widths.constraints import Held, names_of, stepped
from fxprune.errors import InputError
from fxprune.module.attributes import int_of
from fxprune.module.isolation import walk


def known_beforehand(analysis: Analysis, held: Held) -> tuple[Held, list[WidthUse]]:
    """The ties that PyTorch's own modules are known to need, and the attributes in which they hold widths."""
    known: list[WidthUse] = []
    for path, module in walk(analysis.labelling.graph.model):
        if isinstance(module, torch.jit.ScriptModule):
            remedy = "give the module that torch.jit.script or trace was given"
            where = path or type(module).__name__
            raise InputError("a scripted module has no Python code to follow", where=where, remedy=remedy)
        if type(module).forward is nn.MultiheadAttention.forward:
            held = _attention(analysis, held, path, known)
        elif module._parameters.get("weight") is None:
            for kind, attribute, dim in _NORMS:
                if isinstance(module, kind) and int_of(module, attribute) is not None:
                    known += _weightless(analysis, path, attribute, dim)
    return held, known


def _attention(analysis: Analysis, held: Held, path: str, known: list[WidthUse]) -> Held:
    """nn.MultiheadAttention computes the head width as `embed_dim // num_heads`: both widths keep the same part."""
    parameters = analysis.labelling.parameter_axes()
    weight = parameters.get(f"{path}.in_proj_weight") or parameters.get(f"{path}.q_proj_weight")
    if weight is None:
        return held
    names = _carried(analysis, held, [weight.known(0), weight.known(1)])
    embedding = weight.known(1)
    known += [WidthUse(path, "embed_dim", embedding)] if isinstance(embedding, np.ndarray) else []
    known += [
        WidthUse(path, attribute, labels)
        for f in analysis.labelling.labeller.factorings
        if f.node.meta["module"] == path and len(f.sizes) >= 2
        for attribute, axis in (("num_heads", -2), ("head_dim", -1))
        if isinstance(labels := f.factors[axis], np.ndarray)
    ]
    inside = _carried(analysis, held, [weight.known(0)])
    return stepped(analysis, held.tie([*names, *inside]), names, f"widths of {path}") if len(names) > 1 else held


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


def _carried(analysis: Analysis, held: Held, dims: Iterable[Any]) -> list[str]:
    """The groups on some dims, without the fixed ones."""
    labels = np.concatenate([d for d in dims if isinstance(d, np.ndarray)] or [np.empty(0, dtype=np.int64)])
    found = np.unique(analysis.group_of[analysis.components.of[labels]])
    return [name for name in names_of(analysis, found[found >= 0]) if name not in held.fixed]
