"""Price: what widths cost, exactly, for many widths at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fxprune.analysis.groups import Groups
from fxprune.costs.latency import Latency
from fxprune.costs.macs import CostModel
from fxprune.errors import InputError, check_called, shown
from fxprune.plan.plan import Ints
from fxprune.planners.allocation.units import Unit

Floats = npt.NDArray[np.float64]
Measure = Literal["macs", "parameters"] | Callable[[Mapping[str, int]], float]
"""What is counted: MACs, parameters, or any function of {group: kept channels}. It should not fall when a count rises;
where it does here and there, as measured latencies do, plans still meet their budget but may not be the best ones."""


def check_measure(measure: object) -> None:
    """Refuse what is no measure.

    Raises:
        InputError: it is another name, no function, or one that does not take {group: kept channels} alone.
    """
    if callable(measure):
        check_called("the measure", measure, "give a function of {group: kept channels}", arguments=1)
    elif not isinstance(measure, str) or measure not in ("macs", "parameters"):
        raise InputError("unknown measure of cost", seen=shown(measure), remedy="'macs', 'parameters' or a function")


class Price:
    """The cost of widths of the units.

    Args:
        groups: the groups of a model.
        units: groups, or sets of tied groups, whose widths are numbers of parts.
        measure: MACs, parameters, or a function of kept counts.

    Raises:
        InputError: no measure; when called, a function's value that is NaN, infinite or negative.
    """

    def __init__(self, groups: Groups, units: Sequence[Unit], measure: Measure) -> None:
        self._units = units
        check_measure(measure)
        self._evaluate = self._own(measure) if callable(measure) else self._model(groups, measure)

    def __call__(self, parts: Ints) -> Any:
        """The cost at `parts` of each unit, of shape (units,); or (n,) costs of shape (units, n)."""
        return self._evaluate(parts)

    def _model(self, groups: Groups, measure: str) -> Callable[[Ints], Any]:
        model = CostModel(groups.analysis)
        cost = model.macs if measure == "macs" else model.parameters
        index = {name: i for i, name in enumerate(model.groups)}
        rows = [index[name] for unit in self._units for name in unit.names]

        def evaluate(parts: Ints) -> Any:
            beside = tuple([1] * (parts.ndim - 1))
            counts = np.broadcast_to(model.sizes.reshape(-1, *beside), (len(model.sizes), *parts.shape[1:])).copy()
            if rows:
                counts[rows] = np.concatenate([unit.kept[:, p] for unit, p in zip(self._units, parts, strict=True)])
            return cost(counts)

        return evaluate

    def _own(self, measure: Callable[[Mapping[str, int]], float]) -> Callable[[Ints], Any]:
        if isinstance(measure, Latency) and self._units:
            return partial(self._seconds, measure)

        def one(parts: Ints) -> float:
            counts = {n: c for unit, p in zip(self._units, parts, strict=True) for n, c in unit.counts(p).items()}
            return _number(float(measure(counts)), counts)

        return lambda parts: one(parts) if parts.ndim == 1 else np.array([one(column) for column in parts.T])

    def _seconds(self, latency: Latency, parts: Ints) -> Any:
        """Predicted latencies, of many widths in one look at its tables."""
        each = parts if parts.ndim == 2 else parts[:, None]
        counts: dict[str, Ints] = {}
        for unit, p in zip(self._units, each, strict=True):
            counts |= dict(zip(unit.names, unit.kept[:, p], strict=True))
        seconds = latency.many(counts)
        wrong = ~((seconds >= 0) & (seconds < math.inf))
        if wrong.any():
            _number(float(seconds[wrong][0]), {n: int(kept[wrong][0]) for n, kept in counts.items()})
        return seconds if parts.ndim == 2 else float(seconds[0])


def _number(value: float, counts: Mapping[str, int]) -> float:
    """Refuse what is no cost: comparisons with NaN are false, so that a search for widths would keep everything."""
    if not 0 <= value < math.inf:
        remedy = "let the measure return a finite number of at least 0, such as seconds"
        raise InputError("the measured cost is no number", seen=f"{value} for {counts}"[:120], remedy=remedy)
    return value
