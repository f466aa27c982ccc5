"""ResNet-50 from Amazon to Webcam of Office-31; needs the images, pretrained weights and a GPU."""

from zoo.recipe import Adaptation, Change
from zoo.reversal import Adversary
from zoo.settings import Settings

RECIPE = Adaptation(
    name="office-amazon-webcam-resnet50",
    network="torchvision",
    arguments={"name": "resnet50", "classes": 31, "bottleneck": 256, "weights": "IMAGENET1K_V1"},
    source="office31-amazon",
    target="office31-webcam",
    settings=Settings(epochs=60, lr=0.01, batch_size=32, weight_decay=1e-3, schedule="annealed", warmup=0),
    adversary=Adversary(hidden=1024, backbone=0.1),
    change=Change(crop=224, flip=True),
)
