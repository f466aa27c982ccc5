"""Plot what `benchmarks.untrained` has measured of networks: accuracy against MACs and measured latency, without any
training.

PYTHONPATH=.:tools python -m benchmarks.untrained_plot digits-resnet20 --out docs/assets/accuracy.svg
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
    "LASSO, one ratio, repaired",
    "L2, one ratio, re-calibrated",
    "Torch-Pruning, local, re-calibrated",
    "Torch-Pruning, local, bare",
)


Cells = dict[str, dict[float, list[dict[str, float]]]]


def main(
    networks: Annotated[list[str], typer.Argument(help="Names of networks, a line of the picture each.")],
    out: Annotated[Path, typer.Option(help="The picture.")],
    journal: Annotated[Path, typer.Option(help="Rows of benchmarks.untrained.")] = ROOT / "zoo/results/untrained.jsonl",
    images: Annotated[int, typer.Option(help="Of so many calibration inputs of the network's own.")] = 512,
) -> None:
    """Write the picture: means over seeds, with the smallest and the largest."""
    rows = list(map(json.loads, journal.read_text().splitlines()))
    every = {network: _cells(rows, network, images) for network in networks}
    timed = any(r.get("latency") is not None for c in every.values() for n in SHOWN for k in c[n].values() for r in k)
    over = {"macs": "MACs that stay, %"} | ({"latency": "latency that stays, %, measured"} if timed else {})
    mpl.rcParams["svg.hashsalt"] = "fxprune"  # the same picture each time
    size = 5.2 * len(over) + 1.2 * (len(over) == 1), 3.6 * len(networks)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(networks), len(over), squeeze=False)
    for line, (network, cells) in zip(grid, every.items(), strict=True):
        of = "accuracy" if cells[""][1.0][0]["accuracy"] is not None else "agreement"
        for axes, (quantity, label) in zip(line, over.items(), strict=True):
            for name in SHOWN:
                _line(axes, cells[name], quantity, of, name)
            axes.axhline(100 * cells[""][1.0][0][of], color="grey", linestyle=":", label="not pruned")
            axes.set(xlabel=label, ylabel=f"test {of}, %", title=network if len(networks) > 1 else "")
    figure.axes[0].legend(fontsize="small")
    of_what = f"{networks[0]}, nothing" if len(networks) == 1 else "Nothing"
    figure.suptitle(f"{of_what} is trained after pruning", fontsize="medium")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def _cells(rows: list[Any], network: str, images: int) -> Cells:
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        point = row["point"]
        if point["network"] == network and point["images"] in (0, images) and not point.get("domain"):
            cells[point["contender"]][point["keep"]].append(row["measured"])
    return cells


def _line(axes: Any, cells: dict[float, list[dict[str, float]]], over: str, of: str, label: str) -> None:
    known = [[r for r in rows if r.get(over) is not None] for _, rows in sorted(cells.items())]
    points = [([100 * r[over] for r in rows], [100 * r[of] for r in rows]) for rows in known if rows]
    means = [fmean(values) for _, values in points]
    spread = [[max(0.0, m - min(v)) for m, (_, v) in zip(means, points, strict=True)]]
    spread += [[max(0.0, max(v) - m) for m, (_, v) in zip(means, points, strict=True)]]
    axes.errorbar([fmean(left) for left, _ in points], means, yerr=spread, marker="o", capsize=2, label=label)


if __name__ == "__main__":
    typer.run(main)
