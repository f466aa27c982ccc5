"""Time fxprune's analysis and pruning against Torch-Pruning's, on torchvision's classification models.

    python tools/bench_analysis.py                            # all 80 models, about an hour
    python tools/bench_analysis.py 'resnet*' alexnet --repeats 7 --json bench.json

Both run in this process, by turns, on one thread, on untrained models in evaluation mode, with one image. What counts
is CPU time, the same as the clock's on an idle machine, so that other programs weigh little:

* analysis: `fxprune.trace` and `find_groups`; `DependencyGraph().build_dependency` and `list(get_all_groups(...))`;
* pruning: from the model to the model with half of every group's channels, by L2 magnitude: trace, groups, scores, plan
  and `rewrite(inplace=True)`; `BasePruner(...)` and `step()`. Each run has a fresh copy, made outside the timed region.

The peer is used as its README and its own torchvision script do, and spared what would slow it down: inputs come as a
tuple (it tries a bare tensor without its batch dim first), the grouping dicts are fresh (its mutable defaults keep
earlier models), and auxiliary heads, which it does not see, are left out. It needs autograd's tape; fxprune does not.
A model that one of the two cannot do, or whose pruned model does not run, is listed and left out of the means.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import torch_pruning as tp
import torchvision
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import fxprune

RATIO = 0.5
PATIENCE_S = 20.0  # Where one run takes longer, there are fewer: about BUDGET_S for each library.
BUDGET_S = 80.0


@dataclass(frozen=True)
class Subject:
    """A model, its example input, and the layer whose width is the number of classes."""

    model: nn.Module
    image: Tensor

    @property
    def classifier(self) -> nn.Module:
        return [m for m in self.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]

    def copy(self) -> Subject:
        return Subject(copy.deepcopy(self.model), self.image)


@dataclass(frozen=True)
class Library:
    """What is timed of one library."""

    analyse: Callable[[Subject], object]
    prune: Callable[[Subject], object]


@dataclass
class Part:
    """Medians of the CPU seconds that each library takes for one task; None where it fails.

    Attributes:
        ours: fxprune's.
        peer: Torch-Pruning's.
        runs: how many each had, if they were fewer than asked for, because they are slow.
    """

    ours: float | None = None
    peer: float | None = None
    runs: int | None = None

    @property
    def ratio(self) -> float | None:
        return self.peer / self.ours if self.ours and self.peer else None


@dataclass
class Row:
    """One model's results.

    Attributes:
        model: its name.
        analysis: seconds.
        pruning: seconds.
        left: the share of parameters that stays, by library.
        failures: why a library fails, by library.
    """

    model: str
    analysis: Part = field(default_factory=Part)
    pruning: Part = field(default_factory=Part)
    left: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def build(name: str) -> Subject:
    """The untrained model in evaluation mode, without auxiliary heads."""
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if options:
        options["aux_logits"] = False
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    size = 299 if "inception" in name else 224
    return Subject(model, torch.rand(1, 3, size, size))


def our_analysis(s: Subject) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(s.model, s.image))


def our_pruning(s: Subject) -> nn.Module:
    groups = our_analysis(s)
    scores = fxprune.scorers.L2Norm()(s.model, groups)
    return fxprune.rewrite(s.model, fxprune.planners.Uniform(RATIO)(groups, scores), inplace=True)


def peer_analysis(s: Subject) -> list[Any]:
    graph = tp.DependencyGraph().build_dependency(s.model, (s.image,), verbose=False)
    return list(graph.get_all_groups(ignored_layers=[s.classifier], root_module_types=[nn.Conv2d, nn.Linear]))


def peer_pruning(s: Subject) -> nn.Module:
    model: Any = s.model
    transformer = isinstance(model, VisionTransformer)
    pruner = tp.pruner.BasePruner(
        model,
        (s.image,),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[s.classifier],
        round_to=model.encoder.layers[0].num_heads if transformer else None,  # as in its torchvision script
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    if transformer:  # likewise: the model's own code holds this width
        model.hidden_dim = model.conv_proj.out_channels
    return s.model


LIBRARIES = {"ours": Library(our_analysis, our_pruning), "peer": Library(peer_analysis, peer_pruning)}


class TooLongError(Exception):
    """A run exceeded the time limit."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TooLongError` in the block after `seconds`, and again each second: the peer has a bare `except`."""

    def expire(*_: object) -> None:
        raise TooLongError(f"longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


Tasks = dict[str, Callable[[Subject], object]]


def timed(task: Callable[[Subject], object], subject: Subject, limit: float) -> float:
    """Seconds of CPU of one run; garbage is collected before."""
    gc.collect()
    with limited(limit):
        start = time.process_time()
        task(subject)
        return time.process_time() - start


def measure(tasks: Tasks, new: Callable[[], Subject], repeats: int, limit: float, failures: dict[str, str]) -> Part:
    """Time the tasks by turns, each run on `new()`; one that raises is noted in `failures` and not tried again."""
    seconds: dict[str, list[float]] = {who: [] for who in tasks}
    done = 0
    while done < _affordable(seconds, repeats):
        for who in list(tasks)[:: 1 if done % 2 else -1]:
            if who not in failures:
                try:
                    seconds[who].append(timed(tasks[who], new(), limit))
                except Exception as error:
                    failures[who] = _reason(error)
        done += 1
    medians = {who: statistics.median(s) for who, s in seconds.items() if who not in failures}
    return Part(medians.get("ours"), medians.get("peer"), done if done < repeats else None)


def _affordable(seconds: dict[str, list[float]], repeats: int) -> int:
    slowest = max((max(s) for s in seconds.values() if s), default=0.0)
    return repeats if slowest < PATIENCE_S else max(1, min(repeats, int(BUDGET_S / slowest)))


def _reason(error: Exception) -> str:
    first = str(error).partition("\n")[0][:90]
    return first if isinstance(error, TooLongError) else f"{type(error).__name__}: {first}"


def examine(name: str, repeats: int, limit: float) -> Row:
    """One model's row; a failure is a part of it."""
    row = Row(name)
    subject = build(name)
    analyses, prunings = ({who: getattr(lib, task) for who, lib in LIBRARIES.items()} for task in ("analyse", "prune"))
    measure(analyses, lambda: subject, 1, limit, row.failures)  # first calls are nobody's time
    row.analysis = measure(analyses, lambda: subject, repeats, limit, row.failures)
    row.pruning = measure(prunings, subject.copy, repeats, limit, row.failures)
    for who in LIBRARIES:
        if who not in row.failures:
            check(who, subject, row)
    return row


def check(who: str, subject: Subject, row: Row) -> None:
    """Note the share of parameters that stays, and whether the pruned model runs."""
    pruned = subject.copy()
    LIBRARIES[who].prune(pruned)
    row.left[who] = _parameters(pruned.model) / _parameters(subject.model)
    try:
        with torch.no_grad():
            pruned.model.eval()(pruned.image)
    except Exception as error:
        row.failures[who] = f"its result does not run: {_reason(error)}"


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def counted(rows: Sequence[Row], part: str) -> list[float]:
    """The ratios of all models that both libraries can do, with results that run."""
    return [r for row in rows if not row.failures and (r := getattr(row, part).ratio)]


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="fxprune against Torch-Pruning", header_style="bold")
    table.add_column("model", no_wrap=True)
    for task in ("analysis", "pruning"):
        for column in ("fxprune ms", "peer ms", "ratio"):
            table.add_column(f"{task}\n{column}", justify="right", no_wrap=True)
    for column in ("fxprune", "peer"):
        table.add_column(f"params left\n{column}", justify="right", no_wrap=True)
    table.add_column("notes")
    for row in rows:
        table.add_row(*_cells(row), style="yellow" if row.failures else "")
    console.print(table)


