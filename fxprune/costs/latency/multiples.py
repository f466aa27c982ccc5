"""Multiples: which widths pay on a device, in the engine that serves."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fxprune.costs.latency.engines import Engine, engine_name
from fxprune.costs.latency.table import LatencyTable, Setting, default_folder
from fxprune.costs.latency.timer import median_by_turns
from fxprune.module.isolation import Inputs, as_call, call, random_states

MULTIPLES = (4, 8, 16, 32)


def rounding_costs(
    engine: Engine | None = None,
    *,
    kernel: int = 3,
    size: int = 28,
    widths: Sequence[int] = range(33, 65),
    runs: int = 15,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[int, float]:
    """What it costs to round widths up to a multiple: the latency of two convolutions, as a part of what it was.

        cost(m) = mean over widths w of seconds(w rounded up to a multiple of m) / seconds(w)

    At most 1: the additional channels are free, or make the layers quicker. A smooth device gives about 1 + (m − 1) / w
    or more.

    Args:
        engine: as of `fxprune.latency.measure`; None for PyTorch, op by op.
        kernel: height and width of the convolutions.
        size: height and width of the image.
        widths: channels of both convolutions; the largest is a multiple of all.
        runs: timed forwards of each width; the median counts.
        device: where the convolutions run.
        dtype: of their weights and inputs.

    Returns:
        {multiple: cost} for 4, 8, 16 and 32.

    >>> import fxprune
    >>> costs = fxprune.latency.rounding_costs(size=4, widths=range(25, 33), runs=1)
    >>> list(costs)
    [4, 8, 16, 32]
    """
    where = torch.device(device)
    inputs = {w: as_call(torch.ones(1, w, size, size, device=where, dtype=dtype)) for w in widths}
    with torch.no_grad(), random_states():
        models = {w: nn.Sequential(*_layer(w, kernel), *_layer(w, kernel)).to(where, dtype).eval() for w in widths}
        runs_of = [(engine or _eager)(models[w], inputs[w]) for w in widths]
        waits = engine_name(engine) is None
        seconds = dict(zip(widths, median_by_turns(runs_of, where, runs, waits=waits), strict=True))
    return {m: sum(seconds[-(-w // m) * m] / seconds[w] for w in widths) / len(widths) for m in MULTIPLES}


def best_multiple(
    engine: Engine | None = None,
    *,
    kernel: int = 3,
    size: int = 28,
    path: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> int:
    """The largest multiple to which widths can be rounded up for nothing; 1 if there is none: for `round_to=`.

    What is measured is kept with the times of ops, so that a second call gives the same answer.

    Args:
        engine: as of `fxprune.latency.measure`; None for PyTorch, op by op.
        kernel: as of `rounding_costs`.
        size: as of `rounding_costs`.
        path: as of `fxprune.latency.measure`.
        device: as of `rounding_costs`.
        dtype: as of `rounding_costs`.

    >>> import tempfile, fxprune
    >>> fxprune.latency.best_multiple(size=4, path=tempfile.mkdtemp()) in (1, 4, 8, 16, 32)
    True
    """
    where, name = torch.device(device), engine_name(engine)
    if name is None:
        return _largest(rounding_costs(engine, kernel=kernel, size=size, device=where, dtype=dtype))
    folder = default_folder() if path is None else Path(path)
    table = LatencyTable(folder, Setting.present(where, dtype))
    keys = {m: f"rounding to {m} {name} kernel {kernel} size {size}" for m in MULTIPLES}
    if not all(map(table.rounds, keys.values())):
        for m, cost in rounding_costs(engine, kernel=kernel, size=size, device=where, dtype=dtype).items():
            table.add(keys[m], cost)
        table.save()
    return _largest({m: table.seconds(key) or math.inf for m, key in keys.items()})


def _largest(costs: Mapping[int, float]) -> int:
    return max([1, *(m for m, cost in costs.items() if cost <= 1)])


def _layer(width: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.ReLU()]


def _eager(model: nn.Module, inputs: Inputs) -> partial[object]:
    return partial(call, model, inputs)
