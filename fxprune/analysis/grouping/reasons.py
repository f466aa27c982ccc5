"""Reasons: which dims must stay, and the op or boundary that fixes each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import ELSEWHERE, Fixed
from fxprune.analysis.labels.factorings import Components
from fxprune.analysis.labels.labels import UNSET, Axes, Labelling


@dataclass(frozen=True)
class FixedDim:
    """Indices of a tensor dim that must stay, and the op or boundary that fixes them.

    Attributes:
        tensor: qualified name of the parameter or buffer.
        dim: the dim.
        count: how many of its indices are fixed.
        reason: why.
        where: the op and the module that issued it, if an op is the reason.
    """

    tensor: str
    dim: int
    count: int
    reason: str
    where: str = ""


def fixed_dims(labelling: Labelling, components: Components, parameters: Mapping[str, Axes]) -> list[FixedDim]:
    """Every parameter dim, or part of one, that must stay."""
    causes: dict[int, list[tuple[int, int]]] = {}
    found = [
        d
        for name, axes in parameters.items()
        for i in range(len(axes))
        for d in _why(components, causes, name, axes, i)
    ]
    elsewhere = {node.meta.get("elsewhere") for node in labelling.graph.fx.nodes}
    for name, tensor in labelling.graph.tensors.items():
        reason = ELSEWHERE if name in elsewhere else "not used by the recorded forward"
        dims = enumerate(tensor.shape) if name not in parameters else ()
        found += [FixedDim(name, i, n, reason) for i, n in dims if n > 1]
    return found


_NONE = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def _why(
    components: Components, causes: dict[int, list[tuple[int, int]]], name: str, axes: Axes, i: int
) -> Iterator[FixedDim]:
    """Why indices of a dim must stay; `causes` remembers what was found for a label array."""
    dim = axes.known(i)
    if dim is UNSET:
        yield FixedDim(name, i, axes.shape[i], "no op reads this dim, but for sums")
    elif isinstance(dim, Fixed):
        yield FixedDim(name, i, axes.shape[i], dim.reason)
    elif isinstance(dim, np.ndarray):
        if id(dim) not in causes:
            first = components.fix[components.of[dim]]
            kinds, counts = np.unique(first[first >= 0], return_counts=True) if first.max() >= 0 else _NONE
            causes[id(dim)] = list(zip(kinds.tolist(), counts.tolist(), strict=True))
        for k, count in causes[id(dim)]:
            fix = components.fixes[k]
            yield FixedDim(name, i, count, fix.reason, place(fix.node))


def place(node: fx.Node | None) -> str:
    """The op and the module that issued it, for a report."""
    if node is None or node.op == "output":
        return ""
    module = node.meta.get("module")
    return f"{node.target}" + (f" in {module}" if module else "")


IGNORED = "ignored by the caller"
# What every model has; other reasons say more.
_BOUNDARIES = ("model input", "model output", "kernel size", "spatial dim")


def decisive_first(fixed: Iterable[FixedDim]) -> list[str]:
    """The reasons without repetition: those of ops and code first, then those that hold most indices."""
    held: Counter[str] = Counter()
    for f in fixed:
        held[f.reason] += f.count
    return sorted(held, key=lambda reason: (reason.startswith(_BOUNDARIES), -held[reason]))
