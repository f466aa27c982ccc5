"""Residual networks for small images (He et al. 2016, section 4.2): stem, three stages, linear layer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.networks.parts import initialise, require_positive

Option = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new. It has no parameters."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        """(n, planes / 2, h, w) -> (n, planes, ceil(h / 2), ceil(w / 2))."""
        # A constant pad, as most public code writes it: a tracer meets it in other people's networks.
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around both."""

    def __init__(self, inputs: int, planes: int, stride: int, option: Option) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, planes, ceil(h / stride), ceil(w / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of ``blocks`` basic blocks at ``width``, ``2 * width`` and ``4 * width`` channels."""

    def __init__(self, blocks: int, classes: int, channels: int, width: int, option: Option) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, option)
        self.layer2 = _stage(width, 2 * width, blocks, 2, option)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, option)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(self.pool(out).flatten(1))
        return logits


def resnet(depth: int, classes: int = 10, channels: int = 3, width: int = 16, option: Option = "A") -> ResNet:
    """Build a ResNet of ``depth`` = 6n + 2 layers (20, 32, 44, 56, 110, ...), in training mode.

    Args:
        depth: layers that have weights, shortcuts not counted.
        classes: logits per image.
        channels: channels of the input images.
        width: channels of the stem and of the first stage.
        option: how a shortcut crosses into a wider stage: "A" strided slice and zero padding,
            "B" 1x1 convolution and batch norm.

    Raises:
        ValueError: another depth or option, a size below 1, or an odd width with option "A".

    >>> sum(p.numel() for p in resnet(20).parameters())
    269722
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"resnet: depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), got {depth}")
    if option not in ("A", "B"):
        raise ValueError(f'resnet: option must be "A" or "B", got {option!r}')
    require_positive("resnet", classes=classes, channels=channels, width=width)
    if option == "A" and width % 2:
        raise ValueError(f'resnet: option "A" pads by width / 2, so width must be even, got {width}')
    return ResNet((depth - 2) // 6, classes, channels, width, option)


def _conv3x3(inputs: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)


def _shortcut(inputs: int, planes: int, stride: int, option: Option) -> nn.Module:
    if stride == 1 and inputs == planes:
        return nn.Identity()
    if option == "A":
        return PadShortcut(planes)
    return nn.Sequential(nn.Conv2d(inputs, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))


def _stage(inputs: int, planes: int, blocks: int, stride: int, option: Option) -> nn.Sequential:
    first = BasicBlock(inputs, planes, stride, option)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1, option) for _ in range(blocks - 1)))
