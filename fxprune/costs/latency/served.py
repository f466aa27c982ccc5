"""Served: latency in another engine than PyTorch, from whole models of several widths that run there.

An engine fuses ops and lays tensors out in its own way, so that no sum of single ops is its time. But what kinds of ops
cost there, in parts of what they take in PyTorch, can be fitted to a few whole models:

    seconds = overhead + Σ_kinds (factor(kind) · Σ_calls of this kind seconds in PyTorch at the call's widths
                                  + block factor(kind) · the same at widths rounded up to whole blocks)

with factors of at least 0: what an engine fuses away costs nothing, and an engine that works on whole blocks of
channels takes as long for a part of a block.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.analysis.groups import Groups
from fxprune.costs.latency.calls import Operand, TimedCall
from fxprune.costs.latency.engines import Engine, engine_name
from fxprune.costs.latency.grid import Floats
from fxprune.costs.latency.prediction import Latency
from fxprune.costs.latency.table import LatencyTable, key_of
from fxprune.costs.latency.timer import median_by_turns
from fxprune.errors import InputError
from fxprune.module.isolation import isolated, set_training
from fxprune.module.written_tensors import unwatched
from fxprune.rewriting.rewrite import rewrite

if TYPE_CHECKING:
    from rich.progress import Progress

_IN_STEP = 6  # models whose groups keep the same part
_MIXED = 8  # models whose groups keep parts of their own
_RUNS = 15
_RIDGE = 1e-2  # how strongly factors keep to the whole model's own ratio, where the models tell nothing else


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
    best, upper = (surfaces.joined(surfaces.blocked()) for surfaces in (latency._best, latency._rising))
    both = replace(latency, ops=latency.ops * 2, scale=1.0, _best=best, _rising=upper)
    overhead, factors = _fitted(both, calls, widths, seconds)
    return replace(both, overhead=overhead, _best=best.scaled(factors), _rising=upper.scaled(factors))


def _widths(groups: Groups) -> list[dict[str, int]]:
    """Kept counts of the models that are run: the whole one, some in step, some mixed."""
    draw = random.Random(0)
    parts = [[k / _IN_STEP] * len(groups) for k in range(_IN_STEP, 0, -1)]
    parts += [[draw.uniform(0.15, 1.0) for _ in groups] for _ in range(_MIXED)]
    counts = [{g.name: max(1, round(p * g.size)) for g, p in zip(groups, each, strict=True)} for each in parts]
    return [dict(groups.in_step(each)) for each in counts]


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
            found = median_by_turns(runs, _device(groups), _RUNS)
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

    each = latency._best(np.stack([latency._vector(w) for w in widths], axis=1))  # (calls and calls in blocks, models)
    names = [f"{place} {_kind(c)}" for place in ("at its widths", "in blocks") for c in calls]
    kinds, kind_of = np.unique(names, return_inverse=True)
    sums = np.zeros((len(kinds), len(widths)))
    np.add.at(sums, kind_of, each)
    whole = max(sums[:, 0].sum() / 2, 1e-12)  # every call is there twice
    ratio, share = seconds[0] / whole, sums[:, 0] / whole
    # Unknowns: overhead in units of the whole model's time, and factors in units of its ratio.
    rows = np.concatenate([np.full((1, len(widths)), seconds[0]), ratio * sums]) / seconds
    ridge = _RIDGE * np.diag(np.concatenate([[1.0], share]))
    wanted = _RIDGE * np.concatenate([[0.0], share / 2])
    found, _ = nnls(np.concatenate([rows.T, ridge]), np.concatenate([np.ones(len(widths)), wanted]))
    return float(found[0] * seconds[0]), ratio * found[1:][kind_of]


def _kind(call: TimedCall) -> str:
    """The op, with the size of its kernel, and whether it reads each channel alone."""
    weights = [o for o in call.args if isinstance(o, Operand) and o.is_weight and len(o.dims) > 2]
    kernels = [[n for n, _ in o.dims[2:]] + ["alone"] * (o.dims[1] == (1, -1)) for o in weights]
    return f"{call.op} {kernels}"
