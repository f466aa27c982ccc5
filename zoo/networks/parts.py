"""What several families are made of."""

from collections.abc import Mapping

from torch import nn


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """A convolution padded to keep the size at stride 1, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def initialise(module: nn.Module) -> None:
    """He initialisation of the weight of a convolution or linear layer, for ``Module.apply``; the rest stays."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


def require_positive(network: str, **sizes: float) -> None:
    """Refuse sizes that are not above 0.

    >>> require_positive("vgg16", classes=10, channels=0)
    Traceback (most recent call last):
    ValueError: vgg16: sizes must be above 0, got classes=10, channels=0
    """
    checked: Mapping[str, float] = sizes
    if min(checked.values()) <= 0:
        raise ValueError(f"{network}: sizes must be above 0, got {', '.join(f'{k}={v}' for k, v in checked.items())}")
