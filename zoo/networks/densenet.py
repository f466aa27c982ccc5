"""Densely connected networks for small images (Huang et al. 2017): batch norm and ReLU before each convolution."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.networks.parts import initialise, require_positive


class Unit(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        out: Tensor = self.conv(F.relu(self.bn(x)))
        return out


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to those that it reads."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        between = bottleneck * growth
        self.narrow = Unit(inputs, between, 1) if bottleneck else nn.Identity()
        self.conv = Unit(between or inputs, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, inputs + growth, h, w)."""
        return torch.cat([x, self.conv(self.narrow(x))], 1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, linear layer.

    Args:
        blocks: layers of each dense block.
        growth: channels that a layer adds.
        stem: channels of the first convolution.
        bottleneck: width of the 1x1 convolution in front of each 3x3 one, in units of ``growth``; 0 for none.
        compression: part of the channels that a transition keeps.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        growth: int,
        stem: int,
        classes: int,
        channels: int,
        *,
        bottleneck: int = 0,
        compression: float = 1.0,
    ) -> None:
        super().__init__()
        width = stem
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
        for i, count in enumerate(blocks):
            if i:
                layers.append(nn.Sequential(Unit(width, int(width * compression), 1), nn.AvgPool2d(2)))
                width = int(width * compression)
            layers.append(nn.Sequential(*(DenseLayer(width + j * growth, growth, bottleneck) for j in range(count))))
            width += count * growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits


def densenet40(classes: int = 10, channels: int = 3, growth: int = 12, stem: int = 24) -> DenseNet:
    """Build DenseNet-40: three blocks of twelve layers, no bottleneck, no compression; in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        growth: channels that a layer adds.
        stem: channels of the first convolution: 24 in HRank, 16 in Huang et al. 2017 and in network slimming.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in densenet40(stem=16).parameters())
    1019722
    """
    require_positive("densenet40", classes=classes, channels=channels, growth=growth, stem=stem)
    return DenseNet((12, 12, 12), growth, stem, classes, channels)


def densenet121(classes: int = 10, channels: int = 3, growth: int = 32) -> DenseNet:
    """Build DenseNet-121 (blocks of 6, 12, 24, 16 with bottlenecks, transitions halve), in training mode.

    The stem is one 3x3 convolution without pooling, for small images.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        growth: channels that a layer adds.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in densenet121().parameters())
    6956298
    """
    require_positive("densenet121", classes=classes, channels=channels, growth=growth)
    return DenseNet((6, 12, 24, 16), growth, 2 * growth, classes, channels, bottleneck=4, compression=0.5)
