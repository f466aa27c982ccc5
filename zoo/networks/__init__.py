"""The networks that a checkpoint or a recipe can name, in the forms that the pruning papers use.

Each module beside this one holds one family as plain PyTorch. All take ``classes`` and ``channels`` (of the images);
all but LeNet take images of any size from about 24 pixels up, and cost what the papers print at 32 x 32.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zoo.networks.alexnet import alexnet
from zoo.networks.backbones import torchvision_network
from zoo.networks.densenet import densenet40, densenet121
from zoo.networks.googlenet import googlenet
from zoo.networks.lenet import lenet
from zoo.networks.mobilenet import mobilenetv2
from zoo.networks.resnet import resnet
from zoo.networks.tokens import convnext, vit
from zoo.networks.vgg import vgg16

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet": resnet,
    "vgg16": vgg16,
    "googlenet": googlenet,
    "densenet40": densenet40,
    "densenet121": densenet121,
    "alexnet": alexnet,
    "mobilenetv2": mobilenetv2,
    "lenet": lenet,
    "vit": vit,
    "convnext": convnext,
    "torchvision": torchvision_network,
}
"""Name -> function of plain keyword arguments that builds the network with fresh weights."""


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network ``name`` with ``arguments``.

    Raises:
        ValueError: no network of that name, or it does not take these arguments.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take {dict(arguments)}: {error}") from error
