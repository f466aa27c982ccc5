"""The recipes: a row each, by name."""

from collections.abc import Mapping
from typing import Any

from zoo.adaptation.reversal import Adversary
from zoo.recipe import Adaptation, Change, Recipe
from zoo.settings import Settings

_SMALL = Change(shift=1)
_FASHION = Change(shift=2, flip=True)
_CIFAR = Change(shift=4, flip=True)
_IMAGES = Change(crop=224, flip=True)
_DATA = {
    "digits": "digits",
    "fashion": "fashion-mnist",
    "cifar10": "cifar-10",
    "cifar100": "cifar-100",
    "stl10": "stl-10",
    "imagenet": "imagenet",
}
_LONG = Settings(200, 0.05, schedule="step", warmup=0.02)
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.05}
_LARGE = Change(shift=12, flip=True)


def _row(title: str, network: str, settings: Settings, change: Change, **arguments: Any) -> Recipe:
    """A recipe whose name begins with that of its data."""
    return Recipe(title, network, {"classes": 10, **arguments}, _DATA[title.partition("-")[0]], settings, change)


def _resnet(depth: int, channels: int, option: str) -> dict[str, Any]:
    return {"depth": depth, "channels": channels, "width": 16, "option": option}


_TABLE = (
    # scikit-learn's digits: seconds to a few minutes on one core
    _row("digits-googlenet", "googlenet", Settings(40, batch_size=64), _SMALL, channels=1, multiplier=0.25),
    _row("digits-mobilenetv2", "mobilenetv2", Settings(60, 0.05, 64), _SMALL, channels=1, multiplier=0.5),
    _row("digits-resnet20", "resnet", Settings(40, batch_size=64), _SMALL, **_resnet(20, 1, "B")),
    # Fashion-MNIST, most networks at a part of their width; LeNet-5 has no batch norm, so a low rate
    _row("fashion-densenet40", "densenet40", Settings(30, batch_size=64), _FASHION, channels=1),
    _row("fashion-googlenet", "googlenet", Settings(8), _FASHION, channels=1, multiplier=0.25),
    _row("fashion-lenet", "lenet", Settings(16, 0.02), Change(shift=1, flip=True), channels=1),
    _row(
        "fashion-mobilenetv2",
        "mobilenetv2",
        Settings(30, 0.05, weight_decay=1e-4),
        _FASHION,
        channels=1,
        multiplier=0.5,
    ),
    _row("fashion-resnet20", "resnet", Settings(16), _FASHION, **_resnet(20, 1, "B")),
    _row("fashion-resnet56", "resnet", Settings(12), _FASHION, **_resnet(56, 1, "B")),
    _row("fashion-convnext", "convnext", Settings(10, 2e-3, **_ADAMW), _FASHION, channels=1),
    _row("fashion-vit", "vit", Settings(12, 1e-3, **_ADAMW), _FASHION, channels=1),
    _row("fashion-vgg16", "vgg16", Settings(16, 0.05), _FASHION, channels=1, width=16, hidden=128),
    # CIFAR-10: DenseNet-40 as Huang et al. 2017 and ResNets as He et al. 2016 train them, VGG-16 as Li et al. 2017 and
    # GoogLeNet as HRank and ABCPruner prune it
    _row(
        "cifar10-densenet40",
        "densenet40",
        Settings(300, batch_size=64, weight_decay=1e-4, schedule="step", warmup=0.01),
        _CIFAR,
        channels=3,
    ),
    _row("cifar10-googlenet", "googlenet", Settings(160, 0.05, schedule="step", warmup=0.02), _CIFAR, channels=3),
    _row(
        "cifar10-resnet110",
        "resnet",
        Settings(164, batch_size=128, weight_decay=1e-4, schedule="step", warmup=0.01),
        _CIFAR,
        **_resnet(110, 3, "A"),
    ),
    _row(
        "cifar10-resnet56",
        "resnet",
        Settings(164, batch_size=128, weight_decay=1e-4, schedule="step", warmup=0.01),
        _CIFAR,
        **_resnet(56, 3, "A"),
    ),
    _row("cifar10-vgg16", "vgg16", Settings(160, 0.05, schedule="step", warmup=0.02), _CIFAR, channels=3),
    # The rows of Huang (master's thesis, USTB 2023) on CIFAR-10, CIFAR-100 and STL-10; none has been run.
    _row("cifar10-alexnet", "alexnet", _LONG, _CIFAR, channels=3),
    _row("cifar10-densenet121", "densenet121", _LONG, _CIFAR, channels=3),
    _row("cifar10-resnet34", "torchvision", _LONG, _CIFAR, name="resnet34"),
    _row("cifar10-resnet50", "torchvision", _LONG, _CIFAR, name="resnet50"),
    _row("cifar100-resnet56", "resnet", _LONG, _CIFAR, **_resnet(56, 3, "A") | {"classes": 100}),
    _row("cifar100-vgg16", "vgg16", _LONG, _CIFAR, channels=3, classes=100),
    _row("stl10-resnet56", "resnet", _LONG, _LARGE, **_resnet(56, 3, "A")),
    _row("stl10-vgg16", "vgg16", _LONG, _LARGE, channels=3),
    # ImageNet
    _row(
        "imagenet-resnet50",
        "torchvision",
        Settings(90, batch_size=256, weight_decay=1e-4, warmup=0.05, label_smoothing=0.1),
        _IMAGES,
        name="resnet50",
        classes=1000,
    ),
)

