"""torchvision's ResNet-50 on ImageNet."""

from zoo.recipe import Change, Recipe
from zoo.settings import Settings

RECIPE = Recipe(
    name="imagenet-resnet50",
    network="torchvision",
    arguments={"name": "resnet50", "classes": 1000},
    data="imagenet",
    settings=Settings(epochs=90, batch_size=256, weight_decay=1e-4, warmup=0.05, label_smoothing=0.1),
    change=Change(crop=224, flip=True),
)
