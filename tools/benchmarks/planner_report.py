"""The results of `benchmarks.planners` as one table, as one plot, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, mode, stdev
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from benchmarks.points import PlannerPoint, Result

Rows = Mapping[PlannerPoint, Result]

HEADER = (
    *("network", "to stay", "planner", "MACs left", "parameters left", "latency left", "before", "after"),
    *("after, by seed", "trained", "forward", "in all", "images forward", "CPU s"),
)
CLAIMS = (
    ("the contribution rate beats one global rate at equal MACs", "contribution rate", "uniform permutation"),
    ("the same, both refitted", "contribution rate, refitted", "uniform permutation, refitted"),
    ("the contribution rate beats one global rate with L1 norms", "contribution rate", "uniform L1"),
    ("zeroing does as well as re-ordering", "uniform zeroing", "uniform permutation"),
    ("re-initialising does as well as re-ordering", "uniform re-initialising", "uniform permutation"),
    ("real images beat random ones fed to each layer", "uniform permutation", "uniform permutation, noise"),
    ("PCP beats one-shot", "PCP", "one-shot LASSO"),
    ("PCP as published beats one-shot", "PCP, published", "one-shot LASSO"),
    ("PCP as published beats PCP with layers together", "PCP, published", "PCP"),
    ("channel samplers help PCP", "PCP, samplers", "PCP, published"),
    ("steps of 0.05 help PCP as published", "PCP, published, steps of 0.05", "PCP, published"),
    ("a checkpoint of one search is as good as a search of its own", "PCP, of one search", "PCP, published"),
    ("PCP beats one-shot without least squares", "PCP", "uniform L1"),
    ("the bee colony beats uniform", "bee colony", "uniform L1"),
    ("the bee colony with repairs beats uniform, refitted", "bee colony, refitted", "uniform L1, refitted"),
    ("210 evaluations of the same beat uniform, refitted", "bee colony of 210, refitted", "uniform L1, refitted"),
    ("the bee colony on error curves beats uniform", "bee colony, curves", "uniform elimination"),
    *(
        ("one call is ahead of the others", "prune(data=)", other)
        for other in (
            *("one-shot LASSO", "uniform elimination", "uniform L1, refitted", "contribution rate, refitted"),
            *("uniform permutation, refitted", "TP local", "TP global", "uniform FPGM", "uniform NISP"),
        )
    ),
)
"""What was claimed, who is to win, and against whom; the two differ in the planner alone where that is possible."""


def show(rows: Rows, console: Console) -> None:
    """The table, and what follows from it."""
    table = Table(header_style="bold")
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i in (0, 2) else "right", no_wrap=i == 2)
    for cells in lines(rows):
        table.add_row(*cells)
    console.print(table)
    for line in (*spread(rows), *verdicts(rows)):
        console.print(line, markup=False)


def markdown(rows: Rows) -> str:
    """The same as Markdown."""
    rule = ["---" if i in (0, 2) else "---:" for i in range(len(HEADER))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADER, rule, *lines(rows)))
    said = "\n".join(f"- {line}" for line in (*spread(rows), *verdicts(rows)))
    commits = ", ".join(sorted({r.commit or "unknown" for r in rows.values()}))
    return f"{table}\n\n{LEGEND}\n\n{said}\n\nCommit: {commits}\n"


LEGEND = (
    "Latency left: measured by turns with the original, one thread, 32 images. "
    "Test accuracy in percent, mean ± standard deviation over seeds. Search cost, the tuning that all get left out: "
    "epochs trained, epochs of forward passes, both together (three forward are taken for one trained), images in "
    'forward passes, seconds of CPU. Differences: mean ± standard error by the spread over seeds; "holds" asks for a '
    "mean above zero by Student's t at 5 % and for every cell above zero. All share the test images: not in it."
)


def cells_of(rows: Rows) -> dict[tuple[str, float, str], list[Result]]:
    """Results over seeds, by network, part that is to stay, and contender; networks and contenders as they came."""
    found: dict[tuple[str, float, str], list[Result]] = {}
    networks, names = (list(dict.fromkeys(getattr(p, f) for p in rows)) for f in ("network", "contender"))
    order = sorted(rows, key=lambda p: (networks.index(p.network), -p.left, names.index(p.contender), p.seed))
    for p in order:
        found.setdefault((p.network, p.left, p.contender), []).append(rows[p])
    return found


def lines(rows: Rows) -> Iterator[tuple[str, ...]]:
    """The cells of the table."""
    for (network, left, contender), results in cells_of(rows).items():
        n = len(results)
        yield (
            network,
            "" if left == 1 else f"{100 * left:.0f} %",
            contender,
            f"{100 * sum(r.macs for r in results) / n:.1f} %",
            f"{100 * sum(r.parameters for r in results) / n:.1f} %",
            _latency(results),
            _accuracy([r.before for r in results]),
            _accuracy([r.after for r in results]),
            ", ".join(f"{100 * r.after:.2f}" for r in results),
            f"{sum(r.trained / r.epoch for r in results) / n:.1f}",
            f"{sum(r.seen / r.epoch for r in results) / n:.2f}",
            f"{sum(r.epochs for r in results) / n:.2f}",
            f"{sum(r.seen for r in results) / n:,.0f}",
            f"{sum(r.seconds for r in results) / n:.1f}",
        )


def _accuracy(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def _latency(results: Sequence[Result]) -> str:
    known = [r.latency for r in results if r.latency is not None]
    return f"{100 * fmean(known):.1f} %" if known else ""


def spread(rows: Rows) -> Iterator[str]:
    """How far contenders are from the MACs that they were to keep, and whether all cells have as many seeds and were
    tuned alike.
    """
    far = [(abs(r.macs - p.left), p) for p, r in rows.items() if p.left < 1]
    if far:
        distance, p = max(far, key=lambda f: f[0])
        where = f"{p.contender} on {p.network} at {100 * p.left:.0f} %"
        yield f"farthest from the MACs that were to stay: {100 * distance:.1f} points ({where})"
    counts = {key: len(results) for key, results in cells_of(rows).items()}
    usual = mode(counts.values())
    for word, sign in (("fewer", -1), ("more", 1)):
        if others := [f"{n}, {c} at {left:g}: {k}" for (n, left, c), k in counts.items() if sign * (k - usual) > 0]:
            yield f"of {word} than {usual} seeds: {'; '.join(others)}"
    tuned = dict[tuple[str, float], set[tuple[str, str]]]()
    for p, r in rows.items():
        tuned.setdefault((p.network, p.left), set()).add((r.device, r.precision))
    # Rows that do not state their precision have the protocol's, whatever that was on their device.
    several = {k: v for k, v in tuned.items() if len({d for d, _ in v}) > 1 or len({p for _, p in v if p}) > 1}
    mixed = [
        f"{n} at {left:g} ({', '.join(sorted(' '.join(h).strip() for h in v))})" for (n, left), v in several.items()
    ]
    if mixed:
        yield f"tuned on several devices or in several precisions, pairs included: {'; '.join(mixed)}"


@dataclass(frozen=True)
class Duel:
    """Differences in points between two contenders, each of the same network, MACs and seed.

    Attributes:
        by_cell: by network and part to stay.
    """

    by_cell: Mapping[tuple[str, float], Sequence[float]]

    @property
    def all(self) -> list[float]:
        return [d for ds in self.by_cell.values() for d in ds]

    @property
    def mean(self) -> float:
        return fmean(self.all)

    @property
    def error(self) -> float:
        """Standard error of the mean, from the spread within the cells alone: what other seeds would change."""
        inside = sum((d - fmean(ds)) ** 2 for ds in self.by_cell.values() for d in ds)
        return math.sqrt(inside / self.freedom / len(self.all)) if self.freedom else math.nan

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error."""
        return len(self.all) - len(self.by_cell)

    def verdict(self) -> str:
        """Holds: above 0 by Student's t at 5 % (two-sided) and ahead in every cell; the reverse: likewise below."""
        means = [fmean(ds) for ds in self.by_cell.values()]
        least = self.error * float(student.ppf(0.975, max(self.freedom, 1)))
        for sign, text in ((1, "holds"), (-1, "the reverse holds")):
            if sign * self.mean > least:
                everywhere = all(sign * m > 0 for m in means)
                return text if everywhere else f"{text} on average, not everywhere"
        return "not shown"

    def __str__(self) -> str:
        won, lost = sum(d > 0 for d in self.all), sum(d < 0 for d in self.all)
        parts = ", ".join(f"{n} {100 * left:.0f} %: {fmean(ds):+.2f}" for (n, left), ds in self.by_cell.items())
        return f"{self.mean:+.2f} ± {self.error:.2f} points, {won} of {len(self.all)} pairs won, {lost} lost ({parts})"


