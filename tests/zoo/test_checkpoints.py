"""Checkpoints: what is written comes back, and what does not fit is named."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_toys import weights

from zoo.checkpoints import Metadata, describe, load, save
from zoo.errors import ZooError
from zoo.networks.resnet import resnet

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

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)  # what a file system says that has taken the data and finds no place
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
        ({"network": "vgg"}, "no network 'vgg'; there are resnet, vgg16"),
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
