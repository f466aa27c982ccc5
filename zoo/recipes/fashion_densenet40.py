"""DenseNet-40 on Fashion-MNIST."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-densenet40",
    network="densenet40",
    arguments={"classes": 10, "channels": 1},
    data="fashion-mnist",
    settings=Settings(epochs=30, batch_size=64),
    change=Change(shift=2, flip=True),
)
