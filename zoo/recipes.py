"""Recipes: which network is trained on which data, and how. Plain values; ``zoo.cook`` executes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.settings import Settings


@dataclass(frozen=True)
class Recipe:
    """One trained network.

    Args:
        name: of the recipe and its weights file.
        network: name in ``zoo.networks.NETWORKS``.
        arguments: what to build it with.
        data: name for ``zoo.data.load``.
        settings: of the training; its seed is that of the split and the initial weights too.
        shift: augmentation, largest random shift in pixels; 0 is none.
        flip: mirror images at random as well.
    """

    name: str
    network: str
    arguments: Mapping[str, Any]
    data: str
    settings: Settings
    shift: int = 0
    flip: bool = False


_ALL = (
    Recipe(
        name="digits-resnet20",
        network="resnet",
        arguments={"depth": 20, "classes": 10, "channels": 1, "width": 16, "option": "B"},
        data="digits",
        settings=Settings(epochs=40, batch_size=64),
        shift=1,
    ),
    Recipe(
        name="fashion-resnet20",
        network="resnet",
        arguments={"depth": 20, "classes": 10, "channels": 1, "width": 16, "option": "B"},
        data="fashion-mnist",
        settings=Settings(epochs=16),
        shift=2,
        flip=True,
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""Every recipe by its name."""
