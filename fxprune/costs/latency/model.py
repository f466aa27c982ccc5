"""Measuring what a model's latency is made of: its ops from a table, and the model as a whole."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.groups import Groups
from fxprune.costs.latency.calls import TimedCall, calls_of
from fxprune.costs.latency.engines import Engine
from fxprune.costs.latency.grid import Floats, grid, points, rising, surfaces
from fxprune.costs.latency.prediction import Latency
from fxprune.costs.latency.served import in_engine
from fxprune.costs.latency.table import LatencyTable, Setting, default_folder, key_of
from fxprune.costs.latency.timer import Timer, clock
from fxprune.errors import InputError, check_kind
from fxprune.module.code_print import told
from fxprune.module.isolation import as_call, call, cloned, isolated, random_states, set_training
from fxprune.module.written_tensors import unwatched
from fxprune.optional import progress_bar
from fxprune.rewriting.rewrite import rewrite

if TYPE_CHECKING:
    from rich.progress import Progress


def measure(
    groups: Groups,
    path: str | os.PathLike[str] | None = None,
    *,
    rounds: int = 3,
    progress: bool = True,
    engine: Engine | None = None,
) -> Latency:
    """Measure what a model's latency is made of, and predict it for any widths.

    Every op of the recorded forward that takes time is run by itself, on tensors of the shapes that it has at a grid
    of widths, on the model's device, with the threads that `torch.get_num_threads()` tells; equal ops of equal shapes
    once. Then the model, and a copy of an eighth of its width, are run whole, by turns: they tell the scale and the
    overhead of `Latency`. What is measured is kept in a file; a second call reads it and measures nothing, and a call
    that was interrupted goes on.

    With one thread on a CPU the time is CPU time: what a machine without other programs would take.

    What is predicted is a forward in evaluation mode, without gradients, as PyTorch executes it op by op. A model that
    fuses attention is predicted from attention's parts. With `engine`, it is a forward where the model is served: the
    model and 28 smaller ones run there as well, and what kinds of ops cost is fitted to them.

    Args:
        groups: of the model, whose example inputs set batch and image size. The model stays as it is.
        path: a directory, with one file for each device, version of PyTorch, number of threads and dtype; or such a
            file (`.json`). Default: `fxprune/latency` in the user's cache directory.
        rounds: how often each is measured, at different times; the median counts.
        progress: show a progress bar.
        engine: `fxprune.latency.onnx_runtime`, `fxprune.latency.compiled`, or a function `(model, (args, kwargs))` that
            makes a model ready and gives a function that runs one forward. None for PyTorch, op by op. What a function
            of yours takes is measured each time, by the time that passes, and not kept: it may do something else
            under its name tomorrow.

    Raises:
        InputError: a model on meta tensors, a damaged file, or an engine that refuses the model.

    >>> import tempfile, torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(16, 64)))
    >>> latency = fxprune.latency.measure(groups, tempfile.mkdtemp(), rounds=1, progress=False)
    >>> 0 < latency.rising({"0": 8}) <= latency.rising({"0": 32})
    True
    """
    check_kind("the groups", groups, Groups, "give fxprune.find_groups(fxprune.trace(model, example_inputs))")
    if rounds < 1:
        raise InputError("rounds out of range", seen=str(rounds), remedy="give a number of at least 1")
    device, dtype = _where(groups)
    table = LatencyTable(Path(path) if path is not None else default_folder(), Setting.present(device, dtype))
    calls = list(calls_of(groups.analysis))
    with random_states(), progress_bar(progress) as bar:
        try:
            _fill(table, calls, device, rounds, bar)
            latency = _latency(groups.analysis, calls, table, _whole_runs(table, groups, calls, rounds, bar))
            return latency if engine is None else in_engine(latency, groups, calls, engine, table, bar)
        finally:
            if table.changed:
                table.save()


def _where(groups: Groups) -> tuple[torch.device, torch.dtype]:
    tensors = [t for t in (*groups.graph.tensors.values(), *tree_leaves(groups.graph.inputs)) if isinstance(t, Tensor)]
    if any(t.is_meta for t in tensors):
        raise InputError("a model on meta tensors takes no time", remedy="give it data, and trace it again")
    return tensors[0].device, next((t.dtype for t in tensors if t.dtype.is_floating_point), torch.float32)


def _fill(table: LatencyTable, calls: Sequence[TimedCall], device: torch.device, rounds: int, bar: Progress) -> None:
    """Measure what the table lacks, in rounds, so that a disturbance meets each call once at most."""
    wanted = {key_of(c, p): (c, p) for c in calls for p in points(grid(c))}
    lacking = [[key for key in wanted if table.rounds(key) <= i] for i in range(rounds)]
    task = bar.add_task("ops", total=sum(map(len, lacking)))
    timer = Timer(device) if any(lacking) else None
    for keys in lacking:
        for key in random.Random(0).sample(keys, len(keys)):
            call, point = wanted[key]
            assert timer is not None
            table.add(key, timer(call.op, *call.at(point)))
            bar.update(task, advance=1, description=call.op._opname)


@dataclass(frozen=True)
class _Whole:
    """Seconds of whole models: as it is, and with `counts` channels of its groups."""

    full: float
    narrow: float
    counts: dict[str, int]


_NARROW = 1 / 8  # of each group's channels
_RUNS = 15


def _whole_runs(table: LatencyTable, groups: Groups, calls: Sequence[TimedCall], rounds: int, bar: Progress) -> _Whole:
    counts = groups.in_step({g.name: max(1, round(_NARROW * g.size)) for g in groups})
    keys = [f"model {part} {_fingerprint(groups, calls, counts)}" for part in ("full", "narrow")]
    lacking = rounds - min(map(table.rounds, keys))
    task = bar.add_task("the whole model", total=max(lacking, 0))
    if lacking > 0:
        model = groups.graph.model
        narrow = rewrite(model, groups.plan({name: range(n) for name, n in counts.items()}))
        arguments, keywords = groups.graph.inputs
        for _ in range(lacking):
            for key, seconds in zip(keys, by_turns([model, narrow], arguments or keywords, _RUNS), strict=True):
                table.add(key, statistics.median(seconds))
            bar.update(task, advance=1)
    full, small = (table.seconds(key) or 0.0 for key in keys)
    return _Whole(full, small, counts)


def _fingerprint(groups: Groups, calls: Sequence[TimedCall], counts: Mapping[str, int]) -> str:
    kinds = {type(m): None for m in groups.graph.model.modules()}
    words = [*(_code_of(kind) for kind in kinds), str(sorted(counts.items()))]
    words += [key_of(c, [a.full for a in c.axes]) for c in calls]
    return hashlib.blake2b("|".join(words).encode(), digest_size=8).hexdigest()


def _code_of(kind: type[nn.Module]) -> str:
    """What a class of modules runs: its name, and the code of its functions. PyTorch's own have its version."""
    own = [k for k in kind.__mro__ if not k.__module__.startswith("torch.") and k is not object]
    functions = [f for k in own for f in vars(k).values() if isinstance(f, FunctionType)]
    return f"{kind.__module__}.{kind.__qualname__} {[told(f.__code__) for f in functions]}"


