"""What a network makes of small changes of its inputs or weights, while nothing is pruned.

A pruned network can hardly agree more often with the original than the original does with itself when a photograph is
moved by a pixel. These rows stand beside the contenders of `benchmarks.untrained`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

LEVEL = 1 / 128
"""One of 256 levels of brightness, in the units of an image that was scaled to [-1, 1]."""


class Before(nn.Module):
    """A model behind a change of its inputs."""

    def __init__(self, change: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.change, self.model = change, model

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(self.change(x))
        return found


def mirrored(x: Tensor) -> Tensor:
    return x.flip(-1)


def moved(x: Tensor) -> Tensor:
    """To the right and down by a pixel; the border is repeated."""
    return pad(x, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]


def noisy(x: Tensor) -> Tensor:
    """With normal noise of a standard deviation of four levels."""
    return x + 4 * LEVEL * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose kernels hold so many bits a weight, with a scale for each output channel."""
    made = copy.deepcopy(model)
    for weight in (p for p in made.parameters() if p.dim() > 1):
        largest = weight.detach().abs().amax(tuple(range(1, weight.dim())), keepdim=True)
        step = largest.clamp_min(1e-12) / (2 ** (bits - 1) - 1)
        weight.data = (weight.detach() / step).round() * step
    return made


DISTURBED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "unpruned, images mirrored": lambda model: Before(mirrored, model),
    "unpruned, images moved by a pixel": lambda model: Before(moved, model),
    "unpruned, noise of 4 levels of 256": lambda model: Before(noisy, model),
    "unpruned, kernels of 8 bits": lambda model: rounded(model, 8),
    "unpruned, kernels of 6 bits": lambda model: rounded(model, 6),
}
"""By name: what makes the disturbed model of a model."""
