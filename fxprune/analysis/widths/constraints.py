"""What is known of the widths in a model's code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.grouping.steps import Limited, Steps
from fxprune.analysis.labels.dims import Labels
from fxprune.analysis.widths.polynomials import Form, Parts
from fxprune.plan.plan import Ints

Reason = tuple[str, str]


@dataclass(frozen=True, eq=False)
class ScaleUse:
    """Weights to be multiplied by (kept part of `group`) ** `exponent`, so that a scalar in the code keeps its effect.

    Attributes:
        tensor: a weight or bias.
        rows: positions along its first dim.
        group: the group whose width the scalar follows.
        exponent: how it follows.
    """

    tensor: str
    rows: Ints
    group: str
    exponent: float


class Mend(NamedTuple):
    """An attribute, or a literal in a module's code, and the number that it must be."""

    module: str
    name: str
    form: Form


@dataclass(frozen=True, eq=False)
class Held:
    """What the model's code holds.

    Attributes:
        fixed: groups that cannot shrink: {group: (reason, where)}.
        ties: sets of groups that must keep the same part of their channels.
        mends: attributes and literals that follow widths.
        parts: what the negative numbers in their forms stand for.
        scales: weights that absorb a scalar which follows a width.
        folded: names of the graph nodes whose scalar has been taken care of, each with {group: exponent}.
        refused: {group: counts that would turn a comparison in the code, or leave a number there that is not whole}.
        cuts: parts of groups, as components, of which the code takes one for a part of all by its number: they can
            shrink where each part is a group of its own.
    """

    fixed: Mapping[str, Reason] = field(default_factory=dict)
    ties: tuple[frozenset[str], ...] = ()
    mends: tuple[Mend, ...] = ()
    parts: Parts | None = None
    scales: tuple[ScaleUse, ...] = ()
    folded: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    refused: Mapping[str, frozenset[int]] = field(default_factory=dict)
    cuts: tuple[Labels, ...] = ()

    def attributes(
        self, analysis: Analysis, counts: Mapping[str, int], keep: npt.NDArray[np.bool_]
    ) -> dict[str, dict[str, int]]:
        """New values of the attributes and literals that follow widths, for the kept channels of each group by name,
        and the components that stay (`Analysis.keep`).
        """
        groups, parts = analysis.groups, self.parts
        found: dict[str, dict[str, int]] = {}

        def count(symbol: int) -> int:
            assert parts is not None
            return parts.kept(symbol, keep) if symbol < 0 else counts.get(groups[symbol].name, groups[symbol].size)

        for module, name, form in self.mends:
            new = int(form.at(count))
            if parts is not None and new != form.at(parts.size):
                found.setdefault(module, {})[name] = new
        return found

    def tied_with(self, name: str) -> frozenset[str]:
        """The group and those tied to it."""
        return next((t for t in self.ties if name in t), frozenset([name]))

    def steps(self, analysis: Analysis, names: Iterable[str]) -> Steps | None:
        """How tied groups, or a single one, can shrink together; None if they cannot."""
        found = analysis.steps(names)
        refused = {n: self.refused[n] for n in found.names & self.refused.keys()} if found is not None else {}
        return Limited(found, refused) if found is not None and refused else found

    def refuse(self, name: str, counts: Iterable[int]) -> Held:
        """The named group, a tie of its own if nothing else, cannot have these counts."""
        known = self.refused.get(name)
        both = frozenset(known or ()).union(counts)
        return self if both == known else replace(self.tie([name]), refused={**self.refused, name: both})

    def tie(self, names: Iterable[str]) -> Held:
        """The named groups, and all that are tied to one of them, become one tie; fixed if one of them is."""
        joined = frozenset(names)
        lost = next((self.fixed[n] for n in joined if n in self.fixed), None)
        if lost is not None:
            return self.fix(joined, lost)
        apart = [t for t in self.ties if not t & joined]
        touching = [t for t in self.ties if t & joined]
        return replace(self, ties=(*apart, joined.union(*touching)))

    def fix(self, names: Iterable[str], reason: Reason) -> Held:
        """The named groups, and all that are tied to one of them, are fixed; the first reason stays."""
        new = {n for name in names for n in self.tied_with(name)} - self.fixed.keys()
        fixed = {**dict.fromkeys(new, reason), **self.fixed}
        return replace(self, fixed=fixed, ties=tuple(t for t in self.ties if not t & new)) if new else self