_ADAPTATIONS = (
    # To the same images blended with photographs: minutes on one core.
    Adaptation(
        name="fashion-to-fashion-m",
        network="resnet",
        arguments={"classes": 10, **_resnet(8, 3, "B")},
        source="fashion-mnist",
        target="fashion-mnist-m",
        settings=Settings(8, 0.1, 64, weight_decay=1e-3, schedule="annealed", warmup=0),
        adversary=Adversary(hidden=256, strength=0.3),
        images=12_000,
    ),
    # To shifted digits: a minute on one core. What DANN reaches there is in `zoo/results/README.md`.
    *(
        Adaptation(
            name=f"digits-to-{shift}",
            network="resnet",
            arguments={"classes": 10, **_resnet(20, 1, "B")},
            source="digits",
            target=f"digits-{shift}",
            settings=Settings(40, 0.05, 64, weight_decay=1e-3, schedule="annealed", warmup=0),
            adversary=Adversary(hidden=256, strength=0.3),
            change=_SMALL,
        )
        for shift in ("inverted", "blurred", "rotated", "noisy")
    ),
    # To shifted Fashion-MNIST: a few minutes on one core. DANN gains there (`zoo/results/README.md`).
    *(
        Adaptation(
            name=f"fashion-to-{shift}",
            network="resnet",
            arguments={"classes": 10, **_resnet(20, 1, "B")},
            source="fashion-mnist",
            target=f"fashion-mnist-{shift}",
            settings=Settings(8, 0.05, 64, weight_decay=1e-3, schedule="annealed", warmup=0),
            adversary=Adversary(hidden=256, strength=1.0),
            change=_FASHION,
            images=12_000,
        )
        for shift in ("blurred", "rotated", "noisy")
    ),
    # Office-31; needs the images, pretrained weights and a GPU.
    Adaptation(
        name="office-amazon-webcam-resnet50",
        network="torchvision",
        arguments={"name": "resnet50", "classes": 31, "bottleneck": 256, "weights": "IMAGENET1K_V1"},
        source="office31-amazon",
        target="office31-webcam",
        settings=Settings(60, 0.01, 32, weight_decay=1e-3, schedule="annealed", warmup=0),
        adversary=Adversary(hidden=1024, backbone=0.1),
        change=_IMAGES,
    ),
)

RECIPES: Mapping[str, Recipe] = {r.name: r for r in sorted(_TABLE, key=lambda r: r.name)}
"""Every recipe of plain training by its name."""

ADAPTATIONS: Mapping[str, Adaptation] = {a.name: a for a in _ADAPTATIONS}
"""Every recipe of domain adaptation by its name."""
