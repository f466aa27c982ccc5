"""Time whole-model weight-permutation scores against the forward passes alone and against the literal algorithm.

    PYTHONPATH=.:tools python -m benchmarks.scoring  # ResNet-50 at 224², 2 batches of 8 images
    PYTHONPATH=.:tools python -m benchmarks.scoring mobilenet_v2 --batch 16 --repeats 7 --json bench.json

Three ways to the same scores, by turns in one process, on untrained weights and random images:

* forward: the model on all batches, nothing else; what any score from data costs at least;
* closed form: `fxprune.scorers.WeightPermutation`, the exact expectation over all permutations;
* sampled: `fxprune.scorers.SampledPermutation(samples=1)`, one permutation of all kernels at once;
* literal: as published, one permutation of one kernel at a time: a layer of c channels runs c + 1 times on its inputs.
  That takes minutes to hours, so a few kernels of a layer are tried and the time is multiplied. As a check, all
  kernels of one layer are tried as well; the two times and the agreement of the scores are printed.

Time is CPU time on one thread, the best of several runs, so that other programs weigh little; on CUDA, the clock's.
Memory is the peak beyond what the model and the data take; for the literal algorithm, of the layer that needs most.
"""

from __future__ import annotations

import ctypes
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn

import fxprune
from fxprune.scorers import SampledPermutation, WeightPermutation


@dataclass(frozen=True)
class Row:
    """What one way costs.

    Attributes:
        way: its name.
        seconds: for all batches.
        memory: peak in MiB; None where it cannot be measured.
        scaled: the time was multiplied, not measured.
    """

    way: str
    seconds: float
    memory: float | None
    scaled: bool = False


@dataclass(frozen=True)
class Check:
    """The literal algorithm in full on one layer.

    Attributes:
        layer: its name.
        kernels: how many it has.
        seconds: for all of them.
        estimate: what was expected from a few.
        agreement: Spearman's rank correlation of its scores, of one permutation a kernel, with the closed form's.
    """

    layer: str
    kernels: int
    seconds: float
    estimate: float
    agreement: float


@dataclass(frozen=True)
class Bench:
    """A model with its groups and data."""

    model: nn.Module
    groups: fxprune.Groups
    data: list[Tensor]

    @property
    def device(self) -> torch.device:
        return self.data[0].device

    def forward(self) -> None:
        with torch.no_grad():
            for x in self.data:
                self.model(x)

    def timed(self, task: Callable[[], object]) -> float:
        """Seconds of one run."""
        cuda = self.device.type == "cuda"
        clock = time.perf_counter if cuda else time.process_time
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        task()
        if cuda:
            torch.cuda.synchronize()
        return clock() - start

    def peak(self, task: Callable[[], object]) -> float | None:
        """MiB that a run takes at most beyond what is there before."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            task()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        if not _reset_peak() or (before_kib := _resident("VmRSS")) is None:
            return None
        task()
        return max(0, (_resident("VmHWM") or 0) - before_kib) / 2**10


def _resident(what: str) -> int | None:
    """A line of Linux's account of this process, in KiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(what)), None)


def _reset_peak() -> bool:
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is given back first
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def build(name: str, size: int, batch: int, batches: int, device: str) -> Bench:
    """The untrained model in evaluation mode, and random images."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    data = [torch.rand(batch, 3, size, size).to(device) for _ in range(batches)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:1]))
    return Bench(model, groups, data)


def layers(bench: Bench) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers that make the groups' channels."""
    names = {slot.tensor.removesuffix(".weight") for g in bench.groups for slot in g.producers}
    found = {name: module for name, module in bench.model.named_modules() if name in names}
    return {name: m for name, m in found.items() if isinstance(m, nn.Conv2d | nn.Linear)}


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What a layer reads while the model runs inside the block."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def literal(layer: nn.Conv2d | nn.Linear, inputs: list[Tensor], kernels: range) -> list[float]:
    """The published score of some kernels: the squared change of the output, one kernel permuted at a time."""
    channel = 1 if isinstance(layer, nn.Conv2d) else -1
    scores = [0.0] * len(kernels)
    weight = layer.weight.data
    with torch.no_grad():
        for x in inputs:
            before = layer(x)
            for n, i in enumerate(kernels):
                kept = weight[i].clone()
                weight[i] = kept.flatten()[torch.randperm(kept.numel(), device=kept.device)].view_as(kept)
                change = layer(x).select(channel, i) - before.select(channel, i)
                scores[n] += float(change.square().sum())
                weight[i] = kept
    return scores


