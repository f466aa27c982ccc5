"""DenseNet-40 on CIFAR-10, as Huang et al. 2017 train it."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="cifar10-densenet40",
    network="densenet40",
    arguments={"classes": 10, "channels": 3},
    data="cifar-10",
    settings=Settings(epochs=300, batch_size=64, weight_decay=1e-4, schedule="step", warmup=0.01),
    change=Change(shift=4, flip=True),
)
