"""Random changes to training images."""

import pytest
import torch
from torch import Generator

from zoo.augment import resized_crop, shift


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


def test_a_resized_crop_shows_a_part_of_each_image() -> None:
    """On a ramp from 0 to 1 across, a crop is a ramp again, whose slope is its share of the width."""
    ramp = ((torch.arange(64) + 0.5) / 64).expand(500, 1, 64, 64)
    cut = resized_crop(32, smallest=0.25)(ramp, Generator().manual_seed(0))
    assert cut.shape == (500, 1, 32, 32)
    assert torch.allclose(cut[:, :, 3], cut[:, :, 20])
    width = (cut[:, 0, 0, 20] - cut[:, 0, 0, 11]) / 9 * 32
    assert 0.25**0.5 * (3 / 4) ** 0.5 - 1e-3 <= width.min() < 0.5
    assert 0.95 < width.max() <= 1 + 1e-3
    assert cut.min() >= 0
    assert cut.max() <= 1
    middle = cut[:, 0, 0, 15:17].mean(1)
    assert (middle - 0.5).abs().max() <= (1 - width.min()) / 2 + 1e-3
    assert 0.45 < middle.mean() < 0.55


def test_an_impossible_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"side must be >= 1 and smallest in \(0, 1\], got 16, 0"):
        resized_crop(16, smallest=0)
