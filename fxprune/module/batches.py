"""Batches: what a data loader gives, as calls of a model; and running the model on them with clear errors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import InputError, check_model
from fxprune.module.data import Batches, counted, samples_in, samples_of
from fxprune.module.isolation import Inputs, as_call, call

Prints: TypeAlias = tuple[tuple[Any, ...], ...]


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

    @cached_property
    def prints(self) -> Prints:
        """Tells batches apart: the place in the data, checksums of the tensors, and the text of all else."""
        return (self.place,), *(_print(leaf) for leaf in tree_leaves(self.inputs))

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
                remedy="give batches of inputs, or (inputs, targets), with which model(inputs) runs in eval mode; "
                "a DataLoader makes batches of a Dataset's samples; unpack= makes them of other batches, such as "
                "unpack=lambda batch: (batch['image'], batch['label'])",
            ) from error


def _print(leaf: Any) -> tuple[Any, ...]:
    if not isinstance(leaf, Tensor):
        return (repr(leaf),)
    flat = leaf.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return tuple(leaf.shape), leaf.dtype, crc32(flat.numpy().data)


def batches(model: nn.Module, data: Iterable[Any]) -> Iterator[Batch]:
    """The batches of `data`, on the model's device.

    Args:
        model: tells the device.
        data: batches: inputs as for `fxprune.trace`; a list or tuple (inputs, targets) as data loaders give them; as
            many inputs as the model's forward needs and then targets; or a mapping, of which the model gets what its
            forward has names for.

    Raises:
        InputError: `data` is not an iterable of batches, a batch holds no tensor, or there is none; empty ones are left
            out.
    """
    check_model("the model", model)
    device = device_of(model)

    def move(t: Any) -> Any:
        return t.detach().to(device, copy=True) if isinstance(t, Tensor) else t

    count, read, forward = 0, 0, _signature(model)
    given = _iterable(data)
    if not isinstance(data, Batches):  # which have a bar of their own
        given = counted(given, "reading the data", samples_in(data))
    for count, batch in enumerate(given, 1):
        inputs, targets = _parts(batch, forward)
        tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        place = f"batch {count} of the data"
        if not tensors:
            raise InputError("a batch without a tensor", where=place, seen=_in_words(batch), remedy=_remedy(batch))
        every = [*tensors, *(t for t in tree_leaves(targets) if isinstance(t, Tensor))]
        if device.type != "meta" and any(t.is_meta for t in every):
            raise InputError("a meta tensor holds no data", where=place, remedy="give batches that hold numbers")
        args, kwargs = inputs
        if samples := samples_of(args or kwargs):
            read += samples
            yield Batch(tree_map(move, inputs), tree_map(move, targets), samples, place)
    if not read:
        what = "the data holds no batch" if not count else "every batch of the data is empty"
        raise InputError(what, remedy="check the loader; iterators can be used up only once")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; the CPU if it has none."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of a model's first floating-point tensor; PyTorch's default if it has none."""
    kinds = (t.dtype for t in (*model.parameters(), *model.buffers()))
    return next((k for k in kinds if k.is_floating_point), torch.get_default_dtype())


def noise(inputs: Any, seed: int) -> list[Any]:
    """One batch of standard normal inputs like those of an example, (args, kwargs); its tensors of integers stay.

    It is for scorers that are given no data, and warns.
    """
    warnings.warn(NOISE, stacklevel=2)
    generator = torch.Generator().manual_seed(seed)

    def draw(t: Any) -> Any:
        floating = isinstance(t, Tensor) and t.is_floating_point()
        return torch.randn(t.shape, generator=generator, dtype=t.dtype) if floating else t

    args, kwargs = tree_map(draw, inputs)
    return [(kwargs if kwargs else args,)]


NOISE = (
    "the scores are measured on random inputs, since no data were given: on inputs of the task other channels matter; "
    "pass data=, batches of the model's inputs (a few hundred samples suffice)"
)
_FORM = "give an iterable of batches: inputs, or (inputs, targets)"


def _iterable(data: Any) -> Iterator[Any]:
    if isinstance(data, Tensor | Mapping | str):
        raise InputError("the data is one batch", seen=type(data).__name__, remedy="give a list of batches: [batch]")
    try:
        return iter(data)
    except TypeError as error:
        raise InputError("the data cannot be iterated", seen=type(data).__name__, remedy=_FORM) from error


def _in_words(batch: Any) -> str:
    """What a batch is made of; a text or number as it is.

    >>> _in_words([torch.zeros(2).numpy(), 3])
    'list of ndarray, int'
    """
    if not isinstance(batch, Mapping | list | tuple):
        return str(batch)[:80] if isinstance(batch, str | int | float) else type(batch).__name__
    parts = list(batch.values() if isinstance(batch, Mapping) else batch)
    kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts))
    return f"{type(batch).__name__} of {kinds or 'nothing'}"


def _remedy(batch: Any) -> str:
    arrays = any(hasattr(part, "__array_interface__") for part in tree_leaves(batch))
    return f"make tensors of arrays: torch.as_tensor(array); {_FORM}" if arrays else _FORM


def _parts(batch: Any, forward: inspect.Signature | None) -> tuple[Inputs, Any]:
    """What of a batch goes into the model, and the rest, its targets, where the signature of the model's forward tells.

    A mapping's values go in under the names that `forward` has; without any such name, all of them do. A list or tuple
    is (inputs, targets), unless it starts with a tensor and `forward` needs more than one argument: then as many go in.
    """
    if isinstance(batch, Mapping):
        return _named_parts(dict(batch), forward)
    if not isinstance(batch, list | tuple):
        return as_call(batch), None
    needed = _needed(forward) if batch and isinstance(batch[0], Tensor) else 1
    inputs, targets = (batch[0] if needed == 1 else tuple(batch[:needed])) if batch else (), batch[needed:]
    return as_call(inputs), (targets[0] if len(targets) == 1 else tuple(targets) or None)


def _named_parts(batch: dict[Any, Any], forward: inspect.Signature | None) -> tuple[Inputs, Any]:
    parameters = forward.parameters if forward else {}
    known = batch.keys() & parameters.keys()
    if not known or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ((), batch), None
    targets = {name: value for name, value in batch.items() if name not in known}
    only = next(iter(targets.values())) if len(targets) == 1 else targets or None
    return ((), {name: value for name, value in batch.items() if name in known}), only


def _needed(forward: inspect.Signature | None) -> int:
    """How many positional arguments `forward` cannot do without, at least one."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = forward.parameters.values() if forward else ()
    return max(1, sum(p.kind in positional and p.default is p.empty for p in parameters))


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):  # scripted modules have none
        return None
