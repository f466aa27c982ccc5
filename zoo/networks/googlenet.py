"""GoogLeNet for small images (Szegedy et al. 2015, in the form that HRank and ABCPruner prune on CIFAR-10).

It differs from the original in its stem (one 3x3 convolution, no pooling), in batch norm after every convolution, and
in two 3x3 convolutions for the 5x5 one.
"""

import torch
from torch import Tensor, nn

from zoo.networks.parts import conv_bn_relu, initialise, require_positive

Widths = tuple[int, int, int, int, int, int]
"""Channels of: 1x1; 3x3 reduced and out; double 3x3 reduced and out; pooled."""

_STAGES: tuple[tuple[Widths, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
_STEM = 192


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: Widths) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        self.branch1 = _unit(inputs, one, 1)
        self.branch2 = nn.Sequential(_unit(inputs, three_in, 1), _unit(three_in, three, 3))
        self.branch3 = nn.Sequential(_unit(inputs, five_in, 1), _unit(five_in, five, 3), _unit(five, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _unit(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, sum of the branches' outputs, h, w)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Stem, nine inception blocks in three stages, linear layer."""

    def __init__(self, classes: int, channels: int, multiplier: float) -> None:
        super().__init__()
        inputs = max(1, round(multiplier * _STEM))
        layers: list[nn.Module] = [_unit(channels, inputs, 3)]
        for i, stage in enumerate(_STAGES):
            layers += [nn.MaxPool2d(3, stride=2, padding=1)] if i else []
            for widths in stage:
                one, three_in, three, five_in, five, pooled = (max(1, round(multiplier * n)) for n in widths)
                layers.append(Inception(inputs, (one, three_in, three, five_in, five, pooled)))
                inputs = one + three + five + pooled
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits


def googlenet(classes: int = 10, channels: int = 3, multiplier: float = 1.0) -> GoogLeNet:
    """Build GoogLeNet for small images, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        multiplier: of all widths.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in googlenet().parameters())
    6166250
    """
    require_positive("googlenet", classes=classes, channels=channels, multiplier=multiplier)
    return GoogLeNet(classes, channels, multiplier)


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return conv_bn_relu(inputs, outputs, kernel, bias=True)
