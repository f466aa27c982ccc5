"""Numbers: what the tensors of the full-size, the masked and the pruned model hold, made when they are read.

No copy of a model is made for a comparison: a tensor's numbers are made for the call that reads them, and dropped.
"""

from __future__ import annotations

import zlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.module.isolation import tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import cut, scaled
from fxprune.verification.randomise import drawn_like, is_redrawn


class Numbers:
    """The numbers of a model's tensors, and what a plan leaves of them.

    Attributes:
        tensors: the model's parameters and buffers by name, each once.
        plan: what stays.
        small: the pruned model, if it was made already.
        double: whether they are float64.
        random: whether constants and vectors of parameters are drawn anew, and statistics and biases are set from the
            signal.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, seed: int | None, *, double: bool, small: nn.Module | None = None
    ) -> None:
        """Seed None: the model's own numbers; double: in float64; small: what `rewrite` made of the model."""
        self.small = small
        self._cut = {} if small is None else tensors_of(small)
        self.tensors, self.plan = tensors_of(model), plan
        self.random = seed is not None
        self.double, self._seed = double, seed or 0
        self._drawn: dict[str, bool] = {}
        self._scaled = {scale.tensor for scale in plan.scales}
        self._given: dict[str, Tensor] = {}

    @cached_property
    def cuts(self) -> dict[str, dict[int, np.ndarray]]:
        return self.plan.cuts()

    @cached_property
    def _kept(self) -> dict[str, dict[int, np.ndarray]]:
        return {name: {dim: np.sort(kept) for dim, kept in dims.items()} for name, dims in self.cuts.items()}

    def kept(self, name: str, dim: int) -> Tensor | None:
        """The indices that stay, ascending; None for all."""
        kept = self._kept.get(name, {}).get(dim)
        return None if kept is None else torch.from_numpy(kept).to(self.tensors[name].device)

    def generator(self, name: str) -> torch.Generator:
        """Draws for a tensor do not depend on the order in which tensors are read."""
        return torch.Generator().manual_seed(self._seed ^ zlib.crc32(name.encode()))

    def whole(self, name: str) -> Tensor:
        """The full-size model's numbers."""
        return self._fresh(name, self._source(name))

    def masked(self, name: str) -> Tensor:
        """With zeros where the plan removes something."""
        tensor = self.whole(name)
        for dim, kept in self._kept.get(name, {}).items():
            gone = np.delete(np.arange(tensor.shape[dim]), kept)
            tensor = tensor.index_fill(dim, torch.from_numpy(gone).to(tensor.device), 0)
        return tensor

    def block(self, name: str) -> Tensor:
        """What is left of the masked tensor without its zeros."""
        return self._fresh(name, cut(self._source(name), self._kept.get(name, {})))

    def pruned(self, name: str) -> Tensor:
        """As `rewrite` cuts it, or has cut it."""
        source = self._source(name)
        if name in self._scaled:
            source = scaled(name, self._fresh(name, source), self.plan)  # a factor is rounded in a narrow type
        elif name in self._cut and source.data_ptr() == self.tensors[name].data_ptr():
            return self._fresh(name, self._cut[name].detach())
        return self._fresh(name, cut(source, self.cuts.get(name, {})))

    def is_set(self, name: str) -> bool:
        return name in self._given

    def set(self, name: str, tensor: Tensor) -> None:
        """Other numbers for the full-size tensor."""
        self._given[name] = tensor

    def _source(self, name: str) -> Tensor:
        if name in self._given:
            return self._given[name]
        tensor = self.tensors[name]
        if name not in self._drawn:
            self._drawn[name] = self.random and is_redrawn(tensor)
        return drawn_like(tensor.detach(), self.generator(name)) + 0.5 if self._drawn[name] else tensor.detach()

    def _fresh(self, name: str, tensor: Tensor) -> Tensor:
        """In the precision of the comparison, and nobody else's: a call may write to what it reads."""
        new = lifted(tensor) if self.double else tensor
        held = (self.tensors[name], self._given.get(name), self._cut.get(name))
        return new.clone() if any(t is not None and new.data_ptr() == t.data_ptr() for t in held) else new


def lifted(value: Tensor) -> Tensor:
    """In float64, where it is of floating point."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value
