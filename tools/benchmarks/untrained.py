"""Accuracy without training: channels chosen and weights repaired from a few hundred unlabelled inputs, at equal MACs.

    PYTHONPATH=.:tools python -m benchmarks.untrained --journal zoo/results/untrained.jsonl
    PYTHONPATH=.:tools python -m benchmarks.untrained efficientnet-lite0 --keep 0.9 --keep 0.8 --keep 0.67 --keep 0.5
    PYTHONPATH=.:tools python -m benchmarks.untrained fashion-vgg16 --keep 0.25 --images 32 --images 4096
    PYTHONPATH=.:tools python -m benchmarks.untrained fashion-vgg16 --keep 0.25 --domain digits  # calibrated on others
    PYTHONPATH=.:tools python -m benchmarks.untrained efficientnet-lite0 --contender 'unpruned*'  # none pruned
    PYTHONPATH=.:tools python -m benchmarks.untrained ppocr-v4-rec --keep 0.8 --images 512 --tests 256 --seeds 1
    PYTHONPATH=.:tools python -m benchmarks.untrained 'mtcnn*' --images 256 --tests 1000

Each line of the journal is a network, a contender, a size, a seed and a number of calibration inputs; what the journal
holds is not measured again, so that an interrupted run goes on. EfficientNet-Lite0, PP-OCRv4's reader of text lines and
the networks of the face detector MTCNN need the extra `field`. Of the reader, accuracy is the part of the lines that
are read without a fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxprune
from benchmarks.comparison import Journal, bar, chosen, part_of_latency
from benchmarks.disturbances import DISTURBED
from benchmarks.sources import fingerprint
from benchmarks.untrained_subjects import FACES, OfZoo, Subject, subject
from fxprune.planners import AtBudget, ErrorCurves, Uniform
from fxprune.scorers import Fallback, JointElimination, L2Norm, Lasso

NETWORKS = (
    "fashion-vgg16",
    "fashion-resnet20",
    "fashion-resnet56",
    "fashion-googlenet",
    "fashion-vit",
    "fashion-convnext",
    "digits-resnet20",
    "digits-mobilenetv2",
    "digits-googlenet",
    "efficientnet-lite0",
    "ppocr-v4-rec",
    *FACES,
)
KEPT = [0.5, 0.35, 0.25, 0.15, 0.1]
TIMED = 32  # inputs in a forward that is timed
Batches = list[Tensor]


@dataclass(frozen=True)
class Point:
    """What is measured once.

    Attributes:
        network: its name.
        contender: its name; empty for the network as it is; of `DISTURBED`, for the unpruned network so changed.
        keep: part of the MACs that stays.
        seed: of the calibration inputs.
        images: calibration inputs.
        tests: test inputs.
        size: of crops of photographs, in pixels; 0 for the zoo's data.
        objects: whether every other calibration crop has an object of another photograph in it.
        domain: the data set that calibration inputs are of, if it is not the network's own.
    """

    network: str
    contender: str
    keep: float
    seed: int
    images: int
    tests: int
    size: int = 0
    objects: bool = False
    domain: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        accuracy: on the test inputs; None where there are no labels.
        agreement: part of the test inputs of which the most likely class, or the whole line, is that of the original.
        kl: mean divergence of the classes' probabilities from the original's.
        macs: part that is left.
        seconds: of CPU, for scores, plan and repair.
        code: fingerprint of fxprune's sources.
        latency: of a batch of test inputs on the CPU, as a part of the original's.
        device: where all else was measured.
    """

    accuracy: float | None
    agreement: float
    kl: float
    macs: float
    seconds: float
    code: str
    latency: float | None = None
    device: str = "cpu"


Contender = Callable[[Subject, float, int, Batches], nn.Module]
"""A way to prune: (case, part of the MACs that stays, seed, calibration batches) to the pruned model."""
Planning = Callable[[fxprune.Groups, Mapping[str, Tensor]], fxprune.Plan]
Treatment = Callable[[nn.Module, nn.Module, fxprune.Plan, Batches], nn.Module]


def by_parts(
    scorer: Callable[[int], fxprune.scorers.Scorer], planner: Callable[[float], Planning], treat: Treatment
) -> Contender:
    """A scorer by seed, a planner by the part of the MACs that stays, and what is done to the pruned model."""

    def make(case: Subject, keep: float, seed: int, data: Batches) -> nn.Module:
        plan = planner(keep)(case.groups, scorer(seed)(case.model, case.groups, data))
        return treat(case.model, fxprune.rewrite(case.model, plan), plan, data)

    return make


def in_one_call(case: Subject, keep: float, _seed: int, data: Batches) -> nn.Module:
    return fxprune.prune(case.model, data[0][:1], macs=keep, data=data).model


