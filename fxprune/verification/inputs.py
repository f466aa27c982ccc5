"""Inputs: smaller ones than the example, which cost less and prove as much, and others than a small example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.module.isolation import Inputs

_SIDE = 64  # of an image; networks that halve it five times end with a map of 2x2


def smaller_inputs(inputs: Inputs) -> Iterator[Inputs]:
    """Parts of the example's images, in batches of another size than the example's, and of the same.

    The equality of masked and pruned does not depend on the size of an image or of a batch. That the model takes such
    inputs is not known; whoever runs it must see whether it does, and by the same path. Where it does, another size of
    the batch finds what the plan has taken for a width, though it was a product of the batch.
    """
    if not any(map(_is_large, tensors_in(inputs))):
        return
    cropped = tree_map(_cropped, inputs)
    sizes = {t.shape[0] for t in tensors_in(cropped) if t.dim()}
    if len(sizes) == 1:
        (batch,) = sizes
        another = tree_map(lambda t: _of_batch(t, 2 if batch != 2 else 3), cropped)
        yield tree_map(_upper_half, another)
        yield another
    yield cropped


def other_inputs(inputs: Inputs) -> Iterator[Inputs]:
    """Longer and shorter images or sequences, in batches of another size than the example's; and such batches alone.

    A map of a single pixel, or a batch of one, hides what the code does with several; a literal, or a branch that the
    code takes by the size of its input, is right for the example alone.
    """
    sizes = {t.shape[0] for t in tensors_in(inputs) if t.dim()}
    if len(sizes) != 1 or any(map(_is_large, tensors_in(inputs))):
        return  # of large ones, smaller ones are compared, which are others
    another = tree_map(lambda t: _of_batch(t, 2 if sizes != {2} else 3), inputs)
    for holds, dim in ((_is_image, -2), (_is_sequence, 1), (_is_sequence, 2)):
        chosen = {id(t) for t in tensors_in(another) if holds(t) and dim < t.dim()}
        for resized in (_longer, _shorter) if chosen else ():
            yield tree_map(lambda t, of=chosen, how=resized, dim=dim: how(t, dim) if id(t) in of else t, another)
    yield another


def _longer(value: Tensor, dim: int) -> Tensor:
    """It and, behind it, itself the other way round."""
    return torch.cat([value, value.flip(dim)], dim)


def _shorter(value: Tensor, dim: int) -> Tensor:
    return value.narrow(dim, 0, (value.shape[dim] + 1) // 2)


def _is_sequence(value: Any) -> bool:
    """Whether it may hold tokens, or signals of a dim."""
    return isinstance(value, Tensor) and value.dim() == (3 if value.is_floating_point() else 2)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (4, 5)


def _is_large(value: Any) -> bool:
    return _is_image(value) and min(value.shape[-2:]) > _SIDE


def _cropped(value: Any) -> Any:
    """The upper left corner of images, with the same ratio of the sides."""
    if not _is_large(value):
        return value
    short = min(value.shape[-2:])
    height, width = (_SIDE * n // short // 32 * 32 for n in value.shape[-2:])
    return value[..., :height, :width]


def _upper_half(value: Any) -> Any:
    """Half of a square image that is cropped; another ratio of its sides tells one side from the other."""
    square = isinstance(value, Tensor) and value.dim() in (4, 5) and value.shape[-2:] == (_SIDE, _SIDE)
    return value[..., : _SIDE // 2, :] if square else value


def _of_batch(value: Any, size: int) -> Any:
    """Samples of the example; those that it lacks are mirrored ones."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    more = value.flip(-1) if value.is_floating_point() else value
    return torch.cat([value, *[more] * size])[:size]


def tensors_in(inputs: Any) -> list[Tensor]:
    """The tensors of inputs in any form."""
    return [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
