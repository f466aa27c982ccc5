"""Training: what it learns, that it can be repeated and resumed, that it leaves no footprints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Generator, nn
from zoo_toys import Strided, Tiny, bright_or_dark, in_color, weights

import fxprune
from zoo.augment import shift
from zoo.data import Split
from zoo.errors import ZooError
from zoo.settings import Settings
from zoo.train import accuracy, distillation, fit


def train(model: nn.Module, split: Split | None = None, **changes: object) -> list:
    settings = {"epochs": 3, "batch_size": 16, "progress": False, "augment": shift(1, flip=True)}
    return fit(model, split or bright_or_dark(), **{**settings, **changes})


def test_fit_learns_and_logs_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = Tiny(), bright_or_dark()
    logs = train(model, data, val=data, progress=True)
    assert [log.epoch for log in logs] == [1, 2, 3]
    assert logs[-1].loss < logs[0].loss
    assert logs[-1].val_accuracy == accuracy(model, data) > 0.95
    assert "epoch 3/3  loss 0." in capsys.readouterr().err


def test_fit_is_seeded_and_leaves_no_footprints() -> None:
    first, second, third = Tiny(), Tiny(), Tiny()
    for model in (first, second, third):
        model.eval()
        model.body[1].train()
    torch.manual_seed(12)  # not a state that an earlier run could have left behind
    before = torch.get_rng_state()
    train(first)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    train(second)
    train(third, seed=1)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(third))
    assert [module.training for module in first.modules()] == [False, False, False, True, False, False]
    assert all(parameter.grad is None for parameter in first.parameters())


def test_accuracy_counts_and_leaves_the_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    images = torch.eye(4).reshape(4, 1, 2, 2)
    assert accuracy(model, Split(images, torch.tensor([0, 1, 2, 0])), batch_size=3) == 0.75
    assert model.training
    assert model[1].training


def test_a_frozen_parameter_stays() -> None:
    model = Tiny()
    model.body[3].weight.requires_grad_(False)
    before = model.body[3].weight.clone()
    train(model)
    assert torch.equal(model.body[3].weight, before)
    with pytest.raises(ZooError, match="no parameter to train"):
        train(model.requires_grad_(False))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZooError])
def test_a_cut_off_run_leaves_the_last_finished_epoch(error: type[BaseException]) -> None:
    reference, model = Tiny(), Tiny()
    calls = 0

    def augment(images: torch.Tensor, _: Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 11:  # 4 batches an epoch: in the third
            raise error
        return images

    train(reference, augment=None, epochs=2, schedule="constant", warmup=0)
    with pytest.raises(error):
        train(model.eval(), augment=augment, epochs=3, schedule="constant", warmup=0)
    assert torch.equal(weights(model), weights(reference))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_goes_on_from_its_state_as_if_never_stopped(tmp_path: Path) -> None:
    whole, cut, state = Tiny(), Tiny(), tmp_path / "run.state"
    reference = train(whole)

    def stops_at(_: torch.Tensor, generator: Generator) -> torch.Tensor:
        if generator.initial_seed() == 3:  # seed 0 in epoch 3
            raise KeyboardInterrupt
        return shift(1, flip=True)(_, generator)

    with pytest.raises(KeyboardInterrupt):
        train(cut, state=state, augment=stops_at)
    logs = train(cut := Tiny(), state=state)
    assert [log.loss for log in logs] == [log.loss for log in reference]
    assert torch.equal(weights(cut), weights(whole))


def test_a_state_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    train(Tiny(), state=state)
    with pytest.raises(ZooError, match=r"is of a run with .*delete it to start over"):
        train(Tiny(), state=state, lr=0.2)
    other = Tiny()
    other.body[3] = nn.Linear(16, 3)
    before = weights(other)
    with pytest.raises(ZooError, match="another network"):
        train(other, state=state)
    assert torch.equal(weights(other), before)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ZooError, match="not a whole training state"):
        train(Tiny(), state=state)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    model, data = Tiny(), bright_or_dark()
    data.images[5] = torch.nan
    before = weights(model)
    with pytest.raises(ZooError, match=r"the loss became nan at learning rate .*; lower lr \(it was 0.1\)"):
        train(model, data)
    assert torch.equal(weights(model), before)


def test_a_split_of_one_class_is_an_error() -> None:
    data = bright_or_dark()
    with pytest.raises(ZooError, match="the training split has images of one class only"):
        train(Tiny(), data[data.labels == 1])


def test_an_empty_split_is_an_error() -> None:
    empty = bright_or_dark(0)
    with pytest.raises(ZooError, match="the training split is empty"):
        fit(Tiny(), empty, epochs=1)
    with pytest.raises(ZooError, match="the validation split is empty"):
        train(Tiny(), val=empty)
    with pytest.raises(ZooError, match="the evaluation split is empty"):
        accuracy(Tiny(), empty)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"warmup": -0.1},
        {"schedule": "stairs"},
        {"batch_size": 0},
        {"milestones": (0.7, 0.3)},
        {"milestones": (0.5, 1.0)},
        {"gamma": 0.0},
        {"distil": 1.5},
        {"temperature": 0.0},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"{name} must be")) as caught:
        Settings(**{"epochs": 1, **wrong})
    assert repr(value) in str(caught.value)


def test_the_rate_rises_then_falls() -> None:
    rates = [Settings(epochs=1, lr=1.0, warmup=0.2).rate(step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.05
    constant = Settings(epochs=1, lr=1.0, warmup=0.2, schedule="constant")
    assert [constant.rate(step, 10) for step in (0, 2, 9)] == [0.5, 1.0, 1.0]


def test_the_rate_steps_down_at_the_milestones() -> None:
    stairs = Settings(epochs=1, lr=1.0, warmup=0.2, schedule="step", milestones=(0.4, 0.7), gamma=0.5)
    assert [stairs.rate(step, 10) for step in range(10)] == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_the_rate_is_annealed_as_for_adversarial_training() -> None:
    settings = Settings(epochs=1, lr=0.01, warmup=0, schedule="annealed")
    # 0.01 / (1 + 10 p)^0.75 at p = 0, 1/2 and 9/10, by hand: 6^0.75 = 3.8337, 10^0.75 = 5.6234.
    assert [settings.rate(step, 10) for step in (0, 5, 9)] == pytest.approx([0.01, 0.0026084, 0.0017783], rel=1e-4)


def test_distillation_is_the_scaled_divergence() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    p, q = ((t.double() / 2).softmax(1).numpy() for t in (teacher, student))
    expected = 4 * np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])
    assert distillation(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_a_student_learns_from_its_teacher_alone() -> None:
    """Labels say nothing here; only the teacher's outputs do."""
    teacher, student, data = Tiny(), Tiny(), bright_or_dark()
    train(teacher, data)
    teacher.train()
    noise = Split(data.images, torch.randint(0, 2, (len(data),)))
    before = weights(teacher)
    train(student, noise, teacher=teacher, distil=1.0, epochs=5)
    assert accuracy(student, data) > 0.95
    assert torch.equal(weights(teacher), before)
    assert teacher.training
    alone = Tiny()
    train(alone, noise, epochs=5)
    assert accuracy(alone, data) < 0.9


