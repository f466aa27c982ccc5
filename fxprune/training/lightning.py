"""A callback of Lightning that prunes while `Trainer.fit` trains.

from fxprune.training.lightning import PruningCallback

trainer = Trainer(max_epochs=10, callbacks=[PruningCallback(example_inputs, epochs=[0, 2, 4], macs=0.5)])
trainer.fit(module, loader)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxprune.errors import InputError
from fxprune.optional import require
from fxprune.training.averages import difference
from fxprune.training.gradual import Gradual
from fxprune.training.postponed import Postponed

try:
    from lightning.pytorch import Callback, callbacks
except ImportError:  # made without it, the callback says which extra is missing
    Callback = object  # type: ignore[assignment, misc]
    callbacks = None  # type: ignore[assignment]


class PruningCallback(Postponed, Callback):
    """Prunes a LightningModule, or a model in it, at the start of given epochs; its optimizers follow.

    Under a DDP strategy, rank 0 decides, and the smaller model is wrapped again. A checkpoint holds the plan:
    `trainer.fit(fresh_module, ckpt_path=...)` cuts the full-size module before its weights are read, and so do
    `validate`, `test` and `predict`. Averages of the weights that other callbacks hold (`EMAWeightAveraging`,
    `StochasticWeightAveraging`, any `AveragedModel`) are cut as the module is; `ema=` takes others.

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
        self._followed: list[nn.Module] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook. Before weights are read from a checkpoint, the module is cut as the plan in it says."""
        if stage == "fit":  # the other stages need a pruner for what a checkpoint says alone
            self.begin(self._part(pl_module))
        own_hook = pl_module.on_load_checkpoint

        def cut_first(checkpoint: dict[str, Any]) -> None:
            vars(pl_module).pop("on_load_checkpoint", None)
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if state or (self.pruner is not None and self.pruner.model is self._part(pl_module)):
                pruner = self.begin(self._part(pl_module))
                self._follow(trainer, pl_module)
                _cut_as_saved(pruner, state)
            own_hook(checkpoint)

        pl_module.on_load_checkpoint = cut_first  # the only hook that sees a checkpoint before the weights are read

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook, after a checkpoint was read."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning's hook, in the end."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook: what a checkpoint holds."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Lightning's hook: the cuts that are due."""
        assert self.pruner is not None
        self.pruner.optimizers = list(trainer.optimizers)
        self._follow(trainer, pl_module)
        if self.pruner.step(trainer.current_epoch) and isinstance(
            trainer.strategy.model, nn.parallel.DistributedDataParallel
        ):
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()

    def _follow(self, trainer: Any, pl_module: Any) -> None:
        """Let averages of the weights that other callbacks hold be cut as well."""
        assert self.pruner is not None
        found = [self._part(m) for callback in trainer.callbacks for m in _averages_in(callback, pl_module)]
        found = [m for m in found if not difference(m, self.pruner.model)]
        given = [a for a in self.pruner.averages if not any(a is f for f in self._followed)]
        self.pruner.averages, self._followed = [*given, *found], found

    def _part(self, module: Any) -> nn.Module:
        part = getattr(module, self._model, None) if self._model else module
        if not isinstance(part, nn.Module):
            names = ", ".join(name for name, _ in module.named_children())
            raise InputError("no such model in the LightningModule", seen=self._model, remedy=f"one of {names}")
        return part


def _averages_in(callback: Any, module: Any) -> Iterator[Any]:
    """Averages of the module's weights. Other modules of its class may be anything, such as a teacher."""
    averaging = tuple(filter(None, (getattr(callbacks, name, None) for name in _AVERAGING)))
    for value in vars(callback).values():
        inner = value.module if isinstance(value, AveragedModel) else value
        known = isinstance(value, AveragedModel) or isinstance(callback, averaging)
        if known and isinstance(inner, type(module)) and inner is not module:
            yield inner


_AVERAGING = ("StochasticWeightAveraging", "WeightAveraging")  # whose modules are averages; newer versions have both


def _cut_as_saved(pruner: Gradual[nn.Module], state: dict[str, Any] | None) -> None:
    """Bring a module to the widths of a checkpoint; state is this callback's in it."""
    saved, own = (state or {}).get("plan", ""), pruner.state_dict()["plan"]
    if state and not pruner.cuts:
        pruner.load_state_dict(state)
    elif pruner.cuts and saved != own:
        remedy = "load it into a fresh, full-size module"
        raise InputError("the checkpoint is of the module at other widths than it has now", remedy=remedy)
