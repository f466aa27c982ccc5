"""Scales: weights that take up a scalar which the code computes from a width, so that it keeps its effect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import fx

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.constraints import Held, ScaleUse, names_of
from fxprune.analysis.widths.equations import Facts, Scalar
from fxprune.analysis.widths.fold import Folding, is_scaling
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import NoFormError, Power, as_power
from fxprune.analysis.widths.script import recorded_calls
from fxprune.analysis.widths.words import at_line, in_words
from fxprune.tracing.provenance import Computed, Site, SizedCall


def scaled(analysis: Analysis, held: Held, forms: Forms, facts: Facts) -> Held:
    """Lay each scalar that follows a width into the weights before it, or fix the groups that it follows."""
    held = _Scales(analysis, replace(held, scales=(), folded={}), forms).scalars(facts)
    return held


class _Scales:
    def __init__(self, analysis: Analysis, held: Held, forms: Forms) -> None:
        self._analysis, self._held, self._forms = analysis, held, forms
        self._graph = analysis.labelling.graph.fx

    @cached_property
    def _calls(self) -> Sequence[fx.Node]:
        return recorded_calls(self._graph)

    @cached_property
    def _folding(self) -> Folding:
        return Folding(self._analysis.labelling.graph)

    def scalars(self, facts: Facts) -> Held:
        for scalar in facts.scalars:
            self._scalar(scalar)
        for call in facts.scaled:
            self._attention(call)
        return self._held

    def _scalar(self, scalar: Scalar) -> None:
        """A scalar of the model's own code."""
        power, groups = self._power(scalar.source)
        if not groups:
            return
        reference = scalar.call.results[0] if len(scalar.call.results) == 1 else None
        node = None if reference is None else reference.node
        value = scalar.source.value
        if power is None or not isinstance(node, fx.Node) or not self._taken_up(node, value, power.exponents):
            what = f"scalar {in_words(scalar.source)} = {value:.4g} in {scalar.call.name}"
            self._fix(groups, what, scalar.call.site)

    def _taken_up(self, node: fx.Node, value: float, exponents: Mapping[int, float]) -> bool:
        """Whether weights can take up a number that a call takes, or that the tensor that it makes holds."""
        if is_scaling(node):
            return bool(node.args[1] == value) and self._fold(node, exponents)
        if not _holds_number(node):
            return False
        try:
            uses = list(_uses_of_number(node, 1.0))
        except _NoScalingError:
            return False
        self._held = replace(self._held, folded={**self._held.folded, node.name: exponents})
        return all(self._fold(user, {g: e * power for g, e in exponents.items()}) for user, power in uses)

    def _power(self, source: Any) -> tuple[Power | None, frozenset[int]]:
        try:
            value = self._forms.source(source)
        except NoFormError as error:
            return None, error.groups
        return self._foldable(as_power(value)), self._owners(value.groups)

    @staticmethod
    def _foldable(power: Power | None) -> Power | None:
        """Only the count of a whole group can be made up for."""
        return None if power is None or min(power.exponents, default=0) < 0 else power

    def _owners(self, symbols: frozenset[int]) -> frozenset[int]:
        return frozenset(map(self._forms.parts.group, symbols))

    def _fold(self, node: fx.Node, exponents: Mapping[int, float]) -> bool:
        """Whether weights can take up what a call multiplies or divides by."""
        if node.name in self._held.folded:
            return True
        rows, calls = self._folding.absorbing_rows(node)
        if not rows:
            return False
        spec = spec_of_node(node)
        sign = -1 if spec is None else -spec.scaling
        names = self._analysis.groups
        uses = [ScaleUse(t, r, names[g].name, sign * e) for t, r in rows for g, e in exponents.items()]
        folded = {**self._held.folded, **dict.fromkeys(calls, exponents)}
        self._held = replace(self._held, scales=(*self._held.scales, *uses), folded=folded)
        return True

    def _attention(self, call: SizedCall) -> None:
        """PyTorch's own attention scales by the width of a head, unless it is given a number."""
        scale = call.kwargs.get("scale")
        if scale is not None and not isinstance(scale, Computed):
            return
        for node in [self._calls[i] for i in call.nodes]:
            if is_scaling(node) and node.name not in self._held.folded:
                self._scaling(node, scale, call)

    def _scaling(self, node: fx.Node, scale: Any, call: SizedCall) -> None:
        if scale is not None:  # half of it goes to the queries, half to the keys
            power, groups = self._power(scale)
            exponents = {g: e / 2 for g, e in power.exponents.items()} if power is not None else None
        else:
            exponents, groups = self._by_width(node)
        if groups and (exponents is None or not self._fold(node, exponents)):
            self._fix(groups, f"the scalar of {call.name}", call.site)

    def _by_width(self, node: fx.Node) -> tuple[dict[int, float] | None, frozenset[int]]:
        """The exponents of a scale that is a power of the contracted dim."""
        axes: Any = self._analysis.labelling.axes[node]
        dim = next(_contracted(node), None)
        if dim is None or axes.shape[dim] <= 1:
            return None, frozenset()
        try:
            form = self._forms.dim(axes.known(dim % len(axes)), axes.shape[dim])
        except NoFormError as error:
            return None, error.groups
        exponent = math.log(abs(node.args[1])) / math.log(axes.shape[dim])  # type: ignore[arg-type]
        power = self._foldable(as_power(form))
        if power is None or min(abs(exponent + e) for e in (0.25, 0.5)) > 1e-6:
            return None, self._owners(form.groups)
        nearest = min((-0.25, -0.5), key=lambda e: abs(exponent - e))
        return {g: n * nearest for g, n in power.exponents.items()}, form.groups

    def _fix(self, groups: frozenset[int], what: str, site: Site) -> None:
        active = [n for n in names_of(self._analysis, sorted(groups)) if n not in self._held.fixed]
        if active:
            self._held = self._held.fix(active, (f"the model's code holds this width: {what}", at_line(site)))


