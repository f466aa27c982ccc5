"""Postponed: the arguments of a `Gradual` that a trainer's callback keeps until there is a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fxprune.training.gradual import Gradual


class Postponed:
    """What callbacks of trainers share: the arguments of a `Gradual`, until there is a model.

    Args:
        example_inputs: as for `fxprune.trace`.
        options: as for `Gradual`, but for the optimizer.

    Attributes:
        pruner: the `fxprune.Gradual` at work, once training has begun; `pruner.result.save(path)` keeps the model.
    """

    def __init__(self, example_inputs: Any, epochs: Iterable[int], **options: Any) -> None:
        self._arguments, self._options = (example_inputs, tuple(epochs)), options
        self.pruner: Gradual[nn.Module] | None = None

    def begin(self, model: nn.Module) -> Gradual[nn.Module]:
        """The pruner of a model: the one at work if it is of the same model, since the goal means the original."""
        if self.pruner is None or self.pruner.model is not model:
            self.pruner = Gradual(model, *self._arguments, **self._options)
        return self.pruner
