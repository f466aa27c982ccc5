"""What the ranking of weight permutation depends on: images, batch size, seed, kind of change, distance, inputs.

    PYTHONPATH=.:tools python -m benchmarks.rankings  # digits-resnet20: seconds on one core
    PYTHONPATH=.:tools python -m benchmarks.rankings fashion-vgg16 --plot runs/fashion-vgg16  # and the curves

Each row is a way to score; its number is the Spearman rank correlation of its channels with those of the exact score on
1,024 training images, the mean over groups and the smallest. `--plot` draws importance in each layer (figures 3-6, 3-7
of the thesis) and widths against the contribution rate (figure 4-4). No label and no test image is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.lab import Lab
from fxprune import report, scorers
from fxprune.scorers import SampledPermutation, WeightPermutation


def settings(lab: Lab, images: int) -> Iterator[tuple[str, scorers.Scorer, list[Tensor]]]:
    """What is compared with the exact score on all images."""
    other = lab.seeded(1).batches(images)
    whole = torch.cat(lab.batches(images))
    for count in (16, 64, 256):
        yield f"exact, {count} images", WeightPermutation(), [whole[:count]]
    yield "exact, other images", WeightPermutation(), other
    for seed in (0, 1):
        yield f"sampled, one draw, seed {seed}", SampledPermutation(samples=1, seed=seed), [whole]
    for size in (8, 64):
        yield f"sampled, one draw, batches of {size}", SampledPermutation(samples=1), list(whole.split(size))
    yield "zeroed", WeightPermutation("zero"), [whole]
    yield "re-initialised", WeightPermutation("reinit"), [whole]
    yield "noise through the network", WeightPermutation(), [torch.randn_like(whole)]
    yield "noise fed to each layer", WeightPermutation(inputs="noise"), [whole]
    yield "behind the batch norm", WeightPermutation(scale="bn"), [whole]
    yield "relative", WeightPermutation(distance="relative"), [whole]
    for distance in ("cosine", "ssim"):
        yield f"{distance} distance", SampledPermutation(distance=distance), [whole[:256]]  # type: ignore[arg-type]
    yield "L2 norm", scorers.L2Norm(), [whole]


def agreement(scores: dict[str, Tensor], exact: dict[str, Tensor]) -> tuple[float, float]:
    """The rank correlations of the groups: mean and smallest."""
    found = [float(spearmanr(scores[n].numpy(), exact[n].numpy()).statistic) for n in exact if len(exact[n]) > 2]
    return float(np.mean(found)), min(found)


def main(
    network: Annotated[str, typer.Argument(help="Of the zoo.")] = "digits-resnet20",
    images: Annotated[int, typer.Option(min=256, help="Training images.")] = 1024,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves; the beginning of the files' names.")] = None,
) -> None:
    """Compare rankings of weight permutation."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lab = Lab(network)
    exact = WeightPermutation()(lab.model, lab.groups, lab.batches(images))
    table = Table(title=f"{network}: rank correlation with the exact score on {images} images", header_style="bold")
    for column in ("score", "mean over groups", "smallest"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, scorer, data in settings(lab, images):
        mean, least = agreement(scorer(lab.model, lab.groups, data), exact)
        table.add_row(name, f"{mean:.3f}", f"{least:.3f}")
    Console(width=100).print(table)
    if plot is not None:
        report.plot_scores(exact).savefig(f"{plot}-importance.png")
        report.plot_widths(lab.groups, exact).savefig(f"{plot}-widths.png")


if __name__ == "__main__":
    typer.run(main)
