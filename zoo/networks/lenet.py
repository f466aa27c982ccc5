"""LeNet-5 in the form that compression papers use (Caffe's; Han et al. 2015 prune it on MNIST)."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.networks.parts import initialise, require_positive


class LeNet(nn.Module):
    """Two 5x5 convolutions with pooling, two linear layers."""

    def __init__(self, classes: int, channels: int, size: int) -> None:
        super().__init__()
        left = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * left * left, 500)
        self.fc2 = nn.Linear(500, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, size, size) -> logits (n, classes)."""
        out = F.max_pool2d(self.conv1(x), 2)
        out = F.max_pool2d(self.conv2(out), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(out.flatten(1))))
        return logits


def lenet(classes: int = 10, channels: int = 1, size: int = 28) -> LeNet:
    """Build LeNet-5, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        size: height and width of the input images, at least 16.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in lenet().parameters())
    431080
    """
    require_positive("lenet", classes=classes, channels=channels)
    if size < 16:
        raise ValueError(f"lenet: images must be at least 16 x 16, got {size=}")
    return LeNet(classes, channels, size)
