"""MobileNetV2 at half its width on the bundled digits: a minute on one core."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="digits-mobilenetv2",
    network="mobilenetv2",
    arguments={"classes": 10, "channels": 1, "multiplier": 0.5},
    data="digits",
    settings=Settings(epochs=60, lr=0.05, batch_size=64),
    change=Change(shift=1),
)