class _NoScalingError(Exception):
    """A number in a tensor is used for something else than to scale."""


def _holds_number(node: fx.Node) -> bool:
    """Whether it is a tensor of one number that the code has made."""
    source = node.args[0] if node.args and _exponent(node) == 1 else node
    return isinstance(source, fx.Node) and bool(source.meta.get("constant")) and node.meta["shape"] == ()


def _uses_of_number(node: fx.Node, power: float) -> Iterator[tuple[fx.Node, float]]:
    """The calls that multiply or divide by (a tensor's number) ** `power`, where they are reached through powers."""
    for user in node.users:
        spec = spec_of_node(user)
        if spec is not None and spec.scaling and user.args[1] is node and user.args[0] is not node:
            yield user, power
        elif (exponent := _exponent(user)) is not None:
            yield from _uses_of_number(user, power * exponent)
        else:
            raise _NoScalingError


def _exponent(node: fx.Node) -> float | None:
    """Which power of its argument a call makes; None: it makes something else."""
    spec = spec_of_node(node)
    if spec is None:
        return None
    return 1.0 if spec.move in (Move.COPY, Move.CAST) else spec.power(node)


def _contracted(node: fx.Node) -> Iterator[int]:
    """Over which of its last dims, counted from the end, a product of two tensors runs that a tensor goes into."""
    for user in node.users:
        spec = spec_of_node(user)
        if spec is None:
            continue
        if spec.move in (Move.COPY, Move.RESHAPE, Move.STRETCH) and user.meta["shape"][-2:] == node.meta["shape"][-2:]:
            yield from _contracted(user)
        terms = spec.terms(user)
        for names in [f.names for f in terms.factors if f.tensor is node] if terms else ():
            gone = [i - len(names) for i, name in enumerate(names) if name not in terms.names]  # type: ignore[union-attr]
            yield from gone if len(gone) == 1 and len(terms.factors) == 2 else ()  # type: ignore[union-attr]
