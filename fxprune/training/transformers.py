"""A callback of transformers' Trainer that prunes while `Trainer.train` trains.

from fxprune.training.transformers import PruningCallback

callback = PruningCallback({"pixel_values": images}, epochs=[0, 1], macs=0.5)
Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from fxprune.errors import InputError
from fxprune.optional import require
from fxprune.training.postponed import Postponed
from fxprune.training.ranks import together

try:
    from transformers import TrainerCallback
except ImportError:  # made without it, the callback says which extra is missing
    TrainerCallback = object  # type: ignore[assignment, misc]


class PruningCallback(Postponed, TrainerCallback):
    """Prunes the model of a Trainer at the start of given epochs; its optimizer follows.

    In one process: what a Trainer wraps for several, a callback cannot wrap again. A training that has made a cut
    cannot be resumed from the Trainer's checkpoints, which are read before any callback is asked. After each cut the
    Trainer looks for the best model anew: an earlier one has other widths.

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
        self._epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """The Trainer's hook."""
        if together() or isinstance(at["model"], nn.DataParallel):
            remedy = "prune before training with fxprune.prune(steps=1), or train with a loop of your own"
            raise InputError("the Trainer runs the model on several devices", remedy=remedy)
        # A training that goes on in the middle of an epoch begins with it once more.
        begun, self._epoch = math.ceil(state.epoch or 0), math.floor(state.epoch or 0)
        pruner = self.begin(at["model"])
        cuts = sum(e < begun for e in pruner.epochs)
        if state.global_step and cuts != pruner.cuts:
            seen = f"a checkpoint of epoch {state.epoch:g}, after {cuts} cuts; the model has seen {pruner.cuts}"
            remedy = "resume from one before the first cut, or train with a loop of your own and fxprune.Gradual"
            raise InputError(
                "a training that has cut its model cannot be resumed by the Trainer", seen=seen, remedy=remedy
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **at: Any) -> None:
        """The Trainer's hook: the cuts that are due."""
        assert self.pruner is not None
        self.pruner.optimizers = [at["optimizer"]]
        if self.pruner.step(self._epoch):
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
        self._epoch += 1
