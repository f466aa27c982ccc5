"""Random changes to training images."""

import pytest
import torch
from torch import Generator

from zoo.augment import shift


def test_shift_moves_each_image_by_whole_pixels() -> None:
    ramp = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(64, 2, 1, 1)
    moved = shift(1)(ramp, Generator().manual_seed(0))
    centres = moved[:, :, 2, 2] - ramp[:, :, 2, 2]
    assert torch.equal(centres[:, 0], centres[:, 1]), "all channels of an image move alike"
    assert set(centres[:, 0].tolist()) == {6 * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)}
    inside = (slice(None), slice(None), slice(1, 5), slice(1, 5))
    assert torch.equal(moved[inside], ramp[inside] + centres[:, :, None, None])


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(4.0).reshape(1, 1, 1, 4).repeat(400, 1, 1, 1)
    flipped = shift(0, flip=True)(images, Generator().manual_seed(0))
    mirrored = (flipped == images.flip(-1)).all(-1).sum()
    assert (flipped == images).all(-1).sum() + mirrored == len(images)
    assert 150 < mirrored < 250


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be >= 0 pixels, got -1"):
        shift(-1)
