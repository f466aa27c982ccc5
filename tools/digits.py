"""A really trained network and its images for the command line: `fxprune prune tools/digits.py:network --data ...`."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.splits import Samples
from zoo.train_recipe import WEIGHTS

Batches = list[tuple[Tensor, Tensor]]


def network() -> nn.Module:
    """The ResNet-20 of the zoo, trained on the digits that come with scikit-learn."""
    return load_checkpoint(WEIGHTS / "digits-resnet20.safetensors")[0]


def train() -> Batches:
    """The training images, with labels."""
    return _batches(load_data("digits", None, seed=_seed()).train)


def test() -> Batches:
    """Images that the training has not seen, with labels."""
    return _batches(load_data("digits", None, seed=_seed()).test)


def _seed() -> int:
    return load_checkpoint(WEIGHTS / "digits-resnet20.safetensors")[1].seed


def _batches(samples: Samples) -> Batches:
    return list(zip(samples.images.split(128), samples.labels.split(128), strict=True))