def _cells(row: Row) -> list[str]:
    timings = [c for p in (row.analysis, row.pruning) for c in (_ms(p.ours), _ms(p.peer), _times(p.ratio))]
    left = [f"{row.left[who]:.2f}" if who in row.left else "" for who in LIBRARIES]
    return [row.model, *timings, *left, notes(row)]


def notes(row: Row) -> str:
    failures = [f"{'fxprune' if who == 'ours' else 'peer'} fails: {why}" for who, why in row.failures.items()]
    parts = {"analysis": row.analysis.runs, "pruning": row.pruning.runs}
    return "; ".join([*failures, *(f"{task}: {runs} runs only" for task, runs in parts.items() if runs)])


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:,.0f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def summary(rows: Sequence[Row], repeats: int) -> str:
    """Machine facts and a Markdown block for the README."""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "torchvision", "torch-pruning", "fxprune"))
    how = f"CPU time on {torch.get_num_threads()} thread, median of {repeats} runs by turns in one process"
    failed = [row for row in rows if row.failures]
    lines = [
        f"Torch-Pruning's time divided by fxprune's. {how}; {versions}.",
        "",
        "| torchvision classification | models | fxprune faster | geometric mean | smallest | median |",
        "|---|---|---|---|---|---|",
        _line("analysis: all groups", counted(rows, "analysis")),
        _line(f"pruning: model to model at ratio {RATIO}, L2 magnitude", counted(rows, "pruning")),
    ]
    if failed:
        lines += ["", f"Left out, {len(failed)} of {len(rows)}:", *(f"- `{row.model}`: {notes(row)}" for row in failed)]
    return "\n".join(lines)


def _line(what: str, ratios: list[float]) -> str:
    if not ratios:
        return f"| {what} | 0 | | | | |"
    faster = sum(r > 1 for r in ratios)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    share = f"{faster} ({100 * faster / len(ratios):.0f} %)"
    return f"| {what} | {len(ratios)} | {share} | {mean:.2f}x | {min(ratios):.2f}x | {statistics.median(ratios):.2f}x |"


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="Model names or shell patterns; all if none.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; the median counts.")] = 5,
    limit: Annotated[float, typer.Option(help="Seconds after which a run counts as failed.")] = 120.0,
    out: Annotated[Path | None, typer.Option("--json", help="Write all rows to this file.")] = None,
) -> None:
    """Time fxprune's analysis and pruning against Torch-Pruning's, on torchvision's classification models."""
    names = torchvision.models.list_models(torchvision.models)
    chosen = [n for n in names if not patterns or any(fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no torchvision classification model is called {patterns}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    examine("resnet18", 1, limit)  # nor are imports
    rows: list[Row] = []
    for name in track(chosen, description="benchmark", console=Console(stderr=True)):
        rows.append(examine(name, repeats, limit))
        if out:
            out.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    console = Console()
    show(rows, console if console.is_terminal else Console(width=170))
    console.print(summary(rows, repeats), markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
