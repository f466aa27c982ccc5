"""A callback of Lightning that prunes while `Trainer.fit` trains.

from fxprune.training.lightning import PruningCallback

trainer = Trainer(max_epochs=10, callbacks=[PruningCallback(example_inputs, epochs=[0, 2, 4], macs=0.5)])
trainer.fit(module, loader)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fxprune.errors import InputError
from fxprune.optional import require
from fxprune.training.gradual import Postponed

try:
    from lightning.pytorch import Callback
except ImportError:  # made without it, the callback says which extra is missing
    Callback = object  # type: ignore[assignment, misc]


class PruningCallback(Postponed, Callback):
    """Prunes a LightningModule, or a model in it, at the start of given epochs; its optimizers follow.

    Under a DDP strategy, rank 0 decides, and the smaller model is wrapped again. A checkpoint holds the plan:
    `trainer.fit(fresh_module, ckpt_path=...)` cuts the full-size module before its weights are read.

    Args:
        example_inputs: of the model that is pruned, as for `fxprune.trace`.
        epochs: as for `fxprune.Gradual`.
        model: the name of the attribute of the LightningModule that is pruned, such as "backbone"; "" for the
            LightningModule itself.
        options: `ema`, goals and options as for `fxprune.Gradual`.

    Attributes:
        pruner: the `fxprune.Gradual` at work, once training has begun; `pruner.result.save(path)` keeps the model.

    Raises:
        InputError: Lightning is not installed.
    """

    def __init__(self, example_inputs: Any, epochs: Iterable[int], *, model: str = "", **options: Any) -> None:
        require("lightning.pytorch", extra="lightning")
        super().__init__(example_inputs, epochs, **options)
        self._model = model

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook. Before weights are read from a checkpoint, the module is cut as the plan in it says."""
        if stage != "fit":
            return
        pruner = self.begin(self._part(pl_module))
        own_hook = pl_module.on_load_checkpoint

        def cut_first(checkpoint: dict[str, Any]) -> None:
            if state := checkpoint.get("callbacks", {}).get(self.state_key):
                pruner.load_state_dict(state)
            own_hook(checkpoint)

        pl_module.on_load_checkpoint = cut_first  # the only hook that sees a checkpoint before the weights are read

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook, after a checkpoint was read."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: what a checkpoint holds."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: the cuts that are due."""
        assert self.pruner is not None
        self.pruner.optimizers = list(trainer.optimizers)
        if self.pruner.step(trainer.current_epoch) and isinstance(
            trainer.strategy.model, nn.parallel.DistributedDataParallel
        ):
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()

    def _part(self, module: Any) -> nn.Module:
        part = getattr(module, self._model, None) if self._model else module
        if not isinstance(part, nn.Module):
            names = ", ".join(name for name, _ in module.named_children())
            raise InputError("no such model in the LightningModule", seen=self._model, remedy=f"one of {names}")
        return part
