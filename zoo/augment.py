"""Random changes to a batch of training images, drawn per image and applied to the whole batch at once."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Augment = Callable[[Tensor, Generator], Tensor]
"""(images (n, c, h, w), CPU generator) -> images of the same shape, type and device."""


def shift(padding: int, flip: bool = False) -> Augment:
    """Move each image by up to ``padding`` pixels each way (pad by its border, crop at random).

    Args:
        padding: largest shift in pixels, >= 0.
        flip: mirror each image left to right with probability 1/2 as well.

    Raises:
        ValueError: ``padding`` is negative.
    """
    if padding < 0:
        raise ValueError(f"shift: padding must be >= 0 pixels, got {padding}")

    def augment(images: Tensor, generator: Generator) -> Tensor:
        moved = _crop(images, padding, generator)
        return _mirror(moved, generator) if flip else moved

    return augment


def _crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    n, channels, height, width = images.shape
    # The border is repeated because zero is the mean of normalised images, not their background.
    padded = F.pad(images, (padding, padding, padding, padding), mode="replicate")
    corner = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    rows = (corner[0] + torch.arange(height)).to(images.device)
    columns = (corner[1] + torch.arange(width)).to(images.device)
    sample = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _mirror(images: Tensor, generator: Generator) -> Tensor:
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(-1), images)


def resized_crop(side: int, smallest: float = 0.25, flip: bool = False) -> Augment:
    """Cut a random part out of each image and resize it to ``side`` x ``side`` (Szegedy et al. 2015).

    The part has between ``smallest`` and all of the image's area, drawn uniformly, a ratio of its sides between 3/4
    and 4/3, drawn uniformly on a logarithmic scale, and a uniform place.

    Args:
        side: pixels of what comes out.
        smallest: share of the area, in (0, 1].
        flip: mirror each image left to right with probability 1/2 as well.

    Raises:
        ValueError: a number is out of range.

    >>> resized_crop(3)(torch.zeros(2, 1, 8, 8), Generator()).shape
    torch.Size([2, 1, 3, 3])
    """
    if side < 1 or not 0 < smallest <= 1:
        raise ValueError(f"resized_crop: side must be >= 1 and smallest in (0, 1], got {side}, {smallest}")

    def augment(images: Tensor, generator: Generator) -> Tensor:
        area, ratio, *place = torch.rand(4, len(images), generator=generator).unbind()
        area = smallest + (1 - smallest) * area
        stretch = torch.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
        size = [(area.sqrt() * factor).clamp(max=1) for factor in (stretch, 1 / stretch)]
        middle = [(2 * where - 1) * (1 - extent) for where, extent in zip(place, size, strict=True)]
        zero = torch.zeros_like(area)
        rows = [size[0], zero, middle[0], zero, size[1], middle[1]]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(images), 1, side, side], align_corners=False)
        cut = F.grid_sample(images, grid.to(images.device, images.dtype), align_corners=False, padding_mode="border")
        return _mirror(cut, generator) if flip else cut

    return augment
