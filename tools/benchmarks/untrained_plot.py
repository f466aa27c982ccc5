"""Plot what `benchmarks.untrained` has measured of one network: accuracy against MACs and measured
latency, without any training.

PYTHONPATH=.:tools python -m benchmarks.untrained_plot digits-resnet20 docs/assets/accuracy.svg
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
SHOWN = (
    "prune(data=)",
    "L2, one ratio, re-calibrated",
    "Torch-Pruning, local, re-calibrated",
    "Torch-Pruning, local, bare",
)


Cells = dict[str, dict[float, list[dict[str, float]]]]


def main(
    network: Annotated[str, typer.Argument(help="Name of the network.")],
    out: Annotated[Path, typer.Argument(help="The picture.")],
    journal: Annotated[Path, typer.Option(help="Rows of benchmarks.untrained.")] = ROOT / "zoo/results/untrained.jsonl",
    images: Annotated[int, typer.Option(help="Of so many calibration inputs of the network's own.")] = 512,
) -> None:
    """Write the picture: means over seeds, with the smallest and the largest."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in map(json.loads, journal.read_text().splitlines()):
        point = row["point"]
        if point["network"] == network and point["images"] in (0, images) and not point.get("domain"):
            cells[point["contender"]][point["keep"]].append(row["measured"])
    mpl.rcParams["svg.hashsalt"] = "fxprune"  # the same picture each time
    of = "accuracy" if cells[""][1.0][0]["accuracy"] is not None else "agreement"
    timed = all(r.get("latency") is not None for name in SHOWN for rows in cells[name].values() for r in rows)
    over = {"macs": "MACs that stay, %"} | ({"latency": "latency that stays, %, measured"} if timed else {})
    figure = Figure(figsize=(5.2 * len(over) + 1.2 * (len(over) == 1), 3.6), layout="constrained")
    for axes, (quantity, label) in zip(figure.subplots(1, len(over), squeeze=False)[0], over.items(), strict=True):
        for name in SHOWN:
            _line(axes, cells[name], quantity, of, name)
        axes.axhline(100 * cells[""][1.0][0][of], color="grey", linestyle=":", label="not pruned")
        axes.set(xlabel=label, ylabel=f"test {of}, %")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{network}, nothing is trained after pruning", fontsize="medium")
    figure.savefig(out, metadata={"Date": None})


def _line(axes: Any, cells: dict[float, list[dict[str, float]]], over: str, of: str, label: str) -> None:
    points = [([100 * r[over] for r in rows], [100 * r[of] for r in rows]) for _, rows in sorted(cells.items())]
    means = [fmean(values) for _, values in points]
    spread = [[m - min(v) for m, (_, v) in zip(means, points, strict=True)]]
    spread += [[max(v) - m for m, (_, v) in zip(means, points, strict=True)]]
    axes.errorbar([fmean(left) for left, _ in points], means, yerr=spread, marker="o", capsize=2, label=label)


if __name__ == "__main__":
    typer.run(main)