def test_a_pruned_model_is_fine_tuned_by_the_same_call() -> None:
    data = bright_or_dark()
    original = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    train(original, data, epochs=6)
    small = fxprune.prune(original, data.images[:2], 0.75).model
    train(small, data, epochs=3, teacher=original)
    assert accuracy(small, data) > 0.95
    assert small[0].out_channels == 2


def test_settings_can_be_passed_whole_or_in_part() -> None:
    settings = Settings(epochs=2, batch_size=16)
    first, second = Tiny(), Tiny()
    fit(first, bright_or_dark(), settings, seed=5, progress=False)
    fit(second, bright_or_dark(), epochs=2, batch_size=16, seed=5, progress=False)
    assert torch.equal(weights(first), weights(second))
    with pytest.raises(TypeError, match="speed"):
        fit(first, bright_or_dark(), settings, speed=1)


def test_a_log_for_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logs = train(Tiny(), val=bright_or_dark(), log=tmp_path)
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"loss/train", "accuracy/val", "learning rate"}
    assert [e.value for e in read.Scalars("loss/train")] == pytest.approx([log.loss for log in logs])
    assert [e.step for e in read.Scalars("accuracy/val")] == [1, 2, 3]


def test_a_log_without_tensorboard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ZooError, match="'pip install tensorboard', or do without"):
        train(Tiny(), log=tmp_path)


@pytest.mark.parametrize(("inputs", "last"), [(4, False), (8, True)])
def test_images_lie_channels_last_where_that_is_safe(inputs: int, last: bool) -> None:
    seen, model = set(), Strided(inputs)
    model.body[1].register_forward_pre_hook(lambda _, args: seen.add(args[0].stride()[1] == 1))
    train(model, in_color(), epochs=1)
    assert seen == {last}


def test_kernels_lie_as_the_images_do_while_training() -> None:
    seen, model = set(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    last = nn.Sequential(nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last)
    model[0].register_forward_pre_hook(lambda m, _: seen.add(m.weight.stride()))
    train(model, in_color(), epochs=1)
    assert seen == {last[0].weight.stride()}
    assert model[0].weight.is_contiguous()


CHECKS_THE_HEAP = next(Path("/").glob("lib/*/libc_malloc_debug.so.0"), None)


@pytest.mark.skipif(CHECKS_THE_HEAP is None, reason="only glibc can check its heap")
def test_training_without_avx512_leaves_the_heap_whole() -> None:
    """On any machine: oneDNN is told to use no more than AVX2, and glibc to stop at the first damaged block."""
    # In place of PyTorch's compiler, which is imported for each optimizer and takes longer than all else.
    compiler = "class C: disable, graph_break = (lambda f, *_, **__: f), (lambda: None)"
    compiler += "\nsys.modules['torch._dynamo'] = torch._dynamo = C"
    code = "import zoo_toys as z; from zoo.train import fit; fit(z.Strided(4), z.in_color(), epochs=2, progress=False)"
    code = f"import sys, torch\n{compiler}\n{code}"
    environment = {"ONEDNN_MAX_CPU_ISA": "AVX2", "LD_PRELOAD": str(CHECKS_THE_HEAP), "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
