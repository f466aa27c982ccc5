"""Random inputs: pictures of overlapping shapes, on which layers can be repaired where there are no data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.errors import InputError, check_integer, check_seed
from fxprune.module.data import samples_of

_SHAPES = 24
"""In each picture, one over the other."""
_SAMPLES, _BATCH = 256, 64


def random_inputs(example_inputs: Any, batches: int = 16, *, seed: int = 0) -> list[Any]:
    """Batches for a repair without data: pictures of overlapping discs and rectangles, each of one random colour.

    What a layer gives on them tells its channels' means and correlations, with edges and areas as photographs have
    them, which is what the least squares of `fxprune.repair` go by. They say little of which channels the task needs:
    choose these by their weights,

        fxprune.prune(model, x, macs=0.75, scorer=fxprune.scorers.L2Norm(), data=fxprune.random_inputs(x))

    or `fxprune.prune(model, x, macs=0.75, data="random")`, which takes one ratio for all groups.
    Real inputs without labels are better. Such pictures are known as dead leaves (Lee, Mumford and Huang 2001);
    networks have been trained on them (Baradad et al., NeurIPS 2021). Their use for a repair is fxprune's own.

    Args:
        example_inputs: as for `fxprune.trace`; each batch is like them, so give some 64 inputs, whatever they hold.
            Floating tensors of four and more dims, (batch, channels, ..., height, width), become pictures, and those
            of fewer dims standard normal numbers. All else stays.
        batches: their number.
        seed: of all that is random.

    Returns:
        Batches as all of fxprune takes them for `data`. Each value is standard normal; for a model that reads others,
        such as pixels in [0, 1], shift and scale them: `[0.5 + 0.25 * x for x in random_inputs(x)]`.

    Raises:
        InputError: `batches` is not a positive integer, or the example inputs hold no tensor.

    >>> import torch, fxprune
    >>> data = fxprune.random_inputs(torch.zeros(64, 3, 32, 32), batches=2)
    >>> [tuple(x.shape) for x in data], abs(float(data[0].mean())) < 0.1 > abs(float(data[0].std()) - 1)
    ([(64, 3, 32, 32), (64, 3, 32, 32)], True)
    """
    check_integer("batches", batches, 1, "give a number such as 16")
    check_seed(seed)
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(example_inputs)):
        seen = type(example_inputs).__name__
        raise InputError("the example inputs hold no tensor", seen=seen, remedy="give them as to fxprune.trace")
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Any) -> Any:
        return _drawn(value, generator) if isinstance(value, Tensor) and value.is_floating_point() else value

    made = [tree_map(draw, example_inputs) for _ in range(batches)]
    return made if isinstance(example_inputs, Tensor) else [(batch,) for batch in made]


def named_data(name: str, example_inputs: Any, unpack: Any = None) -> list[Any]:
    """What `fxprune.prune` takes for `data="random"`: 256 samples, of images 64 in a batch, else as the example inputs.

    Raises:
        InputError: the name is another, there is something to unpack, or the example inputs hold nothing that can be
            drawn.
    """
    if name != "random":
        remedy = 'give batches, such as a DataLoader, or data="random" for pictures of random shapes'
        raise InputError("the data is a name", seen=repr(name), remedy=remedy)
    if unpack is not None:
        raise InputError("unpack= has nothing to unpack", seen="random data", remedy="leave it out")
    tensors = [t for t in tree_leaves(example_inputs) if isinstance(t, Tensor)]
    if not any(t.is_floating_point() for t in tensors):
        seen = ", ".join(str(t.dtype) for t in tensors) or "no tensor"
        raise InputError('data="random" draws floating tensors', seen=seen, remedy="give batches of real inputs")
    if all(t.dim() >= 4 and t.is_floating_point() for t in tensors):  # (batch, channels, ..., height, width)
        example_inputs = tree_map(_of_a_batch, example_inputs)
    return random_inputs(example_inputs, math.ceil(_SAMPLES / max(1, samples_of(example_inputs))))


def _of_a_batch(value: Any) -> Any:
    return value[:1].expand(_BATCH, *value.shape[1:]) if isinstance(value, Tensor) else value


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    """A picture, or numbers, of the shape, type and device of a tensor."""
    if like.dim() >= 4:
        return _pictures(like.shape, generator).to(like)
    return torch.randn(like.shape, generator=generator, device="cpu").to(like)


def _pictures(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Shapes over shapes, of shape (batch, ..., height, width)."""
    own, colour = (shape[0], *[1] * (len(shape) - 1)), (*shape[:-2], 1, 1)
    picture = torch.randn(colour, generator=generator, device="cpu").expand(shape)
    for _ in range(_SHAPES):
        inside = _inside(shape[-2:], own, generator)
        picture = torch.where(inside, torch.randn(colour, generator=generator, device="cpu"), picture)
    return picture


def _inside(size: torch.Size, own: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Which pixels one shape of each picture covers: a disc or a rectangle, stretched and turned; most are small.

    Args:
        size: height and width.
        own: the shape of one number for each picture.
        generator: of its place, size, turn, and stretch.
    """
    height, width = size
    row, column, radius, turn, kind = torch.rand(5, *own, generator=generator, device="cpu")
    y = torch.arange(height, device="cpu")[:, None] - row * height
    x = torch.arange(width, device="cpu") - column * width
    sine, cosine = (math.pi * turn).sin(), (math.pi * turn).cos()
    stretch = (torch.randn(own, generator=generator, device="cpu") / 2).exp()
    u, v = (y * cosine + x * sine) * stretch, (x * cosine - y * sine) / stretch
    far = torch.where(kind < 0.5, u.square() + v.square(), torch.maximum(u.abs(), v.abs()).square())
    return far < (max(size) * (0.04 + 0.45 * radius.square())) ** 2