def estimate(bench: Bench, kernels: int) -> tuple[dict[str, float], float | None]:
    """Seconds that the literal algorithm takes for each layer: a few kernels tried, time multiplied; peak MiB."""
    found: dict[str, float] = {}
    memory: list[float | None] = []
    for name, layer in track(layers(bench).items(), "literal algorithm", console=Console(stderr=True)):
        with inputs_of(layer) as seen:
            bench.forward()
        count, tried = len(layer.weight), min(kernels, len(layer.weight))

        def run(some: range, layer: Any = layer, seen: Any = seen) -> float:
            return bench.timed(lambda: literal(layer, seen, some))

        held = sum(x.numel() * x.element_size() for x in seen) / 2**20
        peak = bench.peak(lambda: run(range(1)))  # first calls are nobody's time
        memory.append(None if peak is None else peak + held)
        base = min(run(range(0)) for _ in range(2))
        each = (min(run(range(tried)) for _ in range(2)) - base) / tried
        found[name] = base + max(each, 0.0) * count
    return found, None if None in memory else max(m for m in memory if m is not None)


def check(bench: Bench, seconds: dict[str, float], exact: dict[str, Tensor]) -> Check:
    """The literal algorithm in full on the quickest layer that makes a group alone."""
    alone = {g.name for g in bench.groups if len(g.producers) == 1}
    name = min((n for n in seconds if n in alone), key=seconds.__getitem__)
    layer = layers(bench)[name]
    with inputs_of(layer) as seen:
        bench.forward()
    scores: list[float] = []
    taken = bench.timed(lambda: scores.extend(literal(layer, seen, range(len(layer.weight)))))
    agreement = float(spearmanr(scores, exact[name].cpu().numpy()).statistic)
    return Check(name, len(scores), taken, seconds[name], agreement)


def measure(bench: Bench, repeats: int) -> tuple[list[Row], dict[str, Tensor]]:
    """Forward passes, closed form and sampling by turns; the best of each counts."""
    ways: dict[str, Callable[[], Any]] = {
        "forward": bench.forward,
        "closed form": lambda: WeightPermutation()(bench.model, bench.groups, bench.data),
        "sampled": lambda: SampledPermutation(samples=1)(bench.model, bench.groups, bench.data),
    }
    exact = ways["closed form"]()  # first calls are nobody's time
    best = dict.fromkeys(ways, float("inf"))
    for _ in track(range(repeats), "timing", console=Console(stderr=True)):
        for way, task in ways.items():
            gc.collect()
            best[way] = min(best[way], bench.timed(task))
    gc.collect()
    return [Row(way, best[way], bench.peak(task)) for way, task in ways.items()], exact


def show(rows: list[Row], title: str) -> Table:
    table = Table(title=title, header_style="bold")
    table.add_column("scores by")
    for column in ("seconds", "times the forward", "closed form faster", "peak MiB"):
        table.add_column(column, justify="right")
    seconds = {row.way: row.seconds for row in rows}
    for row in rows:
        ratio, faster = row.seconds / seconds["forward"], row.seconds / seconds["closed form"]
        mark = " *" if row.scaled else ""
        memory = "" if row.memory is None else f"{row.memory:,.0f}"
        times = f"{faster:,.1f}x" if faster > 1 else ""
        table.add_row(row.way + mark, f"{row.seconds:,.2f}", f"{ratio:,.2f}", times, memory)
    return table


def main(
    model: Annotated[str, typer.Argument(help="A torchvision classification model.")] = "resnet50",
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Number of batches.")] = 2,
    kernels: Annotated[int, typer.Option(min=1, help="Kernels of each layer that the literal algorithm tries.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; the best counts.")] = 5,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Time weight-permutation scores of a whole model against its forward passes and the literal algorithm."""
    torch.set_num_threads(1)
    bench = build(model, size, batch, batches, device)
    rows, exact = measure(bench, repeats)
    seconds, memory = estimate(bench, kernels)
    rows.append(Row("literal", sum(seconds.values()), memory, scaled=True))
    checked = check(bench, seconds, exact)
    count = sum(len(layer.weight) for layer in layers(bench).values())
    console = Console()
    console.print(show(rows, f"{model}, {batches} x {batch} images of {size} x {size}, {device}"))
    console.print(
        f"* scaled: {kernels} kernels of each of {len(seconds)} layers tried, of {count:,} in all. As a check, all "
        f"{checked.kernels} of {checked.layer} took {checked.seconds:.2f} s, {checked.estimate:.2f} s were estimated; "
        f"rank correlation of its one permutation a kernel with the expectation: {checked.agreement:.2f}",
        soft_wrap=True,
    )
    if out:
        out.write_text(json.dumps({"rows": [asdict(r) for r in rows], "check": asdict(checked)}, indent=1))


if __name__ == "__main__":
    typer.run(main)
