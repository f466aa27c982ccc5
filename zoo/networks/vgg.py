"""VGG-16 with batch norm for small images (Simonyan and Zisserman 2015, as Li et al. 2017 prune it)."""

from torch import Tensor, nn

from zoo.networks.parts import conv_bn_relu, initialise, require_positive

# Widths in units of the first stage's; a stage ends in a pooling that halves the image.
_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, and a classifier of one or two linear layers."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def vgg16(classes: int = 10, channels: int = 3, width: int = 64, hidden: int = 512) -> VGG:
    """Build VGG-16 with batch norm, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        width: channels of the first stage; the last has 8 times as many.
        hidden: features of the hidden linear layer (512 in Li et al. 2017 and HRank), 0 for none (ABCPruner).

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in vgg16(hidden=0).parameters())
    14728266
    """
    require_positive("vgg16", classes=classes, channels=channels, width=width, hidden=hidden + 1)
    layers: list[nn.Module] = []
    inputs = channels
    for stage in _STAGES:
        for factor in stage:
            layers.append(conv_bn_relu(inputs, factor * width, 3, bias=True))
            inputs = factor * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # as without it on 32 x 32; 28 x 28 reaches the end too
    return VGG(nn.Sequential(*layers), _classifier(inputs, hidden, classes))


def _classifier(inputs: int, hidden: int, classes: int) -> nn.Module:
    if not hidden:
        return nn.Linear(inputs, classes)
    first = nn.Linear(inputs, hidden)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes))
