"""What `fxprune.prune(macs=…, data=…)` takes, with its defaults: seconds and memory, on images of a real size.

    PYTHONPATH=.:tools python -m benchmarks.calibrated  # ResNet-50, 512 crops of 224², from ten minutes on
    PYTHONPATH=.:tools python -m benchmarks.calibrated --scores  # its scores alone, `scorers.JointElimination`
    PYTHONPATH=.:tools python -m benchmarks.calibrated mobilenet_v2 --images 256 --threads 1

The crops are of photographs that packages ship (see `photographs.py`), the weights are untrained: neither changes what
is computed. Memory is the process's peak, beyond what Python, PyTorch, the model and the images take.
"""

from __future__ import annotations

import resource
import time
from typing import Annotated

import torch
import torchvision
import typer
from torch import nn

import fxprune
from benchmarks.photographs import apart, crops

_MEAN, _SPREAD = 128.0, 64.0  # of pixels, roughly


def main(
    name: Annotated[str, typer.Argument(help="A classification model of torchvision.")] = "resnet50",
    images: Annotated[int, typer.Option(min=1, help="How many crops.")] = 512,
    size: Annotated[int, typer.Option(min=32, help="Their height and width.")] = 224,
    macs: Annotated[float, typer.Option(help="The part of the MACs that stays.")] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 2,
    scores: Annotated[bool, typer.Option("--scores", help="Score the channels, and end.")] = False,
) -> None:
    """Prune once, and tell what it took."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    data = ((crops(apart(0)[0], images, size, seed=0) - _MEAN) / _SPREAD).split(batch)
    forward = _seconds_of_a_pass(model, data)
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    if scores:
        fxprune.scorers.JointElimination()(model, fxprune.find_groups(fxprune.trace(model, data[0][:1])), list(data))
        report = "scored"
    else:
        report = str(fxprune.prune(model, data[0][:1], macs=macs, data=list(data)).report)
    clock, cpu, after = time.perf_counter() - start, time.process_time() - cpu, _peak()
    what = "scores" if scores else f"{macs:.0%} of the MACs"
    typer.echo(f"{name}, {images} images of {size}², {threads} threads, {what}")
    typer.echo(f"{clock:.0f} s by the clock")
    typer.echo(f"{cpu:.0f} s of CPU time; one pass over the images takes {forward:.0f} s by the clock")
    typer.echo(f"peak memory {after:.1f} GB, {after - before:.1f} GB beyond what one pass has taken")
    typer.echo(report)


@torch.no_grad()
def _seconds_of_a_pass(model: nn.Module, data: tuple[torch.Tensor, ...]) -> float:
    start = time.perf_counter()
    for part in data:
        model(part)
    return time.perf_counter() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    typer.run(main)
