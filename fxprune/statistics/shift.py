"""Shift: how far what a model's batch norms read, on given data, is from what they read in training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.module.batches import batches
from fxprune.module.isolation import isolated, set_training
from fxprune.module.tensors import walk
from fxprune.statistics.moments import Moments

LARGE = 0.2
"""A divergence, in nats, that data of the training's kind stay below.

`tools/benchmarks/shifts.py` measures it: 16 to 128 inputs of the networks' own kind come to at most 0.16, pictures of
another data set, inverted, darkened, noisy or otherwise normalised ones mostly to 0.25 to 3, bytes to thousands.
"""
ENOUGH = 128
"""Inputs after which no further batch is read."""


@dataclass(frozen=True)
class Shift:
    """The batch norm whose input is farthest from that of training.

    Attributes:
        layer: its qualified name.
        divergence: of the median channel, in nats.
    """

    layer: str
    divergence: float

    def __str__(self) -> str:
        far = f"what '{self.layer}' reads is {self.divergence:.2g} nats from its running statistics"
        what = f"the data seem to be of another kind than those of training: {far}, where that kind stays below {LARGE}"
        return f"{what}; look at their normalisation, order of colours and contents"


def shift(model: nn.Module, data: Iterable[Any]) -> Shift | None:
    """The largest shift of a model's batch norms on the first inputs of `data`; None where no batch norm tells.

    A batch norm's running statistics (μ, σ²) are those of its training inputs. Of each channel, the Kullback-Leibler
    divergence of normal distributions, with mean m and variance v on the data, is taken:

        ½ ((v + (m - μ)²) / σ² - 1 - ln(v / σ²))

    and of each batch norm the median of its channels. Statistics that no training has touched (0 and 1) tell nothing.

    >>> import torch
    >>> norm = torch.nn.BatchNorm1d(2).train()
    >>> seen = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> for _ in range(100):
    ...     _ = norm(seen)
    >>> round(shift(norm, [seen]).divergence, 2), round(shift(norm, [seen / 2 + 1]).divergence, 2)
    (0.0, 0.76)
    """
    with isolated(model, keep_buffers=True) as work:
        set_training(work, False)
        norms = {name: norm for name, norm in walk(work) if isinstance(norm, _BatchNorm) and _is_trained(norm)}
        seen = {name: _Seen(norm) for name, norm in norms.items()}
        for name, norm in norms.items():
            norm.register_forward_pre_hook(partial(_hand_on, seen[name]))
        read = 0
        for batch in batches(work, data) if norms else ():
            batch.run(work)
            read += batch.size
            if read >= ENOUGH:
                break
    found = [Shift(name, statistics.divergence()) for name, statistics in seen.items() if statistics.rows]
    return max(found, key=lambda s: s.divergence, default=None)


def large_shift(model: nn.Module, data: Iterable[Any]) -> Shift | None:
    """The shift where it is above `LARGE`."""
    found = shift(model, data)
    return found if found is not None and found.divergence > LARGE else None


def _hand_on(seen: _Seen, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.add(inputs[0])


def _is_trained(norm: _BatchNorm) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not ((mean == 0).all() and (variance == 1).all())


class _Seen:
    """What a batch norm reads, and its own statistics."""

    def __init__(self, norm: _BatchNorm) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._mean, self._variance, self._least = norm.running_mean.double(), norm.running_var.double(), norm.eps
        self._moments = Moments()

    @property
    def rows(self) -> int:
        return self._moments.count

    def add(self, x: Tensor) -> None:
        if x.numel():
            self._moments.add(x.detach().transpose(0, 1).flatten(1).T)

    def divergence(self) -> float:
        spread, variance = self._moments.squares / self.rows + self._least, self._variance + self._least
        ratio = (spread + (self._moments.mean - self._mean).square()) / variance
        each = (ratio - 1 - (spread / variance).log()) / 2
        return float(each.median())
