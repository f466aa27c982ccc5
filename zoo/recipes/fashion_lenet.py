"""LeNet-5 on Fashion-MNIST: no batch norm, so a low rate."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-lenet",
    network="lenet",
    arguments={"classes": 10, "channels": 1},
    data="fashion-mnist",
    settings=Settings(epochs=16, lr=0.02),
    change=Change(shift=1, flip=True),
)
