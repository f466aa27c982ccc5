"""ResNet-8 from Fashion-MNIST to the same images blended with photographs: minutes on one core."""

from zoo.recipe import Adaptation
from zoo.reversal import Adversary
from zoo.settings import Settings

RECIPE = Adaptation(
    name="fashion-to-fashion-m",
    network="resnet",
    arguments={"depth": 8, "classes": 10, "channels": 3, "width": 16, "option": "B"},
    source="fashion-mnist",
    target="fashion-mnist-m",
    settings=Settings(epochs=8, lr=0.1, batch_size=64, weight_decay=1e-3, schedule="annealed", warmup=0),
    adversary=Adversary(hidden=256, strength=0.3),
    images=12_000,
)
