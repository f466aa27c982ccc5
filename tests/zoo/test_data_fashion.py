"""Digits and Fashion-MNIST: read, split, normalised; damaged files are named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import idx_bytes, write_fashion

from zoo.data import Split, Splits
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.sources import idx, places

CLASSES = 10


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_fashion(tmp_path)
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
    monkeypatch.setenv(places.ENVIRONMENT, str(files))
    assert places.find(idx.FASHION, places.Request()) == below


def test_without_a_setting_the_prefixes_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(places.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name in idx.FILES:
        (folder / name).touch()
    assert places.find(idx.FASHION, places.Request()) == folder


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
