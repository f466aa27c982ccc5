"""Scores by chance."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import check_seed
from fxprune.scorers.base import Scores


@dataclass(frozen=True)
class Random:
    """Uniform random scores in [0, 1): the baseline that every criterion must beat.

    Attributes:
        seed: of the scores; the global random state is not used. A group's scores depend on the seed and its name.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.Random(seed=1)(net, groups)["0"].shape
    torch.Size([3])
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        check_groups(groups, model)
        return {g.name: self._draw(g.name, g.size) for g in groups}

    def _draw(self, name: str, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.rand(size, generator=generator, dtype=torch.float64, device="cpu")
