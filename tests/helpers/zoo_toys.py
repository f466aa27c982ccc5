"""A tiny classifier and images that it can learn, for the tests of training."""

import torch
from torch import Generator, nn

from zoo.data import Split


class Tiny(nn.Module):
    """Batch norm, dropout and a linear layer: what modes and random generators can disturb."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def bright_or_dark(samples: int = 65) -> Split:
    """Images (1, 4, 4) whose mean is +1 or -1, easy to tell. 65 leaves one image for the last batch."""
    labels = torch.arange(samples) % 2
    noise = torch.randn(samples, 1, 4, 4, generator=Generator().manual_seed(1))
    return Split(noise + 2.0 * labels[:, None, None, None] - 1, labels)


class Strided(nn.Module):
    """A strided 1x1 convolution that reads `inputs` channels, between two other layers."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers = nn.Conv2d(3, inputs, 1), nn.Conv2d(inputs, 16, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.body = nn.Sequential(*layers, nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def in_color() -> Split:
    """The images of `bright_or_dark`, repeated to (3, 8, 8)."""
    split = bright_or_dark()
    return Split(split.images.repeat(1, 3, 2, 2), split.labels)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])
