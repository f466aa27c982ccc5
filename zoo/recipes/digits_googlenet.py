"""GoogLeNet at a quarter of its width on the bundled digits: a few minutes on one core."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="digits-googlenet",
    network="googlenet",
    arguments={"classes": 10, "channels": 1, "multiplier": 0.25},
    data="digits",
    settings=Settings(epochs=40, batch_size=64),
    change=Change(shift=1),
)
