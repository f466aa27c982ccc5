"""Averages of a model's weights: the copies of the model that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.errors import InputError
from fxprune.module.batches import dtype_of
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
        if seen := difference(one, model):
            remedy = "give a copy of the model, or a wrapper that holds one as .module"
            raise InputError("what is given as an average is of another model", seen=seen, remedy=remedy)
    return found


def difference(one: nn.Module, model: nn.Module) -> str:
    """The first tensor of the model that another lacks, or has in another shape; empty if there is none."""
    shapes = {name: t.shape for name, t in tensors_of(one).items()}
    for name, tensor in tensors_of(model).items():
        if name not in shapes:
            return f"no {name}"
        if shapes[name] != tensor.shape:
            return f"{name} is {tuple(shapes[name])}, not {tuple(tensor.shape)}"
    return ""


def in_type_of(average: nn.Module, data: Iterable[Any], model: nn.Module) -> Iterable[Any]:
    """Data for the model, with floating-point inputs in the type of an average that has another."""
    kind = dtype_of(average)
    if kind is dtype_of(model):
        return data

    def cast(leaf: Any) -> Any:
        return leaf.to(kind) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    class InType:
        """Each batch is cast when it is read."""

        def __iter__(self) -> Iterator[Any]:
            return (tree_map(cast, batch) for batch in data)

    return InType()


def take_values(model: nn.Module, small: nn.Module) -> None:
    """Copy the values of a model of the same shapes."""
    values = tensors_of(small)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(values[name])
