"""Served: latency in another engine than PyTorch, from whole models of several widths that run there.

An engine fuses ops and lays tensors out in its own way, so that no sum of single ops is its time. But what kinds of ops
cost there, in parts of what they take in PyTorch, can be fitted to a few whole models:

    seconds = overhead + Σ_kinds (factor(kind) · Σ_calls of this kind seconds in PyTorch at the call's widths
                                  + block factor(kind) · the same at widths rounded up to whole blocks
                                  + work factor(kind) · Σ_calls seconds at full width · Π_widths part that is kept
                                  + Σ_m stray factor(kind, m) · the last, of calls whose widths m does not divide)

for m = 4, 8, 16, with factors of at least 0: what an engine fuses away costs nothing, an engine that works on whole
blocks of channels takes as long for a part of a block, one that calls an op for less than PyTorch gains more from small
widths, and one that has a quick way for whole blocks alone (ONNX Runtime on CPUs) takes far longer for other widths.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.analysis.groups import Groups
from fxprune.costs.latency.calls import Operand, TimedCall
from fxprune.costs.latency.engines import Engine, engine_name
from fxprune.costs.latency.grid import Floats, Surfaces, grid, surfaces
from fxprune.costs.latency.prediction import Latency
from fxprune.costs.latency.table import LatencyTable, key_of
from fxprune.costs.latency.timer import median_by_turns
from fxprune.errors import InputError
from fxprune.module.isolation import isolated, set_training
from fxprune.module.written_tensors import unwatched
from fxprune.rewriting.rewrite import rewrite

if TYPE_CHECKING:
    from rich.progress import Progress

_SMOOTH = 3  # forms of a call's time that do not ask what divides its widths; the first ones
_STRAYS = (4, 8, 16)  # what widths may have to be multiples of
# Models whose groups keep the same part of their channels: multiples of a number, and of no power of two above it.
_IN_STEP = {16: (1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6), 8: (2 / 3, 1 / 3), 4: (2 / 3, 1 / 3), 1: (3 / 4, 1 / 2, 1 / 4)}
_MIXED = 16  # models whose groups keep parts of their own
_RUNS = 15
_RIDGE = 0.05  # how strongly factors keep to the whole model's own ratio, where the models tell nothing else


def in_engine(
    latency: Latency, groups: Groups, calls: Sequence[TimedCall], engine: Engine, table: LatencyTable, bar: Progress
) -> Latency:
    """A prediction in PyTorch, fitted to an engine.

    Args:
        latency: in PyTorch.
        groups: of the model.
        calls: that `latency` is made of.
        engine: runs models.
        table: keeps what was measured.
        bar: shows progress.
    """
    widths = list(_widths(groups))
    seconds = _measured(groups, calls, widths, engine, table, bar)
    work = surfaces(calls, list(_in_proportion(latency, calls)), len(groups))
    forms = (latency._best, latency._best.blocked(), work, *map(work.strays, _STRAYS))
    all_forms = replace(latency, ops=latency.ops * len(forms), scale=1.0, _best=reduce(Surfaces.joined, forms))
    overhead, factors = _fitted(all_forms, calls, widths, seconds)
    rising = latency._rising.joined(latency._rising.blocked()).joined(work).scaled(factors[: _SMOOTH * len(calls)])
    return replace(all_forms, overhead=overhead, _best=all_forms._best.scaled(factors), _rising=rising)


def part_in_engine(groups: Groups, counts: Mapping[str, int], engine: Engine) -> float:
    """The part of the whole model's time that a smaller one takes in an engine, run by turns.

    Args:
        groups: of the model.
        counts: kept channels; groups that are not named are whole.
        engine: runs models.
    """
    with ExitStack() as undo:
        runs = [
            _ready(groups, {g.name: kept.get(g.name, g.size) for g in groups}, engine, undo) for kept in ({}, counts)
        ]
        with unwatched():
            whole, small = median_by_turns(runs, _device(groups), _RUNS, waits=engine_name(engine) is None)
    return small / max(whole, 1e-12)


def _in_proportion(latency: Latency, calls: Sequence[TimedCall]) -> Iterator[Floats]:
    """Seconds of each call on its grid, as a part of those at full width that goes by its widths."""
    for call, seconds in zip(calls, latency._best(latency.sizes), strict=True):
        parts = [np.array(at) / axis.full for at, axis in zip(grid(call), call.axes, strict=True)]
        yield seconds * reduce(np.multiply.outer, parts, np.ones(()))


def _widths(groups: Groups) -> list[dict[str, int]]:
    """Kept counts of the models that are run: the whole one, some in step, some mixed."""
    draw = random.Random(0)
    counts = [
        {g.name: _count(part * g.size, g.size, multiple) for g in groups}
        for multiple, parts in _IN_STEP.items()
        for part in parts
    ]
    counts += [
        {g.name: _count(draw.uniform(0.15, 1.0) * g.size, g.size, draw.choice(list(_IN_STEP))) for g in groups}
        for _ in range(_MIXED)
    ]
    return [dict(groups.in_step(each)) for each in counts]


def _count(wanted: float, size: int, multiple: int) -> int:
    """A count near the wanted one that `multiple` divides, and, below 16, no power of two above it."""
    while multiple > 1 and 2 * multiple > size:
        multiple //= 2
    step, first = (multiple, 0) if multiple == max(_STRAYS) else (2 * multiple, multiple)
    if wanted >= size:
        return size
    return max(multiple, step * min(round((wanted - first) / step), (size - first) // step) + first)


def _measured(
    groups: Groups,
    calls: Sequence[TimedCall],
    widths: Sequence[Mapping[str, int]],
    engine: Engine,
    table: LatencyTable,
    bar: Progress,
) -> Floats:
    """Seconds of whole models in the engine; what the table knows is not measured again."""
    words, name = "|".join(key_of(c, [a.full for a in c.axes]) for c in calls), engine_name(engine)
    keys = [f"served {name} {_digest(f'{words}|{sorted(w.items())}')}" for w in widths]
    lacking = [i for i, key in enumerate(keys) if name is None or not table.rounds(key)]
    task = bar.add_task("models in the engine", total=len(lacking))
    with ExitStack() as undo:
        runs = []
        for i in lacking:
            runs.append(_ready(groups, widths[i], engine, undo))
            bar.update(task, advance=1)
        with unwatched():
            found = median_by_turns(runs, _device(groups), _RUNS, waits=name is None)
        if name is None:
            return np.array(found)
        for i, seconds in zip(lacking, found, strict=True):
            table.add(keys[i], seconds)
    return np.array([table.seconds(key) for key in keys])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _device(groups: Groups) -> torch.device:
    return next((t.device for t in tree_leaves(groups.graph.inputs) if isinstance(t, Tensor)), torch.device("cpu"))


def _ready(groups: Groups, counts: Mapping[str, int], engine: Engine, undo: ExitStack) -> Any:
    plan = groups.plan({name: range(n) for name, n in counts.items()})
    model = undo.enter_context(isolated(rewrite(groups.graph.model, plan), keep_buffers=True))
    set_training(model, False)
    run = engine(model, groups.graph.inputs)
    if not callable(run):
        remedy = "let engine(model, (args, kwargs)) return a function that runs the model once"
        raise InputError("the engine gave nothing to run", seen=type(run).__name__, remedy=remedy)
    return run


def _fitted(
    latency: Latency, calls: Sequence[TimedCall], widths: Sequence[Mapping[str, int]], seconds: Floats
) -> tuple[float, Floats]:
    """The overhead, and a factor for each call: least squares of relative errors, none below zero."""
    from scipy.optimize import nnls  # here, because it takes a while to import

    each = latency._best(np.stack([latency._vector(w) for w in widths], axis=1))  # (calls in each form, models)
    forms = len(each) // len(calls)
    kinds, of = np.unique([_kind(c) for c in calls], return_inverse=True)
    kind_of = np.concatenate([of + form * len(kinds) for form in range(forms)])
    sums = np.zeros((forms * len(kinds), len(widths)))
    np.add.at(sums, kind_of, each)
    whole = max(sums[: len(kinds), 0].sum(), 1e-12)
    ratio, share = seconds[0] / whole, np.tile(sums[: len(kinds), 0] / whole, forms)
    # Unknowns: overhead in units of the whole model's time, and factors in units of its ratio.
    rows = np.concatenate([np.full((1, len(widths)), seconds[0]), ratio * sums]) / seconds
    size = np.sqrt(share)
    ridge = _RIDGE * np.diag(np.concatenate([[1.0], size]))
    wanted = _RIDGE * np.concatenate([[0.0], size / _SMOOTH * (np.arange(len(share)) < _SMOOTH * len(kinds))])
    found, _ = nnls(np.concatenate([rows.T, ridge]), np.concatenate([np.ones(len(widths)), wanted]))
    return float(found[0] * seconds[0]), ratio * found[1:][kind_of]


def _kind(call: TimedCall) -> str:
    """The op, with the size of its kernel, and whether it reads each channel alone."""
    weights = [o for o in call.args if isinstance(o, Operand) and o.is_weight and len(o.dims) > 2]
    kernels = [[n for n, _ in o.dims[2:]] + ["alone"] * (o.dims[1] == (1, -1)) for o in weights]
    return f"{call.op} {kernels}"
