"""MobileNetV2 (Sandler et al. 2018), with its strides for ImageNet or with those for small images."""

from torch import Tensor, nn

from zoo.networks.parts import conv_bn_relu, initialise, require_positive

# Expansion, channels, blocks, stride (Sandler et al. 2018, table 2).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel alone, narrow by a 1x1 convolution without ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([_unit(inputs, wide, 1)] if expansion > 1 else []),
            _unit(wide, wide, 3, stride=stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Stem, seventeen inverted residuals, a 1x1 convolution, linear layer."""

    def __init__(self, classes: int, channels: int, multiplier: float, small: bool) -> None:
        super().__init__()
        inputs = _round(_STEM * multiplier)
        layers: list[nn.Module] = [_unit(channels, inputs, 3, stride=1 if small else 2)]
        for i, (expansion, width, count, stride) in enumerate(_STAGES):
            outputs = _round(width * multiplier)
            for j in range(count):
                step = stride if j == 0 and not (small and i == 1) else 1
                layers.append(InvertedResidual(inputs, outputs, step, expansion))
                inputs = outputs
        last = _round(_LAST * max(1.0, multiplier))
        self.features = nn.Sequential(*layers, _unit(inputs, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(last, classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> logits (n, classes)."""
        logits: Tensor = self.fc(self.dropout(self.pool(self.features(x)).flatten(1)))
        return logits


def mobilenetv2(classes: int = 10, channels: int = 3, multiplier: float = 1.0, small: bool = True) -> MobileNetV2:
    """Build MobileNetV2, in training mode.

    Args:
        classes: logits per image.
        channels: channels of the input images.
        multiplier: of the widths, which are then rounded to multiples of 8.
        small: for images of about 32 x 32: the stem and the second stage keep the size, so that the image is halved
            three times, not five.

    Raises:
        ValueError: a size is out of range.

    >>> sum(p.numel() for p in mobilenetv2(1000, small=False).parameters())
    3504872
    """
    require_positive("mobilenetv2", classes=classes, channels=channels, multiplier=multiplier)
    return MobileNetV2(classes, channels, multiplier, small)


def _unit(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    unit = conv_bn_relu(inputs, outputs, kernel, stride=stride, groups=groups)
    unit[2] = nn.ReLU6(inplace=True)
    return unit


def _round(width: float) -> int:
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest
