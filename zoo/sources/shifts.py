"""Images of another domain, made from those of a data set: inverted, blurred, rotated, noisy."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zoo.sources.places import Request
from zoo.sources.raw import Raw, Source


def inverted(images: Tensor, seed: int) -> Tensor:  # noqa: ARG001  # as all shifts
    """White where they were black."""
    return 255 - images


def blurred(images: Tensor, seed: int) -> Tensor:  # noqa: ARG001
    """The mean over 3 x 3 pixels; the border is repeated outwards."""
    channels = images.shape[1]
    kernel = torch.full((channels, 1, 3, 3), 1 / 9)
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel, groups=channels).round().to(torch.uint8)


def rotated(images: Tensor, seed: int, degrees: float = 30.0) -> Tensor:
    """Each by an angle of its own, up to ``degrees`` to either side; what comes in from outside is black."""
    angles = (2 * torch.rand(len(images), generator=Generator().manual_seed(seed)) - 1).mul(degrees).deg2rad()
    rows = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], 1).view(-1, 2, 2)
    grid = F.affine_grid(F.pad(rows, (0, 1)), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().clamp(0, 255).to(torch.uint8)


def noisy(images: Tensor, seed: int, deviation: float = 48.0) -> Tensor:
    """With normal noise of ``deviation`` grey levels in each pixel."""
    noise = deviation * torch.randn(images.shape, generator=Generator().manual_seed(seed))
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


SHIFTS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "inverted": inverted,
    "blurred": blurred,
    "rotated": rotated,
    "noisy": noisy,
}
"""By name; uint8 (n, c, h, w) to the same, decided by a seed."""


def shifted(source: Source, change: Callable[[Tensor, int], Tensor]) -> Source:
    """The data set of ``source`` with every image changed; the change does not depend on the seed of the split."""
    return partial(_shifted, source, change)


def _shifted(source: Source, change: Callable[[Tensor, int], Tensor], request: Request, seed: int) -> Raw:
    raw = source(request, seed)
    (train, train_labels), (test, test_labels) = raw.train, raw.test
    return Raw((change(train, 0), train_labels), (change(test, 1), test_labels), raw.names, raw.val)
