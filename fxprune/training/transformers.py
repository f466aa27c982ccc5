"""A callback of transformers' Trainer that prunes while `Trainer.train` trains.

from fxprune.training.transformers import PruningCallback

callback = PruningCallback({"pixel_values": images}, epochs=[0, 1], macs=0.5)
Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fxprune.errors import InputError
from fxprune.optional import require
from fxprune.training.gradual import Postponed
from fxprune.training.ranks import together

try:
    from transformers import TrainerCallback
except ImportError:  # made without it, the callback says which extra is missing
    TrainerCallback = object  # type: ignore[assignment, misc]


class PruningCallback(Postponed, TrainerCallback):
    """Prunes the model of a Trainer at the start of given epochs; its optimizer follows.

    In one process: what a Trainer wraps for several, a callback cannot wrap again.

    Args:
        example_inputs: as for `fxprune.trace`; a dict of the model's keyword arguments.
        epochs: as for `fxprune.Gradual`.
        options: `ema`, goals and options as for `fxprune.Gradual`.

    Attributes:
        pruner: the `fxprune.Gradual` at work, once training has begun; `pruner.result.save(path)` keeps the model.

    Raises:
        InputError: transformers is not installed.
    """

    def __init__(self, example_inputs: Any, epochs: Iterable[int], **options: Any) -> None:
        require("transformers", extra="transformers")
        super().__init__(example_inputs, epochs, **options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """The Trainer's hook."""
        if together() or isinstance(at["model"], nn.DataParallel):
            remedy = "prune before training with fxprune.prune(steps=1), or train with a loop of your own"
            raise InputError("the Trainer runs the model on several devices", remedy=remedy)
        self.begin(at["model"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """The Trainer's hook: the cuts that are due."""
        assert self.pruner is not None
        self.pruner.optimizers = [at["optimizer"]]
        self.pruner.step(round(state.epoch or 0))
