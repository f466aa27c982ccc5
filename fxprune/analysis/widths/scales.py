"""Scales: weights that take up a scalar which the code computes from a width, so that it keeps its effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import isclose
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.constraints import Held, ScaleUse
from fxprune.analysis.widths.equations import Facts
from fxprune.analysis.widths.fold import Folding, is_scaling
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import as_power
from fxprune.analysis.widths.script import recorded_calls
from fxprune.analysis.widths.words import at_line, in_words
from fxprune.plan.plan import Ints
from fxprune.tracing.functions import SIZED, Takes
from fxprune.tracing.provenance import SizedCall


def scaled(held: Held, forms: Forms, facts: Facts) -> Held:
    """Lay each scalar that follows a width into the weights before it, or fix the groups that it follows."""
    scales = _Scales(replace(held, scales=(), folded={}), forms)
    for source, call in facts.scalars:
        scales.lay(source, call)
    return scales.held


class _Scales:
    def __init__(self, held: Held, forms: Forms) -> None:
        self.held, self._forms, self._analysis = held, forms, forms.analysis

    @cached_property
    def _calls(self) -> list[fx.Node]:
        return recorded_calls(self._analysis.labelling.graph.fx)

    @cached_property
    def _folding(self) -> Folding:
        return Folding(self._analysis.labelling.graph, self._may_scale)

    def _may_scale(self, name: str, rows: Ints) -> bool:
        """All rows, or channels; of a table of positions the example reads a part, and longer inputs read more."""
        axes = self._analysis.labelling.parameter_axes[name]
        labels = axes.known(0)
        if len(rows) == axes.shape[0] or not isinstance(labels, np.ndarray):
            return len(rows) == axes.shape[0]
        return bool((self._analysis.group_of[self._analysis.components.of[labels[rows]]] >= 0).all())

    def lay(self, source: Any, call: SizedCall) -> None:
        form = self._forms.source(source)
        names = [self._analysis.groups[self._forms.parts.group(s)].name for s in sorted(form.groups)]
        power = as_power(form)
        possible = power is not None and min(form.groups, default=0) >= 0  # only whole groups can be made up for
        if names and not (power and possible and self._is_taken_up(call, source.value, power.exponents)):
            takes = SIZED[call.name].takes if call.name in SIZED else None
            number = f"scalar {in_words(source)} = {source.value:.4g} in {call.name}"
            what = f"the scalar of {call.name}" if takes in (Takes.SCALE, Takes.HEADS) else number
            self.held = self.held.fix(names, (f"the model's code holds this width: {what}", at_line(call.site)))

    def _is_taken_up(self, call: SizedCall, value: float, exponents: Mapping[int, float]) -> bool:
        """Whether weights can take up a number by which a call scales, or that the tensor that it makes holds."""
        if factors := self._factors(call, value):
            shares = {g: e / len(factors) for g, e in exponents.items()}
            return all(self._fold(node, shares) for node in factors)
        made = call.results[0].node if len(call.results) == 1 and call.results[0] else None
        if not isinstance(made, fx.Node) or not _holds_number(made):
            return False
        try:
            uses = list(_uses_of_number(made, 1.0))
        except _NoScalingError:
            return False
        self.held = replace(self.held, folded={**self.held.folded, made.name: exponents})
        return all(self._fold(user, {g: e * power for g, e in exponents.items()}) for user, power in uses)

    def _factors(self, call: SizedCall, value: float) -> list[fx.Node]:
        """The recorded calls that scale by a number: attention scales queries and keys, each by its root."""
        scaling = [n for i in call.nodes if is_scaling(n := self._calls[i])]
        for factors in (scaling[:2], scaling[:1]):
            root = abs(value) ** (1 / max(1, len(factors)))
            if all(isclose(abs(n.args[1]), root, rel_tol=1e-6) for n in factors):  # type: ignore[arg-type]
                return factors
        return []

    def _fold(self, node: fx.Node, exponents: Mapping[int, float]) -> bool:
        """Whether weights can take up what a call multiplies or divides by."""
        if node.name in self.held.folded:
            return True
        rows, calls, degree = self._folding.absorbing_rows(node)
        spec, groups = spec_of_node(node), self._analysis.groups
        sign = (-1 if spec is None else -spec.scaling) / degree
        uses = [ScaleUse(t, r, groups[g].name, sign * e) for t, r in rows for g, e in exponents.items()]
        if rows:
            folded = {**self.held.folded, **dict.fromkeys(calls, exponents)}
            self.held = replace(self.held, scales=(*self.held.scales, *uses), folded=folded)
        return bool(rows)


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
    spec: Any = spec_of_node(node)
    if spec is None:
        return None
    return 1.0 if spec.move in (Move.COPY, Move.CAST) else spec.power(node)  # type: ignore[no-any-return]
