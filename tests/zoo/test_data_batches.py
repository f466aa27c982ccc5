"""CIFAR-10, CIFAR-100 and STL-10 in files of their formats, and how they are found and fetched."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from data_files import write_cifar, write_stl
from torchvision.datasets import CIFAR10

from zoo.data import SOURCES, load
from zoo.errors import ZooError
from zoo.sources import places


@pytest.mark.parametrize(("name", "classes"), [("cifar-10", 10), ("cifar-100", 100)])
def test_cifar_is_read_split_and_normalised(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, classes, monkeypatch)
    splits = load(name, tmp_path, seed=3)
    assert splits.names == tuple(f"class {i}" for i in range(classes))
    for part, each in ((splits.train, 9), (splits.val, 1), (splits.test, 1)):
        assert part.images.shape == (each * classes, 3, 32, 32)
        assert torch.equal(part.labels.bincount(), torch.full((classes,), each))
    assert splits.train.images.mean((0, 2, 3)).abs().max() < 1e-4
    assert (splits.train.images.std((0, 2, 3)) - 1).abs().max() < 1e-4


def test_images_keep_their_labels_and_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer put each label into the red corner: normalised, it must be a straight line of the label."""
    write_cifar(tmp_path, 10, monkeypatch)
    write_stl(tmp_path, monkeypatch)
    for name, row in (("cifar-10", 0), ("stl-10", 5)):
        splits = load(name, tmp_path)
        for part in (splits.train, splits.val, splits.test):
            corner = part.images[:, 0, row, 0]
            assert torch.corrcoef(torch.stack([corner, part.labels.float()]))[0, 1] > 1 - 1e-5


def test_stl_is_read_with_labels_from_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl(tmp_path, monkeypatch)
    splits = load("stl-10", tmp_path)
    assert splits.train.images.shape == (90, 3, 96, 96)
    assert splits.names[0] == "class 0"
    assert splits.test.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", ["cifar-10", "stl-10"])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar(tmp_path, 10, monkeypatch) if name == "cifar-10" else write_stl(tmp_path, monkeypatch)
    path = folder / ("data_batch_2" if name == "cifar-10" else "train_X.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ZooError, match=f"a file of {name} is truncated or damaged, its checksum is not the published"):
        load(name, tmp_path)


def test_missing_files_are_named_with_places_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_cifar(tmp_path, 10, monkeypatch) / "data_batch_4").unlink()
    with pytest.raises(ZooError) as caught:
        load("cifar-10", tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}: without cifar-10-batches-py/data_batch_4" in text
    assert f"{tmp_path / 'cifar-10'}: no such folder" in text
    assert "--download" in text
    assert CIFAR10.url in text
    assert places.ENVIRONMENT in text


def test_the_environment_and_the_cache_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "fxprune" / "cifar-10", 10, monkeypatch)
    monkeypatch.delenv(places.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load("cifar-10").classes == 10
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(ZooError, match=re.escape(str(tmp_path / "nowhere" / "cifar-10"))):
        load("cifar-10")
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "fxprune"))
    assert load("cifar-10").classes == 10


def test_what_is_missing_is_downloaded_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = write_cifar(tmp_path / "shelf", 10, monkeypatch)

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        assert url == CIFAR10.url
        shutil.copytree(shelf, Path(root) / shelf.name)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    assert load("cifar-10", tmp_path / "data", download=True).classes == 10
    assert (tmp_path / "data" / "cifar-10" / shelf.name).is_dir()
    assert load("cifar-10", tmp_path / "data").classes == 10


def test_a_failed_download_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(ZooError, match=r"cifar-10: the download into .* failed \(network is unreachable\): or unpack"):
        load("cifar-10", tmp_path, download=True)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=f"no data set 'mnist'; there are {', '.join(SOURCES)}, imagenet"):
        load("mnist")
