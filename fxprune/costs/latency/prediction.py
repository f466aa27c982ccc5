"""Predicted latency: seconds of one forward for any kept counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fxprune.costs.latency.grid import Floats, Surfaces
from fxprune.errors import InputError
from fxprune.plan.plan import Plan

_BLOCK = 2**18  # times of ops that are looked up at once, 2 MB an array


@dataclass(frozen=True, eq=False, repr=False)
class Latency:
    """Predicted seconds of one forward of a model, for any plan: arithmetic on kept counts.

        seconds = overhead + scale · Σ_calls seconds of the call at its widths

    Called with {group: kept channels} it is a measure of cost for planners. It may fall where a device is quicker with
    more channels (a whole number of blocks). Planners that spend a budget can handle that, and meet the measured budget
    more closely than with `rising`, which never falls when a count rises.

    Attributes:
        groups: names of the groups.
        sizes: their channels, of shape (groups,).
        ops: name of each call's op, in execution order.
        scale: what the ops take in the model, as a part of what they take alone.
        overhead: seconds that no op takes: the model's own code.
        unmeasured: ops that could not be run by themselves, counted; the scale makes up for them on average.
    """

    groups: tuple[str, ...]
    sizes: Floats
    ops: tuple[str, ...]
    scale: float
    overhead: float
    unmeasured: Counter[str]
    _best: Surfaces
    _rising: Surfaces

    def __repr__(self) -> str:
        return f"Latency({len(self.groups)} groups: {1e3 * self.of():.3f} ms)"

    def __call__(self, counts: Mapping[str, int]) -> float:
        """Seconds when `counts` channels of the groups stay; groups that are not named are whole."""
        return float(self._seconds(self._best, self._vector(counts)))

    def many(self, counts: Mapping[str, npt.NDArray[np.int64]]) -> Floats:
        """Seconds of n plans at once, of shape (n,); `counts` are of shape (n,) each, and not none."""
        n = len(next(iter(counts.values())))
        vectors = np.repeat(self.sizes[:, None], n, axis=1)
        vectors[[self._at(name) for name in counts]] = list(counts.values())
        blocks = np.array_split(vectors, max(1, n * len(self.ops) // _BLOCK), axis=1)
        return np.concatenate([self._seconds(self._best, block) for block in blocks])

    def rising(self, counts: Mapping[str, int]) -> float:
        """Seconds that never fall when a count rises.

        Each op counts halfway between the most at smaller widths and the least at larger ones, and the whole model as
        much as in `of`. In an engine, what it takes longer for widths that 4, 8 or 16 do not divide is left out.
        """
        return float(self._seconds(self._rising, self._vector(counts)))

    def of(self, plan: Plan | None = None) -> float:
        """Seconds after `plan`, or of the model as it is."""
        return self(plan.kept_counts() if plan else {})

    def by_op(self, plan: Plan | None = None) -> dict[str, float]:
        """Seconds of each kind of op, and of the model's own code under the name ""; the largest first."""
        each = self.scale * self._best(self._vector(plan.kept_counts() if plan else {}))
        total = Counter({"": self.overhead})
        for op, seconds in zip(self.ops, each.tolist(), strict=True):
            total[op] += seconds
        return dict(total.most_common())

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.groups)}

    def _seconds(self, table: Surfaces, counts: Floats) -> Any:
        return self.overhead + self.scale * table(counts).sum(0)

    def _vector(self, counts: Mapping[str, int]) -> Floats:
        vector = self.sizes.copy()
        for name, count in counts.items():
            vector[self._at(name)] = count
        return vector

    def _at(self, name: str) -> int:
        if name not in self._index:
            raise InputError("no such group", seen=name, remedy="measure the latency of this model's groups")
        return self._index[name]