def duel(rows: Rows, first: str, second: str, of: Callable[[Result], float]) -> Duel | None:
    """The differences between two contenders; None if they never met."""
    by_cell: dict[tuple[str, float], list[float]] = {}
    other = {(p.network, p.left, p.seed): of(r) for p, r in rows.items() if p.contender == second}
    for p, r in rows.items():
        if p.contender == first and (p.network, p.left, p.seed) in other:
            difference = of(r) - other[p.network, p.left, p.seed]
            by_cell.setdefault((p.network, p.left), []).append(100 * difference)
    return Duel(by_cell) if by_cell else None


def verdicts(rows: Rows) -> Iterable[str]:
    """Each claim, after and before tuning."""
    for claim, first, second in CLAIMS:
        for when, of in (("after tuning", _after), ("before tuning", _before)):
            if met := duel(rows, first, second, of):
                yield f'"{claim}" ({first} against {second}), {when}: {met.verdict()}; {met}'


def _after(r: Result) -> float:
    return r.after


def _before(r: Result) -> float:
    return r.before


def _macs(r: Result) -> float:
    return r.macs


def _latency_of(r: Result) -> float:
    return r.latency or 0.0


def plot(rows: Rows, path: Path) -> None:
    """A column a network: accuracy over MACs before and after tuning, over the search's cost, and over latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks, names = (list(dict.fromkeys(getattr(p, f) for p in rows)) for f in ("network", "contender"))
    figure, axes = pyplot.subplots(
        4, len(networks), figsize=(4.8 * len(networks), 14.5), squeeze=False, layout="constrained"
    )
    found = cells_of(rows)
    for network, column in zip(networks, axes.T, strict=True):
        for i, name in enumerate(names):
            here = [results for (n, _, c), results in found.items() if (n, c) == (network, name)]
            style = {"label": name, "linestyle": "--" if name[:3] == "TP " else "-", **_style(i)}
            _line(column[0], here, _macs, _before, **style)
            _line(column[1], here, _macs, _after, **style)
            timed = [[r for r in results if r.latency is not None] for results in here]
            _line(column[3], [results for results in timed if results], _latency_of, _after, **style)
            for results in here:
                _dot(column[2], results, **_style(i))
        _label(column, network)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2 * len(networks), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _style(index: int) -> dict[str, str]:
    return {"color": f"C{index % 10}" if index else "black", "marker": "osDv^<>"[index % 7]}


def _dot(axis: Any, results: Sequence[Result], **style: Any) -> None:
    cost, accuracy, macs = (fmean(map(of, results)) for of in (lambda r: r.epochs, _after, lambda r: r.macs))
    axis.scatter([cost], [100 * accuracy], s=20 + 60 * macs, **style)


def _line(
    axis: Any,
    cells: Sequence[Sequence[Result]],
    over: Callable[[Result], float],
    of: Callable[[Result], float],
    **style: Any,
) -> None:
    left = [100 * fmean(map(over, results)) for results in cells]
    means = [100 * fmean(map(of, results)) for results in cells]
    errors = [100 * stdev(map(of, results)) if len(results) > 1 else 0.0 for results in cells]
    axis.errorbar(left, means, errors, markersize=4, linewidth=1, capsize=2, **style)


def _label(column: Sequence[Any], network: str) -> None:
    texts = (
        (f"{network}, before tuning", "MACs left, %"),
        (f"{network}, after tuning", "MACs left, %"),
        (f"{network}, after tuning (larger: more MACs)", "search cost, epochs of training"),
        (f"{network}, after tuning", "measured latency left, %"),
    )
    for axis, (title, below) in zip(column, texts, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(below, fontsize=8)
        axis.set_ylabel("test accuracy, %", fontsize=8)
    column[2].set_xscale("symlog", linthresh=0.1)
