"""Batches: what a data loader gives, as calls of a model; and running the model on them with clear errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import InputError
from fxprune.module.isolation import Inputs, as_call, call
from fxprune.tracing.trace import Graph


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch, copied to the model's device, so that a forward may write into it.

    Attributes:
        inputs: of one call of the model.
        targets: what the data loader gives beside the inputs; None if nothing.
        size: number of samples.
        place: the batch as an error names it.
    """

    inputs: Inputs
    targets: Any
    size: int
    place: str

    def run(self, model: nn.Module) -> Any:
        """The model's output.

        Raises:
            InputError: the model's forward fails on the batch.
        """
        try:
            return call(model, self.inputs)
        except InputError:
            raise
        except Exception as error:
            shapes = [tuple(t.shape) for t in tree_leaves(self.inputs) if isinstance(t, Tensor)]
            raise InputError(
                "the model's forward fails on the data",
                where=self.place,
                seen=f"{type(error).__name__}: {str(error).strip()[:200]} (inputs of shape {shapes})",
                remedy="give batches of inputs, or (inputs, targets), with which model(inputs) runs in eval mode",
            ) from error


def batches(model: nn.Module, data: Iterable[Any]) -> Iterator[Batch]:
    """The batches of `data`, on the model's device.

    Args:
        model: tells the device.
        data: batches: inputs as for `fxprune.trace`, or a list or tuple (inputs, targets) as data loaders give them.

    Raises:
        InputError: `data` is no iterable of batches, a batch holds no tensor, or there is none.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))

    def move(t: Any) -> Any:
        return t.detach().to(device, copy=True) if isinstance(t, Tensor) else t

    count = 0
    for count, batch in enumerate(_iterable(data), 1):
        inputs, targets = _parts(batch)
        tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        place = f"batch {count} of the data"
        if not tensors:
            raise InputError("a batch without a tensor", where=place, seen=str(batch)[:80], remedy=_FORM)
        size = len(tensors[0]) if tensors[0].dim() else 1
        yield Batch(tree_map(move, inputs), tree_map(move, targets), size, place)
    if not count:
        raise InputError("the data holds no batch", remedy="check the loader; iterators can be used up only once")


def noise(graph: Graph, seed: int) -> list[Any]:
    """One batch of standard normal inputs like the example's; tensors of integers are the example's own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(t: Any) -> Any:
        floating = isinstance(t, Tensor) and t.is_floating_point()
        return torch.randn(t.shape, generator=generator, dtype=t.dtype) if floating else t

    args, kwargs = tree_map(draw, graph.inputs)
    return [(kwargs if kwargs else args,)]


_FORM = "give an iterable of batches: inputs, or (inputs, targets)"


def _iterable(data: Any) -> Iterator[Any]:
    if isinstance(data, Tensor | dict | str):
        raise InputError("the data is one batch", seen=type(data).__name__, remedy="give a list of batches: [batch]")
    try:
        return iter(data)
    except TypeError as error:
        raise InputError("the data cannot be iterated", seen=type(data).__name__, remedy=_FORM) from error


def _parts(batch: Any) -> tuple[Inputs, Any]:
    if not isinstance(batch, list | tuple):
        return as_call(batch), None
    if not batch:
        return ((), {}), None
    targets = batch[1] if len(batch) == 2 else tuple(batch[1:]) or None
    return as_call(batch[0]), targets
