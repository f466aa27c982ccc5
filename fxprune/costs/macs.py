"""Cost: multiply-accumulates and parameters of any plan, exact, without running anything.

Every convolution and matrix product costs a product of dim lengths, every parameter is one, and every dim's length is a
constant plus a sum over groups of kept channels. So the cost of a plan is arithmetic on kept counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.groups import Groups
from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.ops.spec import Length
from fxprune.analysis.ops.table import spec_of_node
from fxprune.errors import PlanError, check_kind
from fxprune.plan.plan import Plan, check_plan

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What a model needs, for the batch of the example inputs.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products in one forward.
        parameters: number of parameters.
    """

    macs: int
    parameters: int

    def __str__(self) -> str:
        return f"{self.macs / 1e6:,.1f} M MACs, {self.parameters / 1e6:,.2f} M parameters"


class CostModel:
    """The cost of a graph as a function of kept counts.

    Each term is a product of dim lengths, and each length is affine in the counts: length = base + weights @ counts.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.groups = tuple(g.name for g in analysis.groups)
        self.sizes = np.array([g.size for g in analysis.groups], dtype=np.float64)
        self._index = {name: i for i, name in enumerate(self.groups)}
        macs, self.modules = _mac_terms(analysis)
        self._macs = _Terms(analysis, macs)
        self._parameters = _Terms(analysis, _parameter_terms(analysis))

    def counts(self, plan: Plan | None) -> Floats:
        """Kept channels of every group, of shape (groups,)."""
        counts = self.sizes.copy()
        for name, kept in (plan.kept_counts() if plan else {}).items():
            if name not in self._index or plan.groups[name].size != self.sizes[self._index[name]]:  # type: ignore[union-attr]
                raise PlanError("the plan is for another model", seen=f"group {name}", remedy="plan on these groups")
            counts[self._index[name]] = kept
        return counts

    def __call__(self, counts: Floats) -> Cost:
        """The cost when `counts` channels of each group stay."""
        return Cost(round(self.macs(counts)), round(self.parameters(counts)))

    def macs(self, counts: Floats) -> Any:
        """MACs when `counts` channels stay; one number, or (n,) for n sets of counts as columns of (groups, n)."""
        return self._macs(counts).sum(0)

    def parameters(self, counts: Floats) -> Any:
        """Parameters when `counts` channels stay; one number, or (n,) for counts of shape (groups, n)."""
        return self._parameters(counts).sum(0)

    def shares(self) -> dict[str, float]:
        """For each group, the part of all MACs that its channels take part in; parts overlap between groups."""
        terms = self._macs(self.sizes)
        return dict(zip(self.groups, (self._macs.touched @ terms / max(terms.sum(), 1)).tolist(), strict=True))


class _Terms:
    """Products of affine lengths, evaluated together."""

    def __init__(self, analysis: Analysis, terms: Sequence[Sequence[Length]]) -> None:
        import scipy.sparse as sp  # here, because it takes a while to import

        known: dict[tuple[int, int], tuple[int, dict[int, int]]] = {}  # equated dims have the very same label array

        def length(size: int, dim: Dim) -> tuple[int, dict[int, int]]:
            if not isinstance(dim, np.ndarray):
                return size, {}
            if (id(dim), size) not in known:
                known[id(dim), size] = analysis.length(dim, size)
            return known[id(dim), size]

        lengths = [length(size, dim) for term in terms for size, dim in term]
        self._base = np.array([c for c, _ in lengths], dtype=np.float64)
        columns = np.array([g for _, per_group in lengths for g in per_group], dtype=np.int32)
        values = np.array([n for _, per_group in lengths for n in per_group.values()], dtype=np.float64)
        ends = np.cumsum([0, *(len(per_group) for _, per_group in lengths)], dtype=np.int32)
        shape = (len(lengths), len(analysis.groups))
        self._weights = sp.csr_array((values, columns, ends), shape=shape)
        self._starts = np.cumsum([0, *map(len, terms)])[:-1]

    @property
    def touched(self) -> Any:
        """Which groups take part in which terms: 0 or 1, of shape (groups, terms)."""
        cells = self._weights.tocoo()
        rows = np.searchsorted(self._starts, cells.coords[0], side="right") - 1
        touched = np.zeros((self._weights.shape[1], len(self._starts)))
        touched[cells.coords[1], rows] = 1
        return touched

    def __call__(self, counts: Floats) -> Floats:
        """The terms, of shape (terms,), or (terms, n) for counts of shape (groups, n)."""
        if not len(self._starts):
            return np.zeros((0, *counts.shape[1:]))
        base = self._base.reshape(-1, *[1] * (counts.ndim - 1))
        return np.multiply.reduceat(base + self._weights @ counts, self._starts, axis=0)


def cost(groups: Groups, plan: Plan | None = None) -> Cost:
    """MACs and parameters of the model after `plan`, or as it is.

    MACs count convolutions, linear layers and matrix products, as `torch.utils.flop_counter` does (which counts two
    operations a MAC), for the batch of the example inputs, in evaluation mode.

    Args:
        groups: of the model, from `fxprune.find_groups`.
        plan: on these groups; None is the model as it is.

    Raises:
        InputError: `groups` are not groups.
        PlanError: the plan is none, or for another model.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> fxprune.cost(groups)
    Cost(macs=48, parameters=58)
    >>> fxprune.cost(groups, groups.plan({"0": [0, 1]}))
    Cost(macs=12, parameters=16)
    """
    check_kind("the first argument", groups, Groups, "give what fxprune.find_groups(graph) returns")
    if plan is not None:
        check_plan(plan)
    model = CostModel(groups.analysis)
    return model(model.counts(plan))


def _parameter_terms(analysis: Analysis) -> list[list[Length]]:
    """One term a parameter; those that no op has met count as they are."""
    met = analysis.labelling.parameter_axes
    named = analysis.labelling.graph.tensors.items()
    return [
        [(n, _dim(met.get(name), i)) for i, n in enumerate(tensor.shape)] or [(1, None)]
        for name, tensor in named
        if isinstance(tensor, nn.Parameter)
    ]


def _dim(axes: Axes | None, i: int) -> Dim:
    known = None if axes is None else axes.known(i)
    return known if isinstance(known, np.ndarray) else None


def _mac_terms(analysis: Analysis) -> tuple[list[list[Length]], list[str]]:
    """The dims whose lengths multiply to the MACs of each contraction, and the module that issued it."""
    terms, modules = [], []
    for node in analysis.labelling.graph.fx.nodes:
        spec = spec_of_node(node)
        if spec is not None and spec.macs is not None and not node.meta["extra"]:
            terms.append(list(spec.macs(node, analysis.labelling.axes)))
            modules.append(node.meta["module"])
    return terms, modules
