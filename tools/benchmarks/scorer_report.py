"""The points of `benchmarks.scorers` as tables, as a plot, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks.points import TREATMENTS, Measured, ScorerPoint

Rows = Mapping[ScorerPoint, Measured]


def show(rows: Rows, console: Console) -> None:
    """A table for each network, allocation and treatment, means over all networks, and what follows from them."""
    for network, allocation in _pairs(rows):
        for treatment in _of(rows, "treatment", network=network, allocation=allocation):
            before = _percent(whole(rows, network))
            console.print(f"\n{network}, {allocation}, {treatment}: test accuracy (as it is: {before}) at fewer MACs")
            console.print(_table(rows, network, allocation, treatment))
    for allocation in _of(rows, "allocation"):
        console.print(f"\nmean test accuracy over networks and sizes, {allocation}")
        console.print(_means(rows, allocation))
        for line in verdicts(rows, allocation):
            console.print(line, markup=False)


def _pairs(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((p.network, p.allocation) for p in rows if p.scorer))


def _of(rows: Rows, field: str, **where: object) -> list[str]:
    """The values of a field among the points that fit; treatments in their usual order."""
    found = dict.fromkeys(getattr(p, field) for p in rows if p.scorer and _fits(p, where))
    return [t for t in TREATMENTS if t in found] if field == "treatment" else list(found)


def _fits(point: ScorerPoint, where: Mapping[str, object]) -> bool:
    return all(getattr(point, key) == value for key, value in where.items())


def value(rows: Rows, **where: object) -> float | None:
    """The mean accuracy of the points that fit: over seeds, and over whatever else is left open."""
    found = [m.accuracy for p, m in rows.items() if p.scorer and _fits(p, where)]
    return fmean(found) if found else None


def whole(rows: Rows, network: str) -> float | None:
    """The accuracy of the network as it is."""
    return next((m.accuracy for p, m in rows.items() if p.network == network and not p.scorer), None)


def _table(rows: Rows, network: str, allocation: str, treatment: str) -> Table:
    here = {p: m for p, m in rows.items() if _fits(p, {"network": network, "allocation": allocation})}
    table = Table(header_style="bold")
    table.add_column("scorer", no_wrap=True)
    sizes = sorted({p.less for p in here})
    for size in sizes:
        left = fmean(m.macs for p, m in here.items() if p.less == size)
        table.add_column(f"-{100 * size:.0f} %\n({100 * left:.1f} left)", justify="right")
    table.add_column("mean", justify="right")
    found = {}
    for name in _of(here, "scorer"):
        values = [value(here, scorer=name, treatment=treatment, less=size) for size in sizes]
        known = [v for v in values if v is not None]
        if known:
            found[name] = (values, fmean(known), len(known))
    for name, (values, mean, _) in sorted(found.items(), key=lambda item: (-item[1][2], -item[1][1])):
        table.add_row(name, *map(_percent, values), _percent(mean))
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _means(rows: Rows, allocation: str) -> Table:
    """One line a scorer: the mean over all networks and sizes."""
    table = Table(header_style="bold")
    table.add_column("scorer", no_wrap=True)
    treatments = _of(rows, "treatment", allocation=allocation)
    for treatment in treatments:
        table.add_column(treatment, justify="right")
    for name in sorted(complete(rows, allocation), key=lambda n: -(_mean(rows, allocation, n, treatments[-1]) or 0)):
        table.add_row(
            f"{name}{_seeds(rows, allocation, name)}", *(_percent(_mean(rows, allocation, name, t)) for t in treatments)
        )
    return table


def _seeds(rows: Rows, allocation: str, name: str) -> str:
    """How many seeds a random scorer was measured with, if with several anywhere."""
    counts = Counter(
        (p.network, p.less, p.treatment) for p in rows if p.scorer == name and p.allocation == allocation
    ).values()
    least, most = min(counts), max(counts)
    return "" if most == 1 else f" ({most} seeds)" if least == most else f" ({least} to {most} seeds)"


def _mean(rows: Rows, allocation: str, name: str, treatment: str) -> float | None:
    return value(rows, allocation=allocation, scorer=name, treatment=treatment)


def complete(rows: Rows, allocation: str) -> list[str]:
    """The scorers that were measured wherever any was: only they can be compared by means."""

    def cells(name: str | None) -> set[tuple[str, float, str]]:
        return {
            (p.network, p.less, p.treatment)
            for p in rows
            if p.scorer and p.allocation == allocation and name in (None, p.scorer)
        }

    return [n for n in _of(rows, "scorer", allocation=allocation) if cells(n) == cells(None)]


def verdicts(rows: Rows, allocation: str) -> Iterable[str]:
    """Which scorer wins, and whether treatments beat doing nothing on every network."""
    names = complete(rows, allocation)
    left_out = [n for n in _of(rows, "scorer", allocation=allocation) if n not in names]
    if left_out:
        yield f"{allocation}: without all points, and left out of the means: {', '.join(left_out)}"
    for treatment in _of(rows, "treatment", allocation=allocation):
        ranked = sorted(names, key=lambda n: -(_mean(rows, allocation, n, treatment) or 0))
        if ranked:
            text = ", ".join(f"{n} {_percent(_mean(rows, allocation, n, treatment))}" for n in ranked[:3])
            yield f"{allocation}, {treatment}: best mean accuracy of {len(ranked)} scorers: {text}"
    for network in _of(rows, "network", allocation=allocation):
        yield from _gains(rows, network, allocation)


def _gains(rows: Rows, network: str, allocation: str) -> Iterable[str]:
    """How often each treatment is better than none, and by how much."""
    by_treatment: dict[str, dict[tuple[str, int, float], float]] = {}
    for p, m in rows.items():
        if p.scorer and p.network == network and p.allocation == allocation:
            by_treatment.setdefault(p.treatment, {})[p.scorer, p.seed, p.less] = m.accuracy
    nothing = by_treatment.get("none", {})
    for treatment in [t for t in TREATMENTS[1:] if t in by_treatment]:
        both = by_treatment[treatment].keys() & nothing.keys()
        if both:
            gains = [by_treatment[treatment][k] - nothing[k] for k in both]
            better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
            yield (
                f"{network}, {allocation}: {treatment} beats doing nothing at {better} of {len(gains)} points and is "
                f"worse at {worse}; mean gain {100 * fmean(gains):.1f} points"
            )


def plot(rows: Rows, path: Path) -> bool:
    """A grid of networks and treatments, accuracy over the MACs that are left; False if there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs, treatments, names = _pairs(rows), _of(rows, "treatment"), _of(rows, "scorer")
    if not pairs:
        return False
    width, height = 4.6 * len(treatments), 3.6 * len(pairs) + 0.25 * len(names) / len(treatments)
    figure, axes = pyplot.subplots(
        len(pairs), len(treatments), figsize=(width, height), squeeze=False, layout="constrained"
    )
    styles = {name: _style(i, name) for i, name in enumerate(names)}
    for (network, allocation), line in zip(pairs, axes, strict=True):
        for treatment, axis in zip(treatments, line, strict=True):
            for name in names:
                points = _line(rows, network=network, allocation=allocation, treatment=treatment, scorer=name)
                axis.plot(*points, markersize=3, linewidth=1, label=name, **styles[name])
            if (before := whole(rows, network)) is not None:
                axis.axhline(100 * before, color="grey", linewidth=0.6)
            axis.set_title(f"{network}, {allocation}: {treatment}", fontsize=9)
            axis.set_xlabel("MACs left, %", fontsize=8)
        line[0].set_ylabel("test accuracy, %", fontsize=8)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2 * len(treatments), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _style(index: int, name: str) -> dict[str, str]:
    """Ten colours, another marker for each round of them, and dashes for Torch-Pruning's."""
    dashes = "--" if name.startswith("TP") else "-"
    return {"color": f"C{index % 10}", "marker": "osDv^"[index // 10 % 5], "linestyle": dashes}


def _line(rows: Rows, **where: object) -> tuple[list[float], list[float]]:
    """MACs left and accuracy, in percent, the mean over seeds of each size."""
    found: dict[float, list[Measured]] = {}
    for p, m in rows.items():
        if p.scorer and _fits(p, where):
            found.setdefault(p.less, []).append(m)
    means = [(fmean(m.macs for m in ms), fmean(m.accuracy for m in ms)) for _, ms in sorted(found.items())]
    return [100 * x for x, _ in means], [100 * y for _, y in means]
