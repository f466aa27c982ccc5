"""ImageNet and Office-31 in folders of image files, and the album that reads them."""

import re
from pathlib import Path

import pytest
import torch
from data_files import write_images
from PIL import Image

from zoo.data import load
from zoo.errors import ZooError
from zoo.image_files import DEVIATION, MEAN, ImageFiles
from zoo.image_files import read as read_image
from zoo.sources.folders import read
from zoo.train import accuracy, fit

CLASSES = {"ant": 25, "bee": 25, "cat": 25}


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    write_images(tmp_path / "imagenet" / "train", CLASSES)
    write_images(tmp_path / "imagenet" / "val", dict.fromkeys(CLASSES, 2))
    return tmp_path


@pytest.fixture
def office(tmp_path: Path) -> Path:
    for domain, below in (("amazon", "images"), ("dslr", ""), ("webcam", "")):
        write_images(tmp_path / domain / below, dict.fromkeys(CLASSES, 10))
    return tmp_path


def reds(images: torch.Tensor) -> torch.Tensor:
    """The mean red of each image in [0, 255], rounded to the 20 steps of the writer."""
    return (images[:, 0].mean((1, 2)) * DEVIATION[0] + MEAN[0]).mul(255 / 20).round()


def test_imagenet_is_read_when_used(imagenet: Path) -> None:
    splits = load("imagenet", imagenet)
    assert splits.names == tuple(CLASSES)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [72, 3, 6]
    assert isinstance(splits.train, ImageFiles)
    assert splits.train.pixels is None
    batch = splits.train[torch.tensor([0, 30, 60])]
    assert batch.images.shape == (3, 3, 256, 256)  # to crop from
    assert splits.val[:1].images.shape == (1, 3, 224, 224)
    assert torch.equal(reds(batch.images), batch.labels.float())


def test_office_is_split_and_held(office: Path) -> None:
    for domain in ("amazon", "dslr", "webcam"):
        splits = load(f"office31-{domain}", office, seed=1)
        parts = (splits.train, splits.val, splits.test)
        assert [len(part) for part in parts] == [24, 3, 3]
        assert all(isinstance(part, ImageFiles) and part.pixels is not None for part in parts)
        assert all(torch.equal(reds(part.images), part.labels.float()) for part in parts)
        paths = [path for part in parts for path in part.paths]  # type: ignore[attr-defined]
        assert len(set(paths)) == 30


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and newer
def test_workers_give_the_same_batches(imagenet: Path) -> None:
    album, _ = read(imagenet / "imagenet" / "train")
    order = [torch.tensor([5, 70]), torch.tensor([40])]
    helped = ImageFiles(album.paths, album.labels, workers=1)
    for here, there in zip(album.batches(order), helped.batches(order), strict=True):
        assert torch.equal(here.images, there.images)
        assert torch.equal(here.labels, there.labels)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and newer
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(imagenet: Path, workers: int) -> None:
    album, _ = read(imagenet / "imagenet" / "val")
    whole = album.paths[3].read_bytes()
    album.paths[3].write_bytes(whole[: len(whole) // 2])
    helped = ImageFiles(album.paths, album.labels, workers=workers)
    with pytest.raises(ZooError, match=r"cannot be read as an image") as caught:
        list(helped.batches([torch.arange(6)]))
    assert str(caught.value).startswith(f"{album.paths[3]}: ")
    assert "\n" not in str(caught.value)


def test_the_middle_of_the_image_is_kept(tmp_path: Path) -> None:
    """A wide image with a blue middle third: resized to the canvas's height, its middle square is blue."""
    image = Image.new("RGB", (300, 100), (0, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    image.save(tmp_path / "wide.png")
    pixels = read_image(tmp_path / "wide.png", 64)
    assert pixels.shape == (3, 64, 64)
    assert pixels[2, :, 2:-2].float().mean() == 255
    assert pixels[:2].float().mean() < 1


def test_an_album_trains_and_is_measured_like_a_split(office: Path) -> None:
    splits = load("office31-dslr", office)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    logs = fit(model, splits.train, epochs=2, batch_size=8, val=splits.val, progress=False)
    assert logs[-1].val_accuracy == accuracy(model, splits.val)


# Bad data


def test_missing_folders_say_what_to_fetch(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ZooError) as caught:
        load("imagenet", tmp_path)
    assert f"{tmp_path}: without val" in str(caught.value)
    assert "https://image-net.org" in str(caught.value)
    assert "cannot be downloaded from here" in str(caught.value)
    with pytest.raises(ZooError, match="office-31: cannot be downloaded from here: unpack the archive"):
        load("office31-dslr", tmp_path, download=True)


def test_a_class_folder_without_images_is_named(office: Path) -> None:
    for path in (office / "dslr" / "bee").iterdir():
        path.unlink()
    (office / "dslr" / "bee" / "notes.txt").touch()
    with pytest.raises(ZooError, match=f"{re.escape(str(office / 'dslr'))}: .*no valid file for the classes bee"):
        load("office31-dslr", office)


def test_a_folder_without_class_folders_is_named(tmp_path: Path) -> None:
    for domain in ("amazon", "dslr", "webcam"):
        (tmp_path / domain).mkdir()
    with pytest.raises(ZooError, match=r"Couldn't find any class folder .* Give each class a folder of its own"):
        load("office31-dslr", tmp_path)


def test_a_class_too_small_to_split_is_an_error(tmp_path: Path) -> None:
    for domain in ("amazon", "dslr", "webcam"):
        write_images(tmp_path / domain, {"ant": 30, "bee": 1})
    with pytest.raises(ZooError, match=r"cannot be split by class \(.*\); add images to its smallest classes"):
        load("office31-dslr", tmp_path)


def test_one_class_is_an_error(tmp_path: Path) -> None:
    for domain in ("amazon", "dslr", "webcam"):
        write_images(tmp_path / domain, {"ant": 30})
    with pytest.raises(ZooError, match="the office31-dslr training split has images of one class only"):
        load("office31-dslr", tmp_path)


def test_classes_that_differ_between_train_and_val_are_named(imagenet: Path) -> None:
    (imagenet / "imagenet" / "val" / "cat").rename(imagenet / "imagenet" / "val" / "cow")
    with pytest.raises(ZooError, match=r"train and val have different classes \(cat, cow\)"):
        load("imagenet", imagenet)
