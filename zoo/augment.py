"""Random changes to a batch of training images, drawn per image and applied to the whole batch at once."""

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
