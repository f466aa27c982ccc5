"""GoogLeNet at a quarter of its width on Fashion-MNIST."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-googlenet",
    network="googlenet",
    arguments={"classes": 10, "channels": 1, "multiplier": 0.25},
    data="fashion-mnist",
    settings=Settings(epochs=8),
    change=Change(shift=2, flip=True),
)
