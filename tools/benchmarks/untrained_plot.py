"""Plot what `benchmarks.untrained` has measured of one network: accuracy against MACs, without any training.

PYTHONPATH=.:tools python -m benchmarks.untrained_plot digits-resnet20 docs/assets/accuracy.svg
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

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


def main(
    network: Annotated[str, typer.Argument(help="Name of the network.")],
    out: Annotated[Path, typer.Argument(help="The picture.")],
    journal: Annotated[Path, typer.Option(help="Rows of benchmarks.untrained.")] = ROOT / "zoo/results/untrained.jsonl",
) -> None:
    """Write the picture: means over seeds, with the smallest and the largest."""
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["point"]["network"] == network:
            values[row["point"]["contender"]][row["point"]["keep"]].append(100 * row["measured"]["accuracy"])
    mpl.rcParams["svg.hashsalt"] = "fxprune"  # the same picture each time
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name in SHOWN:
        keeps = sorted(values[name])
        means = [sum(values[name][k]) / len(values[name][k]) for k in keeps]
        spread = [
            [m - min(values[name][k]) for k, m in zip(keeps, means, strict=True)],
            [max(values[name][k]) - m for k, m in zip(keeps, means, strict=True)],
        ]
        axes.errorbar([100 * k for k in keeps], means, yerr=spread, marker="o", capsize=2, label=name)
    axes.axhline(values[""][1.0][0], color="grey", linestyle=":", label="not pruned")
    axes.set(
        xlabel="MACs that stay, %", ylabel="test accuracy, %", title=f"{network}, nothing is trained after pruning"
    )
    axes.legend()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
