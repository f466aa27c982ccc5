"""The zoo: networks, data files, training and checkpoints."""

import dataclasses
import gzip
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, nn
from typer.testing import CliRunner

from zoo import idx
from zoo.__main__ import app
from zoo.augment import shift
from zoo.checkpoints import Metadata, describe, load, save
from zoo.cook import WEIGHTS
from zoo.data import Split, Splits
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.recipes import RECIPES
from zoo.resnet import resnet
from zoo.settings import Settings
from zoo.train import accuracy, fit

CLASSES = 10
PER_CLASS = 24


# Networks


PUBLISHED = {20: 269_722, 32: 464_154, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "published"), PUBLISHED.items())
def test_parameter_counts_are_those_published(depth: int, published: int) -> None:
    assert sum(parameter.numel() for parameter in resnet(depth).parameters()) == published


@pytest.mark.parametrize("option", ["A", "B"])
def test_both_shortcuts_map_images_to_logits(option: str) -> None:
    net = resnet(8, classes=7, channels=1, width=6, option=option).eval()
    assert net(torch.zeros(3, 1, 9, 8)).shape == (3, 7)
    assert net.layer2[0].shortcut(torch.zeros(3, 6, 9, 8)).shape == (3, 12, 5, 4)


def test_option_a_pads_zeros_around_every_second_pixel() -> None:
    x = torch.randn(2, 4, 6, 6)
    padded = resnet(8, width=4).layer2[0].shortcut(x)
    assert torch.equal(padded[:, 2:6], x[:, :, ::2, ::2])
    assert not padded[:, :2].any()
    assert not padded[:, 6:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18}, "depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), got 18"),
        ({"depth": 2}, "got 2"),
        ({"depth": 20, "option": "C"}, 'option must be "A" or "B", got \'C\''),
        ({"depth": 20, "width": 15}, "so width must be even, got 15"),
        ({"depth": 20, "classes": 0}, "sizes must be >= 1, got classes=0"),
    ],
)
def test_an_impossible_resnet_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        resnet(**arguments)


# Data


def idx_bytes(array: np.ndarray) -> bytes:
    """The idx format: two zero bytes, type 8 (uint8), rank, sizes as big-endian uint32, values."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a tiny Fashion-MNIST: 24 training and 2 test images a class, every image another."""
    draw = np.random.default_rng(0)
    for part, count in (("train", PER_CLASS), ("t10k", 2)):
        labels = draw.permutation(np.repeat(np.arange(CLASSES, dtype=np.uint8), count))
        images = draw.integers(0, 256, (len(labels), 5, 4), dtype=np.uint8)
        for name, array in ((idx.IMAGES, images), (idx.LABELS, labels)):
            (tmp_path / name.format(part=part)).write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def parts_of(splits: Splits) -> tuple[Split, Split, Split]:
    return splits.train, splits.val, splits.test


