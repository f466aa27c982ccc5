"""Callbacks of Lightning and transformers: real trainings of seconds that prune on the way."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fxprune.errors import InputError

X = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0.5).long()


def lightning_parts() -> tuple[Any, Any, Any]:
    """A module, a trainer and the callback."""
    lightning = pytest.importorskip("lightning.pytorch")
    from fxprune.training.lightning import PruningCallback

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            body = (nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU())
            self.net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, _: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.01)

    def trainer(epochs: int, callback: Any) -> Any:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        return lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback], **quiet)

    return Module, trainer, PruningCallback


@pytest.mark.filterwarnings("ignore")  # of Lightning, about workers and devices
@pytest.mark.parametrize("part", ["", "net"])
def test_lightning_prunes_at_epochs_and_resumes(part: str, tmp_path: Path) -> None:
    module_of, trainer_of, callback_of = lightning_parts()
    loader = DataLoader(TensorDataset(X, Y), 16)

    def fitted(epochs: int, **options: Any) -> tuple[Any, Any, Any]:
        callback = callback_of(X[:1], epochs=[0, 2], macs=0.3, data=[X], model=part)
        module, trainer = module_of(), trainer_of(epochs, callback)
        trainer.fit(module, loader, **options)
        return module, trainer, callback

    module, trainer, callback = fitted(3)
    result = callback.pruner.result
    assert result.model is (module.net if part else module)
    assert 0.2 < result.report.after.macs / result.report.before.macs <= 0.3
    optimizer = trainer.optimizers[0]
    assert {id(p) for p in optimizer.state} == {id(p) for p in module.parameters()}
    trainer.save_checkpoint(tmp_path / "left.ckpt")
    again, _, second = fitted(4, ckpt_path=tmp_path / "left.ckpt")
    assert again.net[0].out_channels == module.net[0].out_channels < 16
    assert second.pruner.plan == callback.pruner.plan
    assert "on_load_checkpoint" not in vars(again)


@pytest.mark.filterwarnings("ignore")
def test_lightning_refuses_a_model_that_is_not_there() -> None:
    module_of, trainer_of, callback_of = lightning_parts()
    with pytest.raises(InputError, match="no such model in the LightningModule; seen: backbone; remedy: one of net"):
        trainer_of(1, callback_of(X, epochs=[0], macs=0.5, model="backbone")).fit(module_of(), DataLoader(X))


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_prunes_at_epochs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from fxprune.training.transformers import PruningCallback

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=2)
    model = transformers.ViTForImageClassification(config)
    data = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    callback = PruningCallback({"pixel_values": X[:2]}, epochs=[0, 2], macs=0.5)
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    arguments = transformers.TrainingArguments(str(tmp_path), num_train_epochs=3, **quiet)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    assert callback.pruner is not None
    report = callback.pruner.result.report
    assert 0.4 < report.after.macs / report.before.macs <= 0.5
    assert callback.pruner.result.model is model
    optimizer = trainer.optimizer.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} >= {id(p) for p in optimizer.state}


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from fxprune.training.transformers import PruningCallback

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'fxprune\[transformers\]'"):
        PruningCallback(X, epochs=[0], macs=0.5)
