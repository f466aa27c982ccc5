"""ResNet-110 on CIFAR-10, as He et al. 2016 train it."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="cifar10-resnet110",
    network="resnet",
    arguments={"depth": 110, "classes": 10, "channels": 3, "width": 16, "option": "A"},
    data="cifar-10",
    settings=Settings(epochs=164, batch_size=128, weight_decay=1e-4, schedule="step", warmup=0.01),
    change=Change(shift=4, flip=True),
)
