"""VGG-16 at a quarter of its width on Fashion-MNIST."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="fashion-vgg16",
    network="vgg16",
    arguments={"classes": 10, "channels": 1, "width": 16, "hidden": 128},
    data="fashion-mnist",
    settings=Settings(epochs=16, lr=0.05),
    change=Change(shift=2, flip=True),
)
