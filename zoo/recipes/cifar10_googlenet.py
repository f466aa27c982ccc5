"""GoogLeNet on CIFAR-10, as HRank and ABCPruner prune it."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="cifar10-googlenet",
    network="googlenet",
    arguments={"classes": 10, "channels": 3},
    data="cifar-10",
    settings=Settings(epochs=160, lr=0.05, schedule="step", warmup=0.02),
    change=Change(shift=4, flip=True),
)