def images_of(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_fashion_mnist_is_read_split_and_normalised(files: Path) -> None:
    splits = load_data("fashion-mnist", files)
    assert splits.classes == CLASSES
    assert [len(part) for part in parts_of(splits)] == [220, 20, 20]
    for part in parts_of(splits):
        assert part.images.shape[1:] == (1, 5, 4)
        assert (part.images.dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(part.labels.bincount(), torch.full((CLASSES,), len(part) // CLASSES))
    assert splits.train.images.mean().abs() < 1e-5
    assert abs(splits.train.images.std() - 1) < 1e-3


def test_images_keep_their_labels(files: Path) -> None:
    with (
        gzip.open(files / "t10k-images-idx3-ubyte.gz") as images,
        gzip.open(files / "t10k-labels-idx1-ubyte.gz") as labels,
    ):
        raw = np.frombuffer(images.read(), np.uint8, offset=16).reshape(20, 1, 5, 4)
        expected = np.frombuffer(labels.read(), np.uint8, offset=8)
    test = load_data("fashion-mnist", files).test
    assert np.array_equal(test.labels.numpy(), expected)
    correlation = np.corrcoef(test.images.numpy().ravel(), raw.ravel())[0, 1]
    assert correlation == pytest.approx(1)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_a_split_is_disjoint_stratified_and_decided_by_its_seed(name: str, files: Path) -> None:
    parts, again, other = (parts_of(load_data(name, files, seed)) for seed in (3, 3, 4))
    assert len(set.union(*map(images_of, parts))) == sum(map(len, parts))
    assert all(torch.equal(a.images, b.images) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[0].images, other[0].images)
    shares = torch.stack([part.labels.bincount(minlength=CLASSES) / len(part) for part in parts])
    assert (shares - shares.mean(0)).abs().max() < 0.01


def test_the_environment_names_the_folder_above(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = files / "fashion-mnist"
    below.mkdir()
    for name in idx.FILES:
        (files / name).rename(below / name)
    monkeypatch.setenv(idx.ENVIRONMENT, str(files))
    assert idx.find("fashion-mnist") == below


def test_without_a_setting_the_prefixes_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(idx.ENVIRONMENT, raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name in idx.FILES:
        (folder / name).touch()
    assert idx.find("fashion-mnist") == folder


def test_missing_files_are_named_with_the_places_and_the_remedy(files: Path) -> None:
    (files / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ZooError) as caught:
        load_data("fashion-mnist", files)
    text = str(caught.value)
    assert all(name in text for name in idx.FILES)
    assert f"{files}: without t10k-labels-idx1-ubyte.gz" in text
    assert f"{files / 'fashion-mnist'}: no such folder" in text
    assert "apt-get install dataset-fashion-mnist" in text
    assert "FXPRUNE_DATA" in text


DAMAGES = {
    "cut gzip": lambda whole: whole[: len(whole) // 2],
    "no gzip": lambda _: b"not gzip at all",
    "empty": lambda _: b"",
    "short content": lambda whole: gzip.compress(gzip.decompress(whole)[:-1]),
    "long content": lambda whole: gzip.compress(gzip.decompress(whole) + b"x"),
    "header only": lambda whole: gzip.compress(gzip.decompress(whole)[:6]),
    "no content": lambda _: gzip.compress(b""),
    "other type": lambda whole: gzip.compress(b"\0\0\x0a" + gzip.decompress(whole)[3:]),
    "other rank": lambda whole: gzip.compress(b"\0\0\x08\x02" + gzip.decompress(whole)[4:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_file_is_named(files: Path, name: str, damage: str) -> None:
    path = files / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ZooError, match="cannot be read as a gzipped idx file") as caught:
        load_data("fashion-mnist", files)
    assert str(caught.value).startswith(f"{path}: ")
    assert "fetch the data set again" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"), [([0] * 19, "20 images, but 19 labels"), ([10] * 20, "label 10 is not")]
)
def test_labels_must_fit_the_images_and_the_classes(files: Path, labels: list[int], message: str) -> None:
    content = idx_bytes(np.array(labels, dtype=np.uint8))
    (files / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ZooError, match=message):
        load_data("fashion-mnist", files)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no data set 'mnist'; there are digits, fashion-mnist"):
        load_data("mnist")


# Augmentation


def test_shift_moves_each_image_by_whole_pixels() -> None:
    ramp = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(64, 2, 1, 1)
    moved = shift(1)(ramp, Generator().manual_seed(0))
    centres = moved[:, :, 2, 2] - ramp[:, :, 2, 2]
    assert torch.equal(centres[:, 0], centres[:, 1]), "all channels of an image move alike"
    assert set(centres[:, 0].tolist()) == {6 * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)}
    inside = (slice(None), slice(None), slice(1, 5), slice(1, 5))
    assert torch.equal(moved[inside], ramp[inside] + centres[:, :, None, None])


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(4.0).reshape(1, 1, 1, 4).repeat(400, 1, 1, 1)
    flipped = shift(0, flip=True)(images, Generator().manual_seed(0))
    mirrored = (flipped == images.flip(-1)).all(-1).sum()
    assert (flipped == images).all(-1).sum() + mirrored == len(images)
    assert 150 < mirrored < 250


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be >= 0 pixels, got -1"):
        shift(-1)


# Training


class Tiny(nn.Module):
    """Batch norm, dropout and a linear layer: what modes and random generators can disturb."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def bright_or_dark(samples: int = 65) -> Split:
    """Images (1, 4, 4) whose mean is +1 or -1, easy to tell. 65 leaves one image for the last batch."""
    labels = torch.arange(samples) % 2
    noise = torch.randn(samples, 1, 4, 4, generator=Generator().manual_seed(1))
    return Split(noise + 2.0 * labels[:, None, None, None] - 1, labels)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


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
        {"schedule": "step"},
        {"batch_size": 0},
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


# Checkpoints

METADATA = Metadata(
    network="resnet",
    arguments={"depth": 8, "classes": 10, "channels": 1, "width": 4, "option": "B"},
    data="digits",
    seed=0,
    recipe="",
    epochs=1,
    val_accuracy=0.5,
    test_accuracy=0.25,
    training={"lr": 0.1},
    commit=None,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / "net.safetensors"
    save(path, resnet(**METADATA.arguments), METADATA)
    return path


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    model = resnet(**METADATA.arguments).to(memory_format=torch.channels_last)
    model.bn1.running_mean += 1
    save(saved, model, METADATA)
    before = torch.get_rng_state()
    loaded, metadata = load(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert metadata == METADATA == describe(saved)
    assert torch.equal(weights(loaded), weights(model))
    assert not loaded.training
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save(saved, resnet(8), METADATA)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("length", [0, 4, 200, -1])
def test_a_truncated_checkpoint_is_named(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ZooError, match=f"{re.escape(str(saved))}: not a whole safetensors file"):
        load(saved)


def header(saved: Path, **changes: object) -> dict[str, str]:
    return {"zoo": json.dumps({**dataclasses.asdict(describe(saved)), **changes})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "its header has no 'zoo' entry"),
        ({"zoo": "{"}, "its header does not describe a checkpoint"),
        ({"zoo": "[]"}, "its header does not describe a checkpoint"),
        ({"zoo": '{"network": "resnet"}'}, "its header does not describe a checkpoint"),
        ({"network": "vgg"}, "no network 'vgg'; there are resnet"),
        ({"arguments": {"deep": 8}}, "does not take {'deep': 8}"),
        ({"arguments": {"depth": 14}}, "its weights do not fit its network"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(saved: Path, metadata: dict | None, message: str) -> None:
    changed = metadata if metadata is None or "zoo" in metadata else header(saved, **metadata)
    save_file(load_file(saved), saved, metadata=changed)
    with pytest.raises(ZooError, match=re.escape(message)) as caught:
        load(saved)
    assert str(saved) in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"none\.safetensors: no such file; 'python -m zoo list'"):
        load(tmp_path / "none.safetensors")


# Weights that come with the zoo, and the command line


@pytest.mark.parametrize("name", RECIPES)
def test_weights_belong_to_their_recipe_and_are_small(name: str) -> None:
    path, recipe = WEIGHTS / f"{name}.safetensors", RECIPES[name]
    metadata = describe(path)
    assert (metadata.recipe, metadata.network, metadata.data) == (name, recipe.network, recipe.data)
    assert metadata.arguments == recipe.arguments
    assert metadata.training.items() >= dataclasses.asdict(recipe.settings).items()
    assert path.stat().st_size < 5_000_000


def test_the_digits_weights_reach_what_they_claim() -> None:
    model, metadata = load(WEIGHTS / "digits-resnet20.safetensors")
    splits: Splits = load_data(metadata.data, seed=metadata.seed)
    assert accuracy(model, splits.val) == metadata.val_accuracy
    assert accuracy(model, splits.test) == metadata.test_accuracy >= 0.985


def test_a_recipe_is_trained_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["digits-resnet20"]
    short = dataclasses.replace(
        recipe,
        arguments={**recipe.arguments, "depth": 8},
        settings=dataclasses.replace(recipe.settings, epochs=1),
    )
    monkeypatch.setitem(RECIPES, recipe.name, short)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["train", recipe.name, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["digits-resnet20.safetensors"]
    metadata = describe(tmp_path / "digits-resnet20.safetensors")
    assert f"test {100 * metadata.test_accuracy:.2f} %" in result.output


def test_the_command_line_says_what_is_wrong_in_one_line() -> None:
    result = CliRunner().invoke(app, ["train", "resnet"])
    assert result.exit_code == 1
    assert result.output == "error: no recipe 'resnet'; there are digits-resnet20, fashion-resnet20\n"


def test_list_shows_every_recipe() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in RECIPES)
