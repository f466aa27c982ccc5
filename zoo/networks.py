"""The networks that a checkpoint or a recipe can name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zoo.resnet import resnet

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {"resnet": resnet}
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
