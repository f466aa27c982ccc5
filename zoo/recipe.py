"""What a recipe is: a network, data and numbers, as plain values.

``zoo.train_recipe`` and ``zoo.adaptation.execute`` execute them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.adaptation.reversal import Adversary
from zoo.augment import Augment, resized_crop, shift
from zoo.settings import Settings


@dataclass(frozen=True)
class Change:
    """Random changes to training images.

    Args:
        shift: largest random shift in pixels; 0 is none.
        crop: side in pixels of a random part of the image, which is resized to it; 0 is none.
        flip: mirror images at random as well.
    """

    shift: int = 0
    crop: int = 0
    flip: bool = False

    def augment(self) -> Augment:
        """As a function of a batch."""
        return resized_crop(self.crop, flip=self.flip) if self.crop else shift(self.shift, self.flip)


@dataclass(frozen=True)
class Recipe:
    """One trained network.

    Args:
        name: of the recipe and its weights file.
        network: name in ``zoo.networks.NETWORKS``.
        arguments: what to build it with.
        data: name for ``zoo.data.load``.
        settings: of the training; its seed is that of the split and the initial weights too.
        change: augmentation.
    """

    name: str
    network: str
    arguments: Mapping[str, Any]
    data: str
    settings: Settings
    change: Change = field(default_factory=Change)

    def plain(self) -> dict[str, Any]:
        """The numbers of the training as JSON keeps them."""
        return {**self.settings.plain(), **asdict(self.change)}


@dataclass(frozen=True)
class Adaptation:
    """One network trained on a labelled source and an unlabelled target.

    Args:
        name, network, arguments, change: as of `Recipe`.
        source, target: names for ``zoo.data.load``.
        settings: of the training, with and without the target.
        adversary: of the training with it.
        images: training images a domain, drawn with the seed; 0 for all.
    """

    name: str
    network: str
    arguments: Mapping[str, Any]
    source: str
    target: str
    settings: Settings
    adversary: Adversary = field(default_factory=Adversary)
    change: Change = field(default_factory=Change)
    images: int = 0

    def plain(self) -> dict[str, Any]:
        """The numbers of the training as JSON keeps them."""
        return {**self.settings.plain(), **self.adversary.plain(), **asdict(self.change), "images": self.images}
