"""What `bench_analysis.py` compares: the same two tasks in fxprune and in Torch-Pruning, timed for one model.

The peer is used as its README and its own torchvision script do, and spared what would slow it down: inputs come as a
tuple (it tries a bare tensor without its batch dim first), the grouping dicts are fresh (its mutable defaults keep
earlier models), and auxiliary heads, which it does not see, are left out. It needs autograd's tape; fxprune does not.
"""

from __future__ import annotations

import copy
import gc
import resource
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import fxprune

RATIO = 0.5
T = TypeVar("T")


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

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def build(name: str) -> Subject:
    """The untrained model in evaluation mode, without auxiliary heads."""
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if options:
        options["aux_logits"] = False
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    size = 299 if "inception" in name else 224
    return Subject(model, torch.rand(1, 3, size, size))


Task = Callable[[Subject], object]


def our_analysis(s: Subject) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(s.model, s.image))


def our_pruning(s: Subject) -> nn.Module:
    groups = our_analysis(s)
    scores = fxprune.scorers.L2Norm()(s.model, groups)
    return fxprune.rewrite(s.model, fxprune.planners.Uniform(RATIO)(groups, scores), inplace=True)


def our_default(s: Subject) -> nn.Module:
    """What a user calls: with the proof, and the report."""
    return fxprune.prune(s.model, s.image, pruning_ratio=RATIO).model


def our_unproven(s: Subject) -> nn.Module:
    return fxprune.prune(s.model, s.image, pruning_ratio=RATIO, verify=False).model


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


ANALYSES: dict[str, Task] = {"ours": our_analysis, "peer": peer_analysis}
PRUNINGS: dict[str, Task] = {"ours": our_pruning, "peer": peer_pruning}
DEFAULTS: dict[str, Task] = {"ours": our_default, "peer": peer_pruning, "unproven": our_unproven}


@dataclass
class Part:
    """CPU seconds of each run of one task, by library; `unproven`: of fxprune without its proof."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    unproven: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float] | None:
        return (statistics.median(self.ours), statistics.median(self.peer)) if self.ours and self.peer else None

    @property
    def ratio(self) -> float | None:
        """The peer's median divided by ours."""
        return self.medians[1] / self.medians[0] if self.medians else None

    @property
    def proof(self) -> float | None:
        """The median with the proof divided by that without."""
        return statistics.median(self.ours) / statistics.median(self.unproven) if self.unproven else None


@dataclass
class Row:
    """One model's results.

    Attributes:
        model: its name.
        analysis: seconds; none if a library fails.
        pruning: likewise.
        default: likewise; with what fxprune does by default, the proof included.
        left: the share of parameters that stays, by library.
        failures: why a library fails, by library; "both" if the process that times them does.
    """

    model: str
    analysis: Part = field(default_factory=Part)
    pruning: Part = field(default_factory=Part)
    default: Part = field(default_factory=Part)
    left: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def examine(name: str, repeats: int, limit: int) -> Row:
    """One model's row. Only what both libraries can do is timed; a failure is a part of the row.

    Args:
        name: of the model.
        repeats: timed runs of each task.
        limit: CPU seconds in which a library must have analysed and pruned the model once.
    """
    row, subject = Row(name), build(name)
    for who in PRUNINGS:
        left, failure = in_process(lambda who=who: _tried(who, subject), limit)  # type: ignore[misc]
        row.left |= {} if left is None else {who: left}
        row.failures |= {who: failure} if failure else {}
    if not row.failures:
        row.analysis = measure(ANALYSES, lambda: subject, repeats)
        row.pruning = measure(PRUNINGS, subject.copy, repeats)
        row.default = measure(DEFAULTS, subject.copy, repeats)
    return row


class BadResultError(Exception):
    """A pruned model that does not run."""


def _tried(who: str, subject: Subject) -> float:
    """Analyse, prune and run once: the share of parameters that stays."""
    ANALYSES[who](subject)
    pruned = subject.copy()
    PRUNINGS[who](pruned)
    try:
        with torch.no_grad():
            pruned.model.eval()(pruned.image)
    except Exception as error:
        raise BadResultError(f"its result does not run: {_reason(error)}") from error
    return pruned.parameters() / subject.parameters()


def measure(tasks: dict[str, Task], new: Callable[[], Subject], repeats: int) -> Part:
    """Time the tasks by turns, in changing order, each run on `new()`; a first round is nobody's time."""
    part = Part()
    for turn in range(repeats + 1):
        for who in sorted(tasks, reverse=bool(turn % 2)):
            seconds = _timed(tasks[who], new())
            if turn:
                getattr(part, who).append(seconds)
    return part


def _timed(task: Task, subject: Subject) -> float:
    """CPU seconds of one run; garbage is collected before."""
    gc.collect()
    start = time.process_time()
    task(subject)
    return time.process_time() - start


_FORK = get_context("fork")  # a child has the model and all imports


def in_process(work: Callable[[], T], limit: int | None = None) -> tuple[T | None, str]:
    """The result of `work` in a process of its own, or why there is none.

    Nothing that it does to memory is left here, and nothing that it catches keeps it going.

    Args:
        work: what to run.
        limit: CPU seconds after which the process ends; it may wait ten times as long for its turn.
    """
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_child, args=(work, limit, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(None if limit is None else 10 * limit):
            return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        return None, f"longer than {limit} s" if late else f"its process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return None, f"no result after {10 * (limit or 0)} s"


def _child(work: Callable[[], object], limit: int | None, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    try:
        sender.send((work(), ""))
    except Exception as error:
        sender.send((None, _reason(error)))


def _reason(error: Exception) -> str:
    first = str(error).partition("\n")[0][:120]
    return (
        first if type(error) is RuntimeError and first.startswith("its result") else f"{type(error).__name__}: {first}"
    )
