"""ResNet-56 on Fashion-MNIST."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-resnet56",
    network="resnet",
    arguments={"depth": 56, "classes": 10, "channels": 1, "width": 16, "option": "B"},
    data="fashion-mnist",
    settings=Settings(epochs=12),
    change=Change(shift=2, flip=True),
)