def peer(everywhere: bool, recalibrate: bool) -> Contender:
    """Torch-Pruning with its group magnitudes; its ratio is bisected to the MACs that come nearest to the budget."""

    def make(case: Subject, keep: float, _seed: int, data: Batches) -> nn.Module:
        from benchmarks.planner_contenders import peer_pruned

        low, high, found = 0.0, 1.0, list[tuple[float, float, nn.Module]]()
        for _ in range(12):
            ratio = (low + high) / 2
            small = peer_pruned(case.model, data[0][:1], ratio, everywhere, case.heads)
            macs = part_of_macs(case, small)
            found.append((abs(macs - keep), ratio, small))
            low, high = (low, ratio) if macs < keep else (ratio, high)
        nearest = min(found, key=lambda f: f[:2])[2]
        if recalibrate:
            fxprune.recalibrate_batchnorm(nearest, data)
        return nearest

    return make


def part_of_macs(case: Subject, small: nn.Module) -> float:
    pruned = fxprune.find_groups(fxprune.trace(small, case.test[:1]))
    return fxprune.cost(pruned).macs / fxprune.cost(case.groups).macs


def uniform(keep: float) -> Any:
    return AtBudget(Uniform, keep)


def bare(_model: nn.Module, small: nn.Module, _plan: fxprune.Plan, _data: Batches) -> nn.Module:
    return small


def recalibrated(_model: nn.Module, small: nn.Module, _plan: fxprune.Plan, data: Batches) -> nn.Module:
    fxprune.recalibrate_batchnorm(small, data)
    return small


def refitted(model: nn.Module, small: nn.Module, plan: fxprune.Plan, data: Batches) -> nn.Module:
    """Ten positions an input and a fixed ridge, as He et al. 2017 take them."""
    fxprune.reconstruct(model, small, plan, data)
    return small


def repaired(model: nn.Module, small: nn.Module, plan: fxprune.Plan, data: Batches) -> nn.Module:
    return fxprune.repair(model, small, plan, data, progress=False)


def repaired_on_random(model: nn.Module, small: nn.Module, plan: fxprune.Plan, data: Batches) -> nn.Module:
    """No data are read but their shapes."""
    return fxprune.repair(model, small, plan, fxprune.random_inputs(data[0], len(data)), progress=False)


def lasso(seed: int) -> fxprune.scorers.Scorer:
    """Channels that no layer reads are left to their weights."""
    return Fallback(Lasso(seed=seed), L2Norm())


CONTENDERS: dict[str, Contender] = {
    "prune(data=)": in_one_call,
    "Torch-Pruning, local, bare": peer(everywhere=False, recalibrate=False),
    "Torch-Pruning, local, re-calibrated": peer(everywhere=False, recalibrate=True),
    "Torch-Pruning, global, bare": peer(everywhere=True, recalibrate=False),
    "Torch-Pruning, global, re-calibrated": peer(everywhere=True, recalibrate=True),
    "L2, one ratio, bare": by_parts(lambda _seed: L2Norm(), uniform, bare),
    "L2, one ratio, re-calibrated": by_parts(lambda _seed: L2Norm(), uniform, recalibrated),
    "L2, one ratio, repaired on random inputs": by_parts(lambda _seed: L2Norm(), uniform, repaired_on_random),
    "LASSO, one ratio, refitted": by_parts(lasso, uniform, refitted),
    "LASSO, one ratio, repaired": by_parts(lasso, uniform, repaired),
    "joint, one ratio, repaired": by_parts(lambda seed: JointElimination(seed=seed), uniform, repaired),
    "joint, error curves, repaired": by_parts(lambda seed: JointElimination(seed=seed), ErrorCurves, repaired),
    "joint, measured errors, repaired": by_parts(
        lambda seed: JointElimination(seed=seed, errors="measured"), ErrorCurves, repaired
    ),
    "joint, output gradients, repaired": by_parts(
        lambda seed: JointElimination(seed=seed, errors="auto"), ErrorCurves, repaired
    ),
}


