"""Plots for notebooks; they need matplotlib (`pip install 'fxprune[plots]'`), which is imported when one is drawn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_kind
from fxprune.planners.contribution import CumulativeContribution

_COLUMNS = 4
_MOST = 24  # panels of a figure
_RATES = (0.2, 0.4, 0.6, 0.8, 0.9)


def plot_scores(scores: Mapping[str, Tensor]) -> Any:
    """The scores of each group, largest first; a panel a group, of the first 24.

    Args:
        scores: what a scorer returns.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: matplotlib is missing, or there are no scores.
    """
    check_kind("the scores", scores, Mapping, "give what a scorer returns")
    values = {name: np.sort(s.detach().cpu().double().numpy())[::-1] for name, s in scores.items()}
    return _panels(values, "channel, largest score first", "score")


def plot_curves(curves: Mapping[str, Any]) -> Any:
    """The error of each group at every width, from `JointElimination().curves(...)`; a panel a group.

    Args:
        curves: {group: error curve}.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: matplotlib is missing, or there are no curves.
    """
    check_kind("the curves", curves, Mapping, "give what JointElimination().curves returns")
    return _panels({name: np.asarray(c.errors) for name, c in curves.items()}, "channels removed", "error")


def plot_widths(
    groups: Groups, scores: Mapping[str, Tensor], family: Callable[[float], Any] = CumulativeContribution
) -> Any:
    """The part of each group that stays, for each number of a family of planners; one picture, a line a number.

    Args:
        groups: the groups of a model.
        scores: what a scorer returns for them.
        family: a number in (0, 1) to a planner; default one contribution rate for all groups.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: matplotlib is missing, or there is no group.
    """
    figure, (axes,) = _figure(1, 1, bool(len(groups)))
    names = [g.name for g in groups]
    for rate in _RATES:
        counts = family(rate)(groups, scores).kept_counts()
        axes.plot(names, [counts[g.name] / g.size for g in groups], "o-", label=f"{rate:g}")
    axes.tick_params(axis="x", rotation=90, labelsize=6)
    axes.set(xlabel="group", ylabel="part that stays", ylim=(0, 1.05))
    axes.legend()
    return figure


def plot_history(history: Any, cost: str = "macs") -> Any:
    """What a search tried: the quality of each candidate against its cost, in the order in which they were tried.

    Args:
        history: a `Search`, or the history of one or of a report: a sequence whose entries have a cost and a score or
            fitness.
        cost: "macs" or "parameters".

    Returns:
        A matplotlib figure: on the left in order, on the right quality against cost.

    Raises:
        InputError: matplotlib is missing, or nothing was tried.
    """
    tries: Sequence[Any] = getattr(history, "history", history)
    points = [(getattr(tried.cost, cost), _quality(tried), getattr(tried, "accepted", True)) for tried in tries]
    figure, (left, right) = _figure(1, 2, bool(points))
    left.plot([quality for _, quality, _ in points], "o-", color="#3b4252")
    left.set(xlabel="candidate", ylabel="quality")
    for taken, mark, label in ((True, "o", "accepted"), (False, "x", "not accepted")):
        some = [(c, q) for c, q, accepted in points if accepted is taken]
        if some:
            right.plot(*zip(*some, strict=True), mark, label=label, color="#2b6cb0" if taken else "#e5484d")
    right.set(xlabel=cost, ylabel="quality")
    right.legend()
    return figure


def plot_tradeoff(points: Mapping[str, Sequence[tuple[float, float]]], cost: str = "part of the MACs") -> Any:
    """Quality against cost, a line for each method.

    Args:
        points: {method: (cost, quality) pairs}.
        cost: what the cost is, for the axis.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: matplotlib is missing, or there are no points.
    """
    check_kind("the points", points, Mapping, "give {method: [(cost, quality), ...]}")
    figure, (axes,) = _figure(1, 1, any(points.values()))
    for name, pairs in points.items():
        axes.plot(*zip(*sorted(pairs), strict=True), "o-", label=name)
    axes.set(xlabel=cost, ylabel="quality")
    axes.legend()
    return figure


def _quality(tried: Any) -> float:
    return float(tried.score if hasattr(tried, "score") else tried.fitness)


def _panels(values: Mapping[str, Any], across: str, up: str) -> Any:
    shown = list(values.items())[:_MOST]
    columns = min(_COLUMNS, max(1, len(shown)))
    figure, axes = _figure(-(-max(1, len(shown)) // columns), columns, bool(shown))
    for panel in axes[len(shown) :]:
        panel.set_visible(False)
    for panel, (name, numbers) in zip(axes, shown, strict=False):
        panel.plot(numbers, color="#3b4252")
        panel.set_title(name, fontsize=8, wrap=True)
    axes[0].set(xlabel=across, ylabel=up)
    return figure


def _figure(rows: int, columns: int, there: bool) -> tuple[Any, list[Any]]:
    """A figure with panels, made without touching the state of pyplot."""
    if not there:
        raise InputError("nothing to plot", remedy="give scores, curves or a history that are not empty")
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        remedy = "pip install 'fxprune[plots]'"
        raise InputError("plots need matplotlib", seen=str(error), remedy=remedy) from error
    figure = module.Figure(figsize=(3.2 * columns + 1, 2.2 * rows + 0.6), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns)))
