"""Time whole progressive searches at their defaults.

    PYTHONPATH=.:tools python -m benchmarks.progressive  # digits and Fashion ResNet-20
    PYTHONPATH=.:tools python -m benchmarks.progressive fashion-vgg16 --images 100 --keep 0.7

A search uses 256 training images for scorer and refit, and the first validation images for `evaluate`. Time is CPU time
of the process on one thread. Run it in two versions of fxprune to compare them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import fxprune
from fxprune.search import Progressive
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS


def timed(name: str, images: int, keep: float, data_root: Path | None) -> list[str]:
    """The cells of one network's row."""
    model, metadata = load_checkpoint(WEIGHTS / f"{name}.safetensors")
    splits = load_data(metadata.data, data_root, seed=metadata.seed)
    val = splits.val[torch.arange(min(images, len(splits.val)))]
    data = list(splits.train.images[:256].split(128))
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:1]))
    evaluations = 0

    def evaluate(candidate: nn.Module) -> float:
        nonlocal evaluations
        evaluations += 1
        return accuracy(candidate, val)

    start = time.process_time()
    found = Progressive(keep, progress=False)(model, groups, evaluate, data=data)
    return [name, f"{len(found.history)}", f"{evaluations}", f"{time.process_time() - start:.1f}"]


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Checkpoints of the zoo.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images of each evaluation.")] = 300,
    keep: Annotated[float, typer.Option(help="Part of the MACs to come down to.")] = Progressive.keep,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data's files.")] = None,
) -> None:
    """Time progressive searches."""
    torch.set_num_threads(1)
    table = Table(title="progressive search", header_style="bold")
    for column in ("network", "iterations", "evaluations", "CPU seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in networks or ["digits-resnet20", "fashion-resnet20"]:
        table.add_row(*timed(name, images, keep, data_root))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
