"""MobileNetV2 at half its width on Fashion-MNIST."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-mobilenetv2",
    network="mobilenetv2",
    arguments={"classes": 10, "channels": 1, "multiplier": 0.5},
    data="fashion-mnist",
    settings=Settings(epochs=30, lr=0.05, weight_decay=1e-4),
    change=Change(shift=2, flip=True),
)
