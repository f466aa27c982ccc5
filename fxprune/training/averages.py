"""Averages of a model's weights: the copies of the model that they hold."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.module.tensors import tensors_of


def copies_of(averages: Iterable[nn.Module], model: nn.Module) -> list[nn.Module]:
    """The copies of a model that averages of its weights are, or hold as `.module`.

    Raises:
        InputError: one is the model itself, or of another model.
    """
    found = list[nn.Module]()
    for average in averages:
        inner = getattr(average, "module", None)
        found.append(inner if isinstance(inner, nn.Module) else average)
    for one in found:
        if one is model:
            remedy = "give a copy, such as torch.optim.swa_utils.AveragedModel(model)"
            raise InputError("the average of the weights is the model itself", seen=type(one).__name__, remedy=remedy)
        shapes = {name: t.shape for name, t in tensors_of(one).items()}
        for name, tensor in tensors_of(model).items():
            if shapes.get(name) != tensor.shape:
                seen = f"{name} is {tuple(shapes[name])}, not {tuple(tensor.shape)}" if name in shapes else f"no {name}"
                remedy = "give a copy of the model, or a wrapper that holds one as .module"
                raise InputError("what is given as an average is of another model", seen=seen, remedy=remedy)
    return found


def take_values(model: nn.Module, small: nn.Module) -> None:
    """Copy the values of a model of the same shapes."""
    values = tensors_of(small)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(values[name])
