"""ResNet-20 on scikit-learn's digits: seconds on one core."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="digits-resnet20",
    network="resnet",
    arguments={"depth": 20, "classes": 10, "channels": 1, "width": 16, "option": "B"},
    data="digits",
    settings=Settings(epochs=40, batch_size=64),
    change=Change(shift=1),
)
