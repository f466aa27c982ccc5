"""Small networks whose groups have every form that a scorer must cope with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Groups, find_groups
from fxprune.rewriting.channel_sampler import add_samplers
from fxprune.tracing.trace import trace

CLASSES = 3
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Subject:
    """A network to score.

    Attributes:
        name: what its groups are like.
        make: makes the network, with random weights.
        ordinary: a layer makes each channel, and it has a batch norm.
        shape: of one sample.
        dtype: of weights and inputs.
        device: where they are.
    """

    name: str
    make: Callable[[], nn.Module]
    ordinary: bool = True
    shape: tuple[int, ...] = (3, 8, 8)
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def on(self, device: str) -> Subject:
        return replace(self, device=device)

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode; all that a fresh network holds alike is drawn at random."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make()
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
                nn.init.normal_(norm.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return model.to(self.device, self.dtype).eval()

    @cached_property
    def groups(self) -> Groups:
        return find_groups(trace(self.model, self.batches()[0][0][:1]))

    def batches(self) -> Batches:
        """Two batches of (inputs, classes), of 4 and 3 samples; the same at each call."""
        generator = torch.Generator().manual_seed(1)

        def batch(size: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(size, *self.shape, generator=generator).to(self.device, self.dtype)
            return x, torch.randint(CLASSES, (size,), generator=generator).to(self.device)

        return [batch(4), batch(3)]


class _Net(nn.Module):
    """Named layers and a function over them, then a classifier of the mean over positions."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], width: int, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self, x)
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


def _conv(a: int, b: int, size: int = 3, **options: Any) -> nn.Sequential:
    conv = nn.Conv2d(a, b, size, padding=size // 2, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU(inplace=True))


def _chain() -> nn.Module:
    return _Net(lambda m, x: m.b(m.a(x)), 8, a=_conv(3, 6, bias=False), b=_conv(6, 8, stride=2))


def _shared() -> nn.Module:
    """Two layers make the same channels, and one layer runs twice."""
    return _Net(lambda m, x: m.b(m.a(m.stem(x))) + m.a(m.stem(x)), 6, stem=_conv(3, 6), a=_conv(6, 6), b=_conv(6, 6, 1))


def _grouped() -> nn.Module:
    layers = {"a": _conv(3, 8, 1), "b": _conv(8, 12, groups=2), "c": _conv(12, 12, groups=12)}
    return _Net(lambda m, x: m.c(m.b(m.a(x))), 12, **layers)


def _flattened() -> nn.Module:
    """A channel owns several columns of the linear layer that reads it."""
    return _Net(lambda m, x: m.b(m.a(x)).flatten(1), 5 * 16, a=_conv(3, 4), b=_conv(4, 5, stride=2))


def _joined() -> nn.Module:
    """Two groups lie side by side in one dim."""
    layers = {"a": _conv(3, 4), "b": _conv(3, 5), "c": _conv(9, 6)}
    return _Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), 6, **layers)


def _transposed() -> nn.Module:
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    return _Net(lambda m, x: m.up(m.a(x)), 6, a=_conv(3, 4, stride=2), up=up)


def _linear() -> nn.Module:
    return _Net(lambda m, x: m.b(m.a(x).relu()).relu(), 7, a=nn.Linear(5, 6), b=nn.Linear(6, 7))


def _sampled() -> nn.Module:
    """No layer makes the channels that a sampler selects: indices and the columns that read them are all they have."""
    layers = {"a": _conv(3, 6), "b": _conv(6, 6), "c": _conv(6, 5)}
    return add_samplers(_Net(lambda m, x: m.c(m.a(x) + m.b(m.a(x))), 5, **layers), ["c.0"])


class _Placed(nn.Module):
    """A learned table of positions, scaled and normed: parameters and statistics, but no layer makes its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 6, 8, 8))
        self.norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(9, 5, 3, padding=1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(self.table).expand(len(x), -1, -1, -1)
        return self.head(self.conv(torch.cat([x, places], 1)).relu().mean((2, 3)))


SUBJECTS: tuple[Subject, ...] = (
    Subject("chain", _chain),
    Subject("shared", _shared),
    Subject("grouped", _grouped),
    Subject("flattened, float64", _flattened, dtype=torch.float64),
    Subject("joined", _joined),
    Subject("transposed", _transposed),
    Subject("linear, without norms", _linear, ordinary=False, shape=(5,)),
    Subject("sampled", _sampled, ordinary=False),
    Subject("placed, made by no layer", _Placed, ordinary=False),
)
