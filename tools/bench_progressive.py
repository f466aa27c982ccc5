"""Time the attempts of one iteration of progressive pruning, with and without what they have in common.

    PYTHONPATH=. python tools/bench_progressive.py         # two ResNet-20 and a VGG-16, 500 validation images
    PYTHONPATH=. python tools/bench_progressive.py digits-resnet20 --images 360 --repeats 9 --json bench.json

Each attempt removes a part of one group from a copy of the trained model and refits its readers: each "alone", or all
with "shared" statistics of the original, whose collection counts. Then the copy's accuracy on validation images is
measured in full, and once more from what the original's modules gave. Both numbers must be the same. "Remembered" is
all that it costs: watching the copy while it changes, and the attempt's evaluation; "recording" is what the one
evaluation of the original takes longer, once an iteration. "Together" compares alone + full with the three others.

Time is CPU time on one thread; each is measured several times by turns, and the median counts. Memory is what is
remembered.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.shared import sharing
from fxprune.scorers import L1Norm
from fxprune.search.progressive.activation_cache import Attempt, Recording, Remembered
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS


@dataclass(frozen=True)
class Row:
    """One network's iteration.

    Attributes:
        network: the checkpoint.
        attempts: groups.
        images: of each evaluation.
        alone: seconds that all attempts' cuts and refits take, each for itself.
        shared: the same with shared statistics.
        full: seconds of all full evaluations.
        remembered: seconds of all evaluations from what is remembered.
        recording: seconds that the original's evaluation takes longer when it is remembered.
        memory: MiB that are remembered.
        equal: attempts whose two accuracies are the same number.
    """

    network: str
    attempts: int
    images: int
    alone: float
    shared: float
    full: float
    remembered: float
    recording: float
    memory: float
    equal: int

    @property
    def ratios(self) -> tuple[float, float, float]:
        """How much faster: refits, evaluations, both."""
        evaluations = self.remembered + self.recording
        together = (self.alone + self.full) / (self.shared + evaluations)
        return self.alone / self.shared, self.full / evaluations, together


@dataclass(frozen=True)
class Subject:
    """A trained network, and what its attempts need."""

    model: nn.Module
    groups: fxprune.Groups
    data: list[Tensor]
    evaluate: Callable[[nn.Module], float]
    images: int


def subject(name: str, images: int, data_root: Path | None) -> Subject:
    model, metadata = load_checkpoint(WEIGHTS / f"{name}.safetensors")
    splits = load_data(metadata.data, data_root, seed=metadata.seed)
    val = splits.val[torch.arange(min(images, len(splits.val)))]
    data = list(splits.train.images[:256].split(128))
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:1]))
    return Subject(model, groups, data, lambda m: accuracy(m, val), len(val))


def attempts(s: Subject, step: float) -> Iterator[Callable[[nn.Module], object]]:
    """For each group, what cuts a part of its channels and refits its readers."""
    scores = L1Norm()(s.model, s.groups)
    for g in s.groups:
        order = scores[g.name].argsort(descending=True)
        plan = s.groups.plan({g.name: sorted(order[: g.size - math.ceil(step * g.size)].tolist())})

        def change(model: nn.Module, plan: fxprune.Plan = plan) -> None:
            fxprune.rewrite(model, plan, inplace=True)
            fxprune.reconstruct(s.model, model, plan, s.data)

        yield change


def timed(task: Callable[[], Any]) -> float:
    """CPU seconds."""
    gc.collect()  # quick, because what was loaded before is frozen
    start = time.process_time()
    task()
    return time.process_time() - start


def by_turns(repeats: int, *tasks: Callable[[], Any]) -> list[float]:
    """Median seconds of each."""
    for task in tasks:
        task()  # first calls are nobody's time
    return [
        statistics.median(times) for times in zip(*[[timed(t) for t in tasks] for _ in range(repeats)], strict=True)
    ]


def refits(s: Subject, changes: Sequence[Callable[[nn.Module], object]], repeats: int) -> list[float]:
    """Seconds of all refits, each alone and all with shared statistics."""
    weights = [slot.tensor for g in s.groups for slot in g.consumers]

    def alone() -> None:
        for change in changes:
            change(copy.deepcopy(s.model))

    def shared() -> None:
        with sharing(s.model, weights, s.data):
            alone()

    return by_turns(repeats, alone, shared)


def measure(name: str, s: Subject, step: float, repeats: int, limit: int) -> Row:
    full = remembered = 0.0
    equal, changes = 0, list(attempts(s, step))
    gc.collect()
    gc.freeze()
    alone, shared = refits(s, changes, repeats)
    with Remembered(limit) as memory:
        recording = Recording(s.evaluate, memory, name)
        plain, recorded = by_turns(repeats, lambda: s.evaluate(s.model), lambda: recording(s.model))
        memo = memory.of(name)
        for change in track(changes, name, console=Console(stderr=True)):
            attempt, model = Attempt(change, s.evaluate, memory, name), copy.deepcopy(s.model)
            attempt.make(model)
            equal += attempt.evaluate(model) == s.evaluate(model)
            watching = Attempt(lambda _: None, s.evaluate, memory, name)
            times = by_turns(
                repeats,
                lambda model=model: s.evaluate(model),  # type: ignore[misc]
                lambda attempt=attempt, model=model: attempt.evaluate(model),  # type: ignore[misc]
                lambda watching=watching: watching.make(s.model),  # type: ignore[misc]
            )
            full, remembered = full + times[0], remembered + times[1] + times[2]
        held = memo.bytes / 2**20 if memo else 0.0
    saved = max(0.0, recorded - plain)
    return Row(name, len(changes), s.images, alone, shared, full, remembered, saved, held, equal)


def show(rows: list[Row]) -> Table:
    table = Table(title="attempts of one iteration, seconds", header_style="bold")
    table.add_column("network")
    columns = "attempts|images|alone|shared|faster|full|remembered|recording|faster|together|MiB|equal"
    for column in columns.split("|"):
        table.add_column(column, justify="right")
    for r in rows:
        refits, evaluations, together = (f"{ratio:.2f}x" for ratio in r.ratios)
        seconds = [f"{t:.2f}" for t in (r.alone, r.shared, r.full, r.remembered, r.recording)]
        counts = str(r.attempts), str(r.images)
        cells = (*counts, *seconds[:2], refits, *seconds[2:], evaluations, together)
        table.add_row(r.network, *cells, f"{r.memory:.0f}", f"{r.equal}/{r.attempts}")
    return table


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Checkpoints of the zoo.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images of each evaluation.")] = 500,
    step: Annotated[float, typer.Option(help="Part of a group's width that an attempt removes.")] = 0.05,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; the median counts.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="MiB that may be remembered.")] = 1024,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data's files.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Time attempts' refits alone and shared, their evaluations in full and from remembered activations."""
    torch.set_num_threads(1)
    names = networks or ["digits-resnet20", "fashion-resnet20", "fashion-vgg16"]
    rows = [measure(n, subject(n, images, data_root), step, repeats, limit * 2**20) for n in names]
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(show(rows))
    gc.unfreeze()
    if out:
        out.write_text(json.dumps([{**asdict(r), "ratios": r.ratios} for r in rows], indent=1))
    raise typer.Exit(0 if all(r.equal == r.attempts for r in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
