"""AlexNet for small images (Krizhevsky et al. 2012, with one linear layer as usual on CIFAR)."""

from torch import Tensor, nn

from zoo.networks.parts import initialise, require_positive


class AlexNet(nn.Module):
    """Five convolutions, three poolings, one linear layer; no batch norm."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(channels, 64, 11, stride=4, padding=5),
            _pool(),
            *_conv(64, 192, 5, padding=2),
            _pool(),
            *_conv(192, 384, 3, padding=1),
            *_conv(384, 256, 3, padding=1),
            *_conv(256, 256, 3, padding=1),
            _pool(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def alexnet(classes: int = 10, channels: int = 3) -> AlexNet:
    """Build AlexNet for small images, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in alexnet().parameters())
    2472266
    """
    require_positive("alexnet", classes=classes, channels=channels)
    return AlexNet(classes, channels)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)


def _pool() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)  # as without it on 32 x 32; 28 x 28 reaches the end too
