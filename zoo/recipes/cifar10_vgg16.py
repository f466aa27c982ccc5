"""VGG-16 on CIFAR-10, as Li et al. 2017 prune it."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="cifar10-vgg16",
    network="vgg16",
    arguments={"classes": 10, "channels": 3},
    data="cifar-10",
    settings=Settings(epochs=160, lr=0.05, schedule="step", warmup=0.02),
    change=Change(shift=4, flip=True),
)