def outputs(case: Subject, model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([case.output(model(part)) for part in case.test.split(64)])


def part_of(pairs: Iterable[tuple[Any, Any]]) -> float:
    """The part of the pairs whose members are equal."""
    return fmean(a == b for a, b in pairs)


def judged(case: Subject, model: nn.Module, macs: float, seconds: float) -> Outcome:
    """The outcome of a model on the test inputs."""
    wanted, found = (outputs(case, m) for m in (case.model, model))
    logs = case.logs(wanted), case.logs(found)
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    answers = case.answers(found)
    agreement = part_of(zip(case.answers(wanted), answers, strict=True))
    right = None if case.labels is None else part_of(zip(answers, case.labels, strict=True))
    latency = part_of_latency(case.model, model, case.test[:TIMED])
    return Outcome(right, agreement, float(kl), macs, seconds, fingerprint(), latency, case.test.device.type)


def calibration(case: Subject, point: Point) -> Batches:
    if not point.domain:
        return case.calibration(point.images, point.seed)
    if not isinstance(case, OfZoo):
        raise typer.BadParameter(f"{point.network} is calibrated on its own data alone; --domain is for the zoo's")
    return case.calibration_from(point.domain, point.images, point.seed)


def measure(case: Subject, point: Point) -> Outcome:
    """Prune, treat and judge."""
    if not point.contender:
        return judged(case, case.model, 1.0, 0.0)
    if point.contender in DISTURBED:
        return judged(case, DISTURBED[point.contender](case.model).eval(), 1.0, 0.0)
    data = calibration(case, point)
    start = time.process_time()
    small = CONTENDERS[point.contender](case, point.keep, point.seed, data)
    seconds = time.process_time() - start
    return judged(case, small.eval(), part_of_macs(case, small), seconds)


def table(journal: Journal[Point, Outcome]) -> Table:
    """Means over seeds."""
    found: dict[tuple[Any, ...], list[Outcome]] = {}
    for point, outcome in journal.rows.items():
        inputs = f"{point.images}{' with objects' * point.objects}{f' of {point.domain}' * bool(point.domain)}"
        found.setdefault((point.network, point.images, point.contender, point.keep, inputs), []).append(outcome)
    made = Table("network", "inputs", "contender", "MACs", "seeds", "accuracy", "agreement", "KL", "CPU s", "latency")
    for (network, _, contender, keep, inputs), rows in sorted(found.items(), key=lambda item: item[0]):
        mean = [
            sum(getattr(r, name) or 0 for r in rows) / len(rows) for name in ("accuracy", "agreement", "kl", "seconds")
        ]
        shown = "" if rows[0].accuracy is None else f"{100 * mean[0]:.2f}"
        timed = [r.latency for r in rows if r.latency is not None]
        latency = f"{100 * sum(timed) / len(timed):.0f} %" if timed else ""
        numbers = (shown, f"{100 * mean[1]:.1f}", f"{mean[2]:.3f}", f"{mean[3]:.0f}", latency)
        made.add_row(
            network,
            inputs,
            contender or "not pruned",
            f"{keep:.0%}",
            str(len(rows)),
            *numbers,
        )
    return made


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Names or patterns; all if none.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Names or patterns; all if none.")] = None,
    keep: Annotated[list[float] | None, typer.Option(min=0.01, max=1, help="Part of the MACs that stays.")] = None,
    images: Annotated[list[int] | None, typer.Option(min=16, help="Calibration inputs.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the calibration inputs.")] = 5,
    tests: Annotated[int, typer.Option(min=1, help="Test inputs, at most.")] = 5_000,
    size: Annotated[int, typer.Option(min=32, help="Of crops of photographs, in pixels.")] = 224,
    objects: Annotated[bool, typer.Option(help="Objects in every other calibration crop.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/untrained.jsonl"),
    report: Annotated[bool, typer.Option(help="Measure nothing; show what the journal holds.")] = False,
    device: Annotated[str, typer.Option(help="Where all but the latency is measured.")] = "cpu",
    domain: Annotated[str, typer.Option(help="Data set of the zoo to calibrate on, in place of the network's.")] = "",
) -> None:
    """Compare ways to prune without training."""
    torch.set_num_threads(threads)
    console, book = Console(width=None if Console().is_terminal else 160), Journal(journal, Point, Outcome)
    wanted = (
        []
        if report
        else list(_points(networks, contender, keep or KEPT, images or [1024], seeds, tests, (size, objects), domain))
    )
    missing = [p for p in wanted if p not in book.rows]
    with bar(Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(missing))
        case, known = None, ""
        for point in missing:
            case, known = (
                (case, known)
                if known == point.network
                else (subject(point.network, tests, size, objects, device), point.network)
            )
            progress.update(task, description=f"{point.network} {point.contender} {point.keep:.0%}")
            assert case is not None
            book.add(point, measure(case, point))
            progress.advance(task)
    console.print(table(book))


def _points(
    networks: list[str] | None,
    contenders: list[str] | None,
    keep: list[float],
    images: list[int],
    seeds: int,
    tests: int,
    crops: tuple[int, bool],
    domain: str,
) -> Any:
    for network in chosen(networks, NETWORKS, "network"):
        kind = crops if network == "efficientnet-lite0" else (0, False)
        yield Point(network, "", 1.0, 0, 0, tests, *kind)
        names = chosen(contenders, (*CONTENDERS, *DISTURBED), "contender")
        yield from (Point(network, name, 1.0, 0, 0, tests, *kind) for name in names if name in DISTURBED)
        for seed, count, part in product(range(seeds), images, keep):
            for name in (n for n in names if n in CONTENDERS):
                yield Point(network, name, part, seed, count, tests, *kind, domain)


if __name__ == "__main__":
    typer.run(main)
