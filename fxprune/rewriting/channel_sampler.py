"""Channel samplers: a layer reads a part of a stream's channels while the stream keeps them all.

In a residual network all blocks write into one stream, whose width they share. A sampler in front of a block's first
layer lets that layer drop input channels of its own choice: it selects them from the stream, which nobody else notices
(He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.errors import InputError, check_model
from fxprune.module.names import fits, names_of
from fxprune.rewriting.copying import copied

M = TypeVar("M", bound=nn.Module)
BUFFER = "sampled_channels"


def add_samplers(model: M, layers: Iterable[str | nn.Module]) -> M:
    """A copy of the model in which some layers read their input through a channel sampler.

    It computes the same as before. In its groups, the input channels of each such layer are a group of their own
    (`fxprune.find_groups` names it after the sampler), and the stream that the layer reads stays whole. A plan for it
    applies to any fresh instance with the same samplers. The sampler is a forward pre-hook and a buffer outside
    the `state_dict`: classes and `state_dict` keys stay as they are.

    Args:
        model: untouched.
        layers: convolutions (not grouped ones) and linear layers: names, shell patterns or the modules themselves.

    Raises:
        InputError: a pattern that fits no such layer, or a layer that has a sampler already.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> net = fxprune.add_samplers(net, ["2"])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8)))
    >>> [(g.name, g.size) for g in groups]
    [('2.sampled_channels', 8)]
    >>> fxprune.rewrite(net, groups.plan({"2.sampled_channels": [0, 3, 5]}))[2].in_channels
    3
    """
    check_model("the model", model)
    names, model = names_of(model, layers), copied(model)
    for pattern in names:
        chosen = [(n, m) for n, m in model.named_modules() if fits(n, pattern) and _can_sample(m)]
        if not chosen:
            remedy = "name nn.Conv1d, nn.Conv2d, nn.Conv3d (groups=1) or nn.Linear modules"
            raise InputError("no layer that can read through a sampler has this name", seen=pattern, remedy=remedy)
        for name, module in chosen:
            _add(name, module)
    return model


def _can_sample(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.groups == 1
    return isinstance(module, nn.Linear)


def _add(name: str, module: Any) -> None:
    if hasattr(module, BUFFER):
        raise InputError("the layer has a sampler already", where=name, remedy="add samplers to the original model")
    every = torch.arange(module.weight.shape[1], device=module.weight.device)
    module.register_buffer(BUFFER, every, persistent=False)
    module.register_forward_pre_hook(_sample)


def _sample(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layer's input, of shape (batch, channels, *positions) or (..., features), at the sampled channels."""
    dim = -1 if isinstance(module, nn.Linear) else 1 - module.weight.dim()
    return (args[0].index_select(dim, getattr(module, BUFFER)), *args[1:])
