"""Models that are made from a config: widths that the config can say, and files that need nothing of fxprune."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import nn

from fxprune.errors import InputError, PlanError
from fxprune.module.isolation import Inputs, call, cloned, output_tensors
from fxprune.plan.plan import Plan

_MOST_FIELDS = 4  # of a config that change together
_CLOSE = 1e-4  # relative: the outputs of a model that was made again


def save_pretrained(model: nn.Module, plan: Plan, inputs: Inputs, path: str | os.PathLike[str]) -> None:
    """Save a pruned model of transformers so that its own `from_pretrained` reads it, if its config can say the widths.

    Args:
        model: the pruned model; its config is replaced by the new one.
        plan: what it was cut by.
        inputs: of one call, on which the model that the new config makes must give the same outputs.
        path: of the folder.

    Raises:
        InputError: the model has no config or no `save_pretrained`.
        PlanError: no config makes a model of these widths, for instance since its layers differ.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not hasattr(model, "save_pretrained") or not hasattr(config, "to_dict"):
        raise InputError("the model has no config to save", seen=type(model).__name__, remedy="use result.save(folder)")
    for changes in _changes(config.to_dict(), plan):
        new = copy.deepcopy(config)
        for name, value in changes.items():
            setattr(new, name, value)
        if _makes(new, model, inputs):
            model.config = new
            model.save_pretrained(path)  # type: ignore[operator]
            return
    name = type(model).__name__
    raise PlanError(
        "the config cannot say the widths of the pruned model",
        where=name,
        seen=", ".join(f"{g}: {n}" for g, n in list(plan.kept_counts().items())[:6]),
        remedy=f"save by result.save(folder), and load by fxprune.load(folder, lambda: {name}(config)) with the "
        "original's config; or prune groups that one field of the config names by the same ratio",
    )


def _changes(fields: Mapping[str, Any], plan: Plan) -> Iterator[dict[str, int]]:
    """Fields that hold the full width of groups which all keep the same count, few of them first; then with one more
    that holds a multiple, as the heads of queries are of groups of keys and values.
    """
    kept: dict[int, set[int]] = {}
    for group in plan.groups.values():
        kept.setdefault(group.size, set()).add(len(group.kept))
    agreed = {size: left for size, (left, *others) in kept.items() if not others and left != size}
    numbers = {name: value for name, value in fields.items() if type(value) is int}
    able = {name: agreed[value] for name, value in numbers.items() if value in agreed}
    named = [size for size in agreed if size > 1 and size in numbers.values()]
    multiples = [
        {name: value // s * agreed[s]}
        for name, value in numbers.items()
        for s in named
        if value not in kept and value and value % s == 0
    ]
    for further in ({}, *multiples):
        for count in range(min(len(able), _MOST_FIELDS) + 1):
            yield from ({**dict(some), **further} for some in combinations(able.items(), count))


def _makes(config: Any, model: nn.Module, inputs: Inputs) -> bool:
    """Whether the config makes a model with these shapes which, with these weights, gives these outputs."""
    kind: Any = type(model)
    try:
        with torch.device("meta"):
            empty = kind(config).state_dict()
        state = model.state_dict()
        if {n: t.shape for n, t in empty.items()} != {n: t.shape for n, t in state.items()}:
            return False
        made = kind(config).eval()
        made.load_state_dict(state)
        with torch.inference_mode():
            pairs = zip(*(output_tensors(call(m.eval(), cloned(inputs))) for m in (model, made)), strict=True)
            return all((a - b).abs().max() <= _CLOSE * a.abs().max().clamp_min(1e-12) for a, b in pairs)
    except Exception:  # a config of other widths may be refused in any way
        return False
