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
@pytest.mark.parametrize("part", ["", pytest.param("net", marks=pytest.mark.slow)])
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
def test_lightning_reads_a_checkpoint_into_a_fresh_module_to_test_it_too(tmp_path: Path) -> None:
    module_of, trainer_of, callback_of = lightning_parts()

    class Tested(module_of):  # type: ignore[misc, valid-type]
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    loader = DataLoader(TensorDataset(X, Y), 16)
    module, trainer = Tested(), trainer_of(2, callback_of(X[:1], epochs=[1], macs=0.3))
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "left.ckpt")
    wanted = trainer.test(module, loader, verbose=False)
    fresh, idle = Tested(), callback_of(X[:1], epochs=[1], macs=0.3)
    other = trainer_of(1, idle)
    other.test(fresh, loader, verbose=False)
    assert idle.pruner is None  # without a checkpoint there is nothing to do
    assert other.test(fresh, loader, ckpt_path=tmp_path / "left.ckpt", verbose=False) == wanted
    assert fresh.net[0].out_channels == module.net[0].out_channels < 16
    assert "on_load_checkpoint" not in vars(fresh)
    full = trainer_of(1, callback_of(X[:1], epochs=[5], macs=0.3))
    full.fit(Tested(), loader)
    full.save_checkpoint(tmp_path / "full.ckpt")
    with pytest.raises(InputError, match="the checkpoint is of the module at other widths than it has now"):
        trainer.test(module, loader, ckpt_path=tmp_path / "full.ckpt", verbose=False)


@pytest.mark.filterwarnings("ignore")
def test_averages_of_lightnings_own_callbacks_are_cut_as_well() -> None:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    module_of, trainer_of, callback_of = lightning_parts()
    loader = DataLoader(TensorDataset(X, Y), 16)
    kinds = [lambda: callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=1)]
    if hasattr(callbacks, "EMAWeightAveraging"):
        kinds.append(callbacks.EMAWeightAveraging)
    for kind in kinds:
        module, average = module_of(), kind()
        trainer = trainer_of(4, callback_of(X[:1], epochs=[1, 2], macs=0.3))
        trainer.callbacks.append(average)
        trainer.fit(module, loader)
        held = average._average_model
        assert {tuple(p.shape) for p in held.parameters()} == {tuple(p.shape) for p in module.parameters()}
        assert module.net[0].out_channels < 16


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("width", [16, 20])
def test_a_teacher_that_another_callback_holds_is_left_alone(width: int) -> None:
    module_of, trainer_of, callback_of = lightning_parts()
    lightning = pytest.importorskip("lightning.pytorch")

    class Distillation(lightning.Callback):  # type: ignore[misc, name-defined]
        def __init__(self, teacher: nn.Module) -> None:
            self.teacher = teacher

    teacher = module_of().eval()
    teacher.net[0], teacher.net[1] = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
    teacher.net[3] = nn.Conv2d(width, 24, 3)
    before = teacher(X).detach()
    callback = callback_of(X[:1], [1], macs=0.5)
    trainer = trainer_of(2, callback)
    trainer.callbacks.append(Distillation(teacher))
    trainer.fit(module_of(), DataLoader(TensorDataset(X, Y), 16))
    assert callback.pruner.cuts == 1
    assert torch.equal(teacher(X), before)


@pytest.mark.filterwarnings("ignore")
def test_a_second_fit_cuts_nothing_more() -> None:
    module_of, trainer_of, callback_of = lightning_parts()
    module, callback = module_of(), callback_of(X[:1], epochs=[0], macs=0.5)
    widths = []
    for _ in range(2):
        trainer_of(1, callback).fit(module, DataLoader(TensorDataset(X, Y), 16))
        widths.append([m.out_channels for m in module.net if isinstance(m, nn.Conv2d)])
    assert widths[0] == widths[1]
    assert widths[0] != [16, 24]


@pytest.mark.filterwarnings("ignore")
def test_lightning_refuses_a_model_that_is_not_there() -> None:
    module_of, trainer_of, callback_of = lightning_parts()
    with pytest.raises(InputError, match="no such model in the LightningModule; seen: backbone; remedy: one of net"):
        trainer_of(1, callback_of(X, epochs=[0], macs=0.5, model="backbone")).fit(module_of(), DataLoader(X))


def transformers_trainer(folder: Path, callback: Any, model: Any = None, **options: Any) -> Any:
    """A Trainer of a small vision transformer."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=2)
    data = [{"pixel_values": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    arguments = transformers.TrainingArguments(str(folder), **{**quiet, **options})
    model = model or transformers.ViTForImageClassification(config)
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])


def transformers_callback(epochs: list[int]) -> Any:
    pytest.importorskip("transformers")
    from fxprune.training.transformers import PruningCallback

    return PruningCallback({"pixel_values": X[:2]}, epochs=epochs, macs=0.5)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_prunes_at_epochs(tmp_path: Path) -> None:
    callback = transformers_callback([0, 2])
    trainer = transformers_trainer(tmp_path, callback, num_train_epochs=3)
    model = trainer.model
    trainer.train()
    report = callback.pruner.result.report
    assert 0.4 < report.after.macs / report.before.macs <= 0.5
    assert callback.pruner.result.model is model
    optimizer = trainer.optimizer.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} >= {id(p) for p in optimizer.state}
    left = sum(p.numel() for p in model.parameters())
    trainer.train()  # the goal means the original: nothing more goes
    assert sum(p.numel() for p in model.parameters()) == left


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_resumes_cuts_at_the_epoch_given_or_says_why_it_cannot(tmp_path: Path) -> None:
    options = {"num_train_epochs": 3, "per_device_train_batch_size": 8}  # 6 steps an epoch
    trainer = transformers_trainer(tmp_path, transformers_callback([2]), save_strategy="steps", save_steps=5, **options)
    trainer.train()
    seen = []
    callback = transformers_callback([1])
    callback.on_step_begin = lambda args, state, control, **at: seen.append(callback.pruner.cuts)
    again = transformers_trainer(tmp_path / "again", callback, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert seen == [0] + [1] * 12  # one step of the first epoch was left
    with pytest.raises(InputError, match="a training that has cut its model cannot be resumed"):
        transformers_trainer(tmp_path, transformers_callback([0]), trainer.model, **options).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-15")
        )


@pytest.mark.filterwarnings("ignore")
def test_the_best_model_of_a_trainer_is_one_of_the_present_widths(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "value", "greater_is_better": True}
    each = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "num_train_epochs": 3,
        "per_device_train_batch_size": 24,
    }
    trainer = transformers_trainer(tmp_path, transformers_callback([1]), **best, **each)
    values = iter([0.9, 0.5, 0.4])
    trainer.compute_metrics = lambda _: {"value": next(values)}
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")  # the first after the cut


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from fxprune.training.transformers import PruningCallback

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'fxprune\[transformers\]'"):
        PruningCallback(X, epochs=[0], macs=0.5)