def by_turns(models: Sequence[nn.Module], example_inputs: Any, runs: int = 9) -> list[list[float]]:
    """Seconds of forwards of several models, one model after another, so that a disturbance meets all alike.

    In evaluation mode, without gradients; CPU time where there is one thread, as in `measure`. Models, and random
    states, are afterwards as before. Two forwards of each are made before any is timed.

    Args:
        models: on one device.
        example_inputs: as of `fxprune.trace`.
        runs: timed forwards of each model.

    Returns:
        Seconds of each run of each model.
    """
    inputs, seconds = as_call(example_inputs), [list[float]() for _ in models]
    device = next(t.device for t in tree_leaves(inputs) if isinstance(t, Tensor))
    with ExitStack() as undo:
        models = [undo.enter_context(isolated(model, keep_buffers=True)) for model in models]
        for model in models:
            set_training(model, False)
        undo.enter_context(torch.inference_mode())
        for run in range(-2, runs):
            if run == 0:  # whatever the models write to is kept by now; watching would cost time
                undo.enter_context(unwatched())
            for model, own in zip(models, seconds, strict=True):
                taken = clock(partial(call, model, cloned(inputs)), device)
                if run >= 0:
                    own.append(taken)
    return seconds


def _latency(analysis: Analysis, calls: Sequence[TimedCall], table: LatencyTable, whole: _Whole) -> Latency:
    times, unmeasured = [], Counter[str]()
    for c in calls:
        seconds = _times(c, table)
        unmeasured[str(c.op)] += seconds is None
        times.append(np.zeros([len(axis) for axis in grid(c)]) if seconds is None else seconds)
    names, sizes = [g.name for g in analysis.groups], np.array([g.size for g in analysis.groups], dtype=np.float64)
    best = surfaces(calls, times, len(names))
    upper = surfaces(calls, list(map(rising, times)), len(names))
    upper = replace(upper, times=upper.times * float(best(sizes).sum() / max(upper(sizes).sum(), 1e-12)))
    ops = tuple(c.op._opname for c in calls)
    latency = Latency(tuple(names), sizes, ops, 1.0, 0.0, +unmeasured, best, upper)
    scale, overhead = _fitted(latency.of(), latency(whole.counts), whole)
    return replace(latency, scale=scale, overhead=overhead)


def _times(call: TimedCall, table: LatencyTable) -> Floats | None:
    """Seconds on the call's grid; where the op refused a width, in proportion. None if it cannot be run by itself."""
    axes = grid(call)
    full = table.seconds(key_of(call, [axis[-1] for axis in axes]))
    if full is None:
        return None
    parts = np.array([[p / axis[-1] for p, axis in zip(point, axes, strict=True)] for point in product(*axes)])
    measured = [table.seconds(key_of(call, point)) for point in product(*axes)]
    filled = [full * part if s is None else s for s, part in zip(measured, parts.prod(1).tolist(), strict=True)]
    return np.array(filled).reshape([len(axis) for axis in axes])


def _fitted(full: float, narrow: float, whole: _Whole) -> tuple[float, float]:
    """Scale and overhead that fit both whole models; where no overhead of at least zero does, the full one alone."""
    ops, difference = full - narrow, whole.full - whole.narrow
    if ops > 0 and difference > 0 and whole.full - full * difference / ops >= 0:
        return difference / ops, whole.full - full * difference / ops
    return (whole.full / full, 0.0) if full > 0 else (1.0, whole.full)
