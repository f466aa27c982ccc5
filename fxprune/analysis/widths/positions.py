"""Positions: reshapes that lay channels over the positions of an image, in parts as long as the image happens to be.

A module that reads (positions, channels) as (channels, height, width) cuts the channels by the size of the input. What
goes for the size that was recorded would be wrong for any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxprune.analysis.labels.dims import MODEL_INPUT, SPATIAL, Factoring
from fxprune.analysis.widths.forms import Forms, Labelled, operands
from fxprune.analysis.widths.script import recorded_calls
from fxprune.tracing.functions import SIZED, Takes
from fxprune.tracing.provenance import Computed, Dim, Run, Site, SizedCall

_LAID = "a reshape that divides them by the size of the input"


def laid_over_positions(forms: Forms, run: Run) -> Iterator[tuple[Any, Site, str]]:
    """The channels that a reshape divides by the number of positions, where, and how, as `Facts.escapes`."""
    nodes = recorded_calls(forms.analysis.labelling.graph.fx)
    splits: dict[Any, list[Factoring]] = {}
    for f in forms.analysis.labelling.labeller.factorings:
        if f.split:
            splits.setdefault(f.node, []).append(f)
    for call in run.calls if splits else ():
        if call.name in SIZED and SIZED[call.name].takes in (Takes.SHAPE, Takes.LIKE):
            for f in (f for i in call.nodes for f in splits.get(nodes[i], ())):
                if any(_lies_in(forms, call, i, f) for i in _positions(forms, call)):
                    yield Labelled(f.flat, len(f.flat)), call.site, _LAID


def _positions(forms: Forms, call: SizedCall) -> Iterator[int]:
    """The dims of a reshape's result, counted from the last, whose lengths follow the positions of an input."""
    if SIZED[call.name].takes is Takes.LIKE:
        axes = forms.axes(call.args[1])
        yield from () if axes is None else (i - len(axes) for i in range(len(axes)) if _is_position(axes.known(i)))
        return
    count = len([1 for _ in _given(call)])
    yield from (i - count for i, source in enumerate(_given(call)) if _follows_positions(forms, source))


def _given(call: SizedCall) -> Iterator[Any]:
    first = call.args[SIZED[call.name].first :]
    yield from first[0] if first and type(first[0]) is tuple else first


def _follows_positions(forms: Forms, source: Any) -> bool:
    if isinstance(source, Computed):
        return any(_follows_positions(forms, side) for side in operands(source))
    return isinstance(source, Dim) and _is_position(forms.labels_of(source))


def _is_position(dim: Any) -> bool:
    return dim in (SPATIAL, MODEL_INPUT) if not hasattr(dim, "__len__") else False


def _lies_in(forms: Forms, call: SizedCall, i: int, split: Factoring) -> bool:
    """Whether a dim of the result is a part of what was split."""
    axes = forms.axes(call.results[0]) if call.results else None
    return axes is not None and len(axes) >= -i and any(axes.known(len(axes) + i) is part for part in split.factors)
