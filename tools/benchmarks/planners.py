"""Compare planners: accuracy at equal MACs after the same fine-tuning, and what the search costs.

    PYTHONPATH=.:tools python -m benchmarks.planners  # three networks: an hour on one core
    PYTHONPATH=.:tools python -m benchmarks.planners digits-resnet20  # minutes
    PYTHONPATH=.:tools python -m benchmarks.planners --contender 'TP*' --left 0.5 --seeds 1
    PYTHONPATH=.:tools python -m benchmarks.planners digits-resnet20 --left 0.08 --journal zoo/results/papers.jsonl

Each contender prunes a trained network to a part of its MACs; BatchNorm's statistics are estimated anew, accuracy is
measured on the test images ("before"), and once more after a fine-tuning that is the same for all ("after").

    unpruned              the network as it is, and after the same tuning
    uniform L1            `Uniform`: one rate for all groups, L1 norms
    uniform permutation   the same with weight permutation
    contribution rate     `CumulativeContribution`, weight permutation: one contribution rate for all groups
    budget                `Budget`, weight permutation
    uniform zeroing, uniform re-initialising, uniform permutation, noise
                          permutation's other kinds, and with random images fed to each layer
    uniform FPGM, uniform NISP, uniform HRank
                          `GeometricMedian`, `NISP` and `HRank` in place of L1 norms, which are PFEC's
    ..., refitted         the same, then `repair`
    one-shot LASSO        `Uniform`, LASSO, then least squares as PCP does
    uniform elimination   `Uniform`, `JointElimination`, then `repair`
    prune(data=)          `fxprune.prune(macs=..., data=...)`: joint elimination, widths from error curves, `repair`
    PCP                   `Progressive`: step 0.1, top 0.25, LASSO and least squares in each iteration
    PCP, published        the same, layer by layer (`LayerByLayer`), ties by cross-entropy
    PCP, samplers         the same on a network whose blocks read through channel samplers
    PCP, of one search    the checkpoint at the budget of a search of "PCP, published" down to a fifth
    bee colony            `BeeColony` within the budget: 5 sources, 3 cycles, re-calibrated BatchNorm, L1 norms
    bee colony, refitted  the same with `repair` as fitness
    bee colony of 210, refitted
                          the same with 10 sources and 10 cycles, about 210 evaluations in place of 35
    bee colony, curves    20 sources, 20 cycles, judged by the error curves of `JointElimination`, then `repair`
    bee colony, at most 30 %, ...
                          as published, without a budget: a code keeps at most this part of each group
    TP local, TP global   Torch-Pruning's `BasePruner` with `GroupMagnitudeImportance(p=2)`, the choice of its README,
                          each layer alone or all layers together; its ratio is bisected to the nearest MACs
    bisection             `Bisection` of the contribution rate as published: at most one point of validation
                          accuracy lost, 5 probes, each tuned; it lands at MACs of its own
    monotone fit          `MonotoneFit` of the same with 10 tunings, against the original tuned alike

All come within 0.5 % of the budget from below where widths allow it; the table tells what is left, and the largest
distance. Scores, refits and tunings see the same training images; searches
select by validation images; test images decide nothing. A seed decides the tuning, the search, and which of the
training images make statistics. Search cost is counted on the network itself: images in forward passes and in training
steps, as epochs of the tuning's images; one epoch of training is taken for three of forward passes. The tuning that all
get is left out.

The journal (JSON lines) is read first: points that it holds are not measured again, so a run that was stopped goes on.
Table (Markdown) and plot go beside it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import fxprune
from benchmarks.comparison import Journal, bar, chosen, part_of_latency
from benchmarks.lab import Lab, Meter
from benchmarks.planner_contenders import CONTENDERS
from benchmarks.planner_report import markdown, plot, show
from benchmarks.points import PlannerPoint, Result
from zoo.errors import ZooError
from zoo.provenance import commit
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS

NETWORKS = ("digits-resnet20", "fashion-vgg16", "fashion-resnet20")
LEFT = (0.5, 0.25)
TIMED = 32  # images in a forward that is timed


def points(labs: Mapping[str, Lab], names: Sequence[str], left: Sequence[float], seeds: int) -> Iterator[PlannerPoint]:
    """All that is to be measured; a seed at a time, so that a run that was stopped has seen all contenders."""
    for network, lab in labs.items():
        p = lab.protocol
        for seed in range(seeds):
            for name in names:
                for part in (1.0,) if CONTENDERS[name].own else left:
                    yield PlannerPoint(network, name, part, seed, p.epochs, p.images, p.tests, p.lr, p.distil, p.scored)


def measure(point: PlannerPoint, lab: Lab, made_by: str | None) -> Result:
    """Prune, count what that took, measure, tune, measure."""
    start = time.process_time()
    with Meter(type(lab.model)) as meter:
        found = CONTENDERS[point.contender].make(lab, point.left)
    seconds = time.process_time() - start
    if not found.whole:
        lab.calibrate(found.model, found.refitted)
    before, (macs, parameters) = accuracy(found.model, lab.test), lab.left(found.model)
    start = time.process_time()
    tuned = found.tuned or lab.tuned(found.model)
    tuning = time.process_time() - start
    own = found.tuned is not None and not found.whole  # one of the search's tunings is the one that all get
    trained = meter.trained - own * lab.protocol.epochs * len(lab.train)
    after = accuracy(tuned, lab.test)
    latency = part_of_latency(lab.model, found.model, lab.test[:TIMED].images)
    cost = meter.seen, trained, seconds, tuning, len(lab.train)
    return Result(macs, parameters, before, after, *cost, made_by, latency, lab.device.type, lab.precision)


def compare(
    book: Journal[PlannerPoint, Result], work: Sequence[PlannerPoint], labs: Mapping[str, Lab], console: Console
) -> None:
    """Measure what the journal lacks; contenders that fail on a network are named and left out."""
    made_by = commit()  # before the first result changes a file
    with bar(console) as progress:
        shown = progress.add_task("", total=len(work))
        for point in work:
            progress.update(shown, description=f"{point.network}, seed {point.seed}: {point.contender} {point.left:g}")
            if point not in book.rows:
                try:
                    book.add(point, measure(point, labs[point.network].seeded(point.seed), made_by))
                except fxprune.FxpruneError as error:
                    console.print(f"{point.network}: {point.contender} is left out: {error}", markup=False)
            progress.update(shown, advance=1)


def report(book: Journal[PlannerPoint, Result], wanted: Iterable[PlannerPoint], console: Console) -> None:
    """Show and write the table, what follows from it, and the plot."""
    rows = {p: book.rows[p] for p in wanted if p in book.rows}
    if not rows:
        console.print(f"{book.path} holds nothing of this comparison yet")
        return
    show(rows, console)
    text, picture = book.path.with_suffix(".md"), book.path.with_suffix(".png")
    text.write_text(markdown(rows))
    plot(rows, picture)
    console.print(f"table: {text}, plot: {picture}", markup=False)


def main(
    networks: Annotated[list[str] | None, typer.Argument(help=f"Of the zoo, or patterns; {NETWORKS} if none.")] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="Contenders, or patterns; may be repeated. All if none.")
    ] = None,
    left: Annotated[list[float] | None, typer.Option(min=0.01, max=0.99, help="Part of the MACs that stays.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each fine-tuning; default by data set.")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="Training images; default by data set.")] = None,
    tests: Annotated[int | None, typer.Option(min=1, help="Test images; default by data set.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Highest rate of the tuning; default by data set.")] = None,
    distil: Annotated[float | None, typer.Option(min=0, max=1, help="Share of the teacher in the tuning.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/compare-planners.jsonl"),
    report_only: Annotated[
        bool, typer.Option("--report", help="Measure nothing; show what the journal holds.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where all but the latency is measured.")] = "cpu",
) -> None:
    """Compare planners: accuracy at equal MACs before and after the same fine-tuning, and what the search costs."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="the allowed widths leave")  # the table shows the MACs that are left
    weights = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
    console = Console()
    try:
        names = chosen(networks or NETWORKS, weights, "network with weights")
        numbers = {"epochs": epochs, "images": images, "tests": tests, "lr": lr, "distil": distil}
        labs = {n: Lab(n, device=device).with_protocol(**numbers) for n in names}
        work = list(points(labs, chosen(contender, CONTENDERS, "contender"), left or LEFT, seeds))
        book = Journal(journal, PlannerPoint, Result)
        if not report_only:
            compare(book, work, labs, Console(stderr=True))
    except (ZooError, fxprune.InputError) as error:
        raise typer.BadParameter(str(error)) from error
    report(book, work, console if console.is_terminal else Console(width=160))


if __name__ == "__main__":
    typer.run(main)
