"""Compare scorers: accuracy straight after pruning trained networks of the zoo, without any training.

    PYTHONPATH=.:tools python -m benchmarks.scorers  # everything: hours on one core
    PYTHONPATH=.:tools python -m benchmarks.scorers digits-resnet20 --scorer 'L?' --scorer LASSO --less 0.5
    PYTHONPATH=.:tools python -m benchmarks.scorers --report  # what the journal holds so far

Each point prunes a network to a part of its MACs (within 1 %), keeping each group's channels of largest score, and
measures test accuracy after one of four treatments:

    none     as it comes out
    bn       `fxprune.recalibrate_batchnorm`
    ls       `fxprune.reconstruct`, layer by layer
    ls+bn    both, in this order

Allocation "uniform" takes the same part of every group, so that all scorers get the same widths and differ in the
choice of channels alone; "budget" lets all channels compete for what they cost. Torch-Pruning's importances ("TP ...")
score the same groups for the same widths. Scores and treatments see validation images only; the test images are used
once a point, and nothing is chosen by them. Random scorers get several seeds.

The journal (JSON lines) is read first: points that it holds are not measured again, so a run that was stopped goes on,
and several runs may each do a part. Another number of images is another point.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import fxprune
from benchmarks.comparison import Journal, bar, chosen, some
from benchmarks.points import ALLOCATIONS, TREATMENTS, Measured, ScorerPoint
from benchmarks.scorer_contenders import CONTENDERS
from benchmarks.scorer_report import plot, show
from fxprune.planners import AtBudget, Budget, Uniform
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.provenance import commit
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS

LESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BATCH = 128
Scores = Mapping[str, Tensor]


class Subject:
    """A trained network with its data and groups; each part is loaded when first asked for."""

    def __init__(self, name: str, images: int, tests: int) -> None:
        self.name, self.images, self.tests = name, images, tests

    @cached_property
    def _loaded(self) -> Any:
        model, metadata = load_checkpoint(WEIGHTS / f"{self.name}.safetensors")
        return model.eval(), load_data(metadata.data, seed=metadata.seed)

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self._loaded[0]
        return model

    @cached_property
    def data(self) -> list[tuple[Tensor, Tensor]]:
        """Validation batches of images and labels, in a fixed random order."""
        part = some(self._loaded[1].val, self.images)
        rows = torch.arange(len(part)).split(BATCH)
        return [(part[r].images, part[r].labels) for r in rows if len(r) > 1]

    @cached_property
    def test(self) -> Any:
        return some(self._loaded[1].test, self.tests)

    @cached_property
    def groups(self) -> fxprune.Groups:
        return fxprune.find_groups(fxprune.trace(self.model, self.data[0][0][:1]))

    def left(self, plan: fxprune.Plan) -> tuple[float, float]:
        """The parts of MACs and parameters that stay."""
        before, after = fxprune.cost(self.groups), fxprune.cost(self.groups, plan)
        return after.macs / before.macs, after.parameters / before.parameters

    def plan(self, scores: Scores, allocation: str, less: float) -> fxprune.Plan:
        planner = AtBudget(Uniform, 1 - less) if allocation == "uniform" else Budget(1 - less)
        return planner(self.groups, scores)

    def treated(self, plan: fxprune.Plan, treatments: Iterable[str]) -> Iterator[tuple[str, nn.Module, float]]:
        """The pruned network after each treatment, and the CPU seconds that it took; fits are made once."""
        wanted, images = set(treatments), [x for x, _ in self.data]
        small, seconds = fxprune.rewrite(self.model, plan), 0.0
        for plain, calibrated in (("none", "bn"), ("ls", "ls+bn")):
            if plain == "ls" and wanted & {plain, calibrated}:
                start = time.process_time()
                fxprune.reconstruct(self.model, small, plan, images)
                seconds = time.process_time() - start
            if plain in wanted:
                yield plain, small, seconds
            if calibrated in wanted:
                start, other = time.process_time(), copy.deepcopy(small)
                fxprune.recalibrate_batchnorm(other, images)
                yield calibrated, other, seconds + time.process_time() - start


@dataclass(frozen=True)
class Task:
    """The points that share scores: one scorer with one seed on one network."""

    network: str
    scorer: str
    seed: int
    points: tuple[ScorerPoint, ...]


def tasks(networks: Iterable[str], names: Iterable[str], seeds: int, grid: Sequence[ScorerPoint]) -> Iterator[Task]:
    """All that is to be measured; `grid` holds a point for each allocation, size and treatment."""
    for network in networks:
        for name in names:
            for seed in range(seeds if CONTENDERS[name].random else 1):
                points = [replace(p, network=network, scorer=name, seed=seed) for p in grid]
                yield Task(network, name, seed, tuple(points))


def measure(subject: Subject, task: Task, missing: Sequence[ScorerPoint]) -> Iterator[tuple[ScorerPoint, Measured]]:
    """Score once, then prune, treat and test each point."""
    scores = CONTENDERS[task.scorer].make(task.seed)(subject.model, subject.groups, subject.data)
    for allocation, less in dict.fromkeys((p.allocation, p.less) for p in missing):
        plan = subject.plan(scores, allocation, less)
        here = {p.treatment: p for p in missing if (p.allocation, p.less) == (allocation, less)}
        for treatment, small, seconds in subject.treated(plan, here):
            yield here[treatment], Measured(accuracy(small, subject.test), *subject.left(plan), seconds, commit())


def compare(
    journal: Journal[ScorerPoint, Measured], work: Sequence[Task], subjects: Mapping[str, Subject], console: Console
) -> None:
    """Measure what the journal lacks; scorers that cannot score a network are named and left out."""
    for name, subject in subjects.items():
        whole = ScorerPoint(name, "", 0, "", 0.0, "none", subject.images, subject.tests)
        if whole not in journal.rows:
            journal.add(whole, Measured(accuracy(subject.model, subject.test), commit=commit()))
    with bar(console) as progress:
        shown = progress.add_task("", total=sum(len(t.points) for t in work))
        for task in work:
            missing = [p for p in task.points if p not in journal.rows]
            progress.update(
                shown, advance=len(task.points) - len(missing), description=f"{task.network}: {task.scorer}"
            )
            if not missing:
                continue
            try:
                for point, measured in measure(subjects[task.network], task, missing):
                    journal.add(point, measured)
                    progress.update(shown, advance=1)
            except fxprune.FxpruneError as error:
                console.print(f"{task.network}: {task.scorer} is left out: {error}", markup=False)


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Networks of the zoo, or patterns; all if none.")] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorers, or patterns; may be repeated. All if none.")
    ] = None,
    less: Annotated[list[float] | None, typer.Option(min=0.01, max=0.99, help="Part of the MACs that goes.")] = None,
    treatment: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(TREATMENTS)}; all if none.")] = None,
    allocation: Annotated[list[str] | None, typer.Option(help="uniform or budget; uniform if none.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of random scorers.")] = 3,
    images: Annotated[int, typer.Option(min=2, help="Validation images for scores and treatments, at most.")] = 512,
    tests: Annotated[int, typer.Option(min=1, help="Test images, at most.")] = 10_000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/compare-scorers.jsonl"),
    picture: Annotated[Path | None, typer.Option(help="Where the plot goes; beside the journal if none.")] = None,
    report: Annotated[bool, typer.Option(help="Measure nothing; show what the journal holds.")] = False,
) -> None:
    """Compare scorers: accuracy straight after pruning trained networks of the zoo, with and without treatments."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="the allowed widths leave")  # the table shows the MACs that are left
    weights = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
    try:
        subjects = {n: Subject(n, images, tests) for n in chosen(networks, weights, "network")}
        book = Journal(journal, ScorerPoint, Measured)
        grid = [
            ScorerPoint("", "", 0, a, cut, t, images, tests)
            for a in chosen(allocation or ["uniform"], ALLOCATIONS, "allocation")
            for cut in less or LESS
            for t in chosen(treatment, TREATMENTS, "treatment")
        ]
        work = list(tasks(subjects, chosen(scorer, CONTENDERS, "scorer"), seeds, grid))
        if not report:
            compare(book, work, subjects, Console(stderr=True))
    except (ZooError, fxprune.InputError) as error:
        raise typer.BadParameter(str(error)) from error
    wanted = {p for t in work for p in t.points} | {p for p in book.rows if not p.scorer and p.network in subjects}
    rows = {p: m for p, m in book.rows.items() if p in wanted}
    console = Console()
    show(rows, console if console.is_terminal else Console(width=150))
    target = picture or journal.with_suffix(".png")
    if plot(rows, target):
        console.print(f"plot: {target}")


if __name__ == "__main__":
    typer.run(main)
