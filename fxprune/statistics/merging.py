"""Merging: batches of a few small images as fewer, larger ones, where a model treats each image by itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from fxprune.module.batches import batches
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import output_tensors
from fxprune.module.tensors import tensor_names
from fxprune.statistics.observe import Contraction, observing

PARTS = 4
"""Batches that stay: every other one is held back, and half of the others chooses a ridge."""
NUMBERS = 2**20
"""Numbers that a layer gives on average for a batch from which its calls take longer than to watch them."""
LARGEST = 2**24
"""Numbers that any call may give for a batch."""


def merged(model: nn.Module, held: list[Any], most: int | None = None) -> list[Any]:
    """The same images in fewer batches, so that fewer calls are watched; as they are where that is not known to do.

    Batches are merged while a layer gives fewer than `NUMBERS` numbers for one on average, and no call more than
    `LARGEST`, down to `PARTS` of them, if each is one tensor of shape (images, channels, height, width), and layers and
    model give for the first merged one what they give for what it is made of. A model with a batch's length in its
    code, one that refuses longer ones, or one that mixes images gets what it was given.

    Args:
        model: that the batches are for; left as it is.
        held: batches, as `fxprune.module.batches.batches` takes them; it is emptied while they are merged.
        most: images in a batch; None for any number.

    >>> import torch
    >>> data = [(torch.randn(8, 3, 5, 5),) for _ in range(32)]
    >>> [len(images) for images, in merged(torch.nn.Conv2d(3, 2, 3), data)]
    [64, 64, 64, 64]
    """
    images = [found for batch in held if (found := _images(batch)) is not None] if len(held) > PARTS else []
    if not images or len(images) < len(held) or any(not _alike(one, images[0]) for one in images):
        return held
    longest = max(len(one.tensor) for one in images)
    first = _run(model, images[:1])
    if first is None:
        return held
    share = longest / len(images[0].tensor)
    together = min(NUMBERS / first.mean, LARGEST / first.largest) / share
    together = together if most is None else min(together, most / longest)
    into = max(PARTS, ceil(len(held) / max(1, int(together))))
    parts = np.array_split(range(len(held)), into)
    if into >= len(held) or not _is_each(model, images[: len(parts[0])], first):
        return held
    form, tensors = images[0].form, [one.tensor for one in images]
    held.clear()
    images.clear()
    made = []
    for part in parts:  # what is joined is let go of: the data lie in memory once more, and not twice
        made.append(tree_unflatten([torch.cat(tensors[: len(part)])], form))
        del tensors[: len(part)]
    return made


class _Images(NamedTuple):
    """A batch of images, and the form in which the model gets it."""

    tensor: Tensor
    form: TreeSpec

    def form_of(self, tensor: Tensor) -> Any:
        return tree_unflatten([tensor], self.form)


def _images(batch: Any) -> _Images | None:
    leaves, form = tree_flatten(batch)
    alone = leaves[0] if len(leaves) == 1 else None
    plain = type(alone) is Tensor and alone.layout is torch.strided and alone.is_floating_point()
    return _Images(alone, form) if plain and alone is not None and alone.dim() == 4 and alone.numel() else None


def _alike(one: _Images, other: _Images) -> bool:
    """Whether they differ in numbers and lengths alone."""
    a, b = one.tensor, other.tensor
    return one.form == other.form and (a.shape[1:], a.dtype, a.device) == (b.shape[1:], b.dtype, b.device)


class _Layer(NamedTuple):
    """What a call of a convolution or linear layer gave, as far as it is compared.

    Attributes:
        numbers: how many.
        projected: of each row, which is an image or a part of one, its product with one random vector.
        norms: of each row.
    """

    numbers: int
    projected: Tensor
    norms: Tensor

    @classmethod
    def of(cls, output: Tensor) -> _Layer:
        rows = output.detach().flatten(1).double()
        vector = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
        return cls(output.numel(), rows @ vector.to(rows.device), rows.norm(dim=1))


class _Run(NamedTuple):
    """A forward.

    Attributes:
        layers: in the order of their calls.
        outputs: of the model.
        largest: numbers of the largest tensor that any call gave.
    """

    layers: list[_Layer]
    outputs: list[Tensor]
    largest: int

    @property
    def mean(self) -> float:
        """Numbers that a layer gave."""
        return max(1.0, fmean(layer.numbers for layer in self.layers))


class _Largest(DispatchMode):
    """Notes how large results are, while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 1

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = op(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(t.numel() for t in tree_leaves(results) if isinstance(t, Tensor))])
        return results


def _run(model: nn.Module, images: Sequence[_Images]) -> _Run | None:
    """A forward on all of these images as one batch; None where it fails, or where nothing of it can be compared."""
    joined = images[0].form_of(torch.cat([one.tensor for one in images]))
    layers: list[_Layer] = []

    def note(call: Contraction) -> None:
        layers.append(_Layer.of(call.output))

    try:
        with observing(model, set(tensor_names(model).values()), note) as run, _Largest() as seen:
            outputs = [t.detach().clone() for batch in batches(model, [joined]) for t in output_tensors(run(batch))]
    except Exception:  # a model that wants other batches; if it fails on those that it is given, that is told then
        return None
    return _Run(layers, outputs, seen.numbers) if layers and outputs else None


def _is_each(model: nn.Module, images: Sequence[_Images], first: _Run) -> bool:
    """Whether batches together give what each gives alone, in every layer and as outputs.

    Args:
        model: as for `merged`.
        images: the batches.
        first: the forward on the first of them.
    """
    together, alone = _run(model, images), [first, *(_run(model, [one]) for one in images[1:])]
    each = [one for one in alone if one is not None]
    if together is None or len(each) < len(alone):
        return False
    counts = {(len(one.layers), len(one.outputs)) for one in (together, *each)}
    return (
        len(counts) == 1
        and all(map(_is_layer_of, together.layers, zip(*(one.layers for one in each), strict=True)))
        and all(map(_is_output_of, together.outputs, zip(*(one.outputs for one in each), strict=True)))
    )


_CLOSE = 1e-3
"""Part of its size by which a number may differ: sums over many are made in another order for a longer batch."""


def _is_layer_of(whole: _Layer, parts: Sequence[_Layer]) -> bool:
    projected, norms = (torch.cat(column) for column in list(zip(*parts, strict=True))[1:])
    if len(projected) != len(whole.projected):
        return False
    return bool(((projected - whole.projected).abs() <= _CLOSE * (norms + norms.mean())).all())


def _is_output_of(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Each place by its largest number over all images."""
    if not whole.dim() or any(p.shape[1:] != whole.shape[1:] for p in parts) or sum(map(len, parts)) != len(whole):
        return False
    apart, whole = (t if t.is_complex() else t.double() for t in (torch.cat(list(parts)), whole))
    return bool(((apart - whole).abs() <= _CLOSE * apart.abs().amax(0)).all())
