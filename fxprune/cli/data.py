"""Batches by their name on the command line: a folder of images, or an object of the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Subset

from fxprune.cli import models
from fxprune.cli.answer import CommandError
from fxprune.cli.libraries import Loaded
from fxprune.cli.options import BATCH_SIZE, MEAN, SAMPLES, STD, DataOptions
from fxprune.module.data import Batches
from fxprune.optional import require

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_RESIZE = 256 / 224  # of the shorter side, before the middle is cut out; as in most recipes


def is_random(options: DataOptions) -> bool:
    """Whether pictures of random shapes are asked for, in place of data.

    Raises:
        CommandError: there is something to unpack.
    """
    vain = options.beside_data()
    if options.data == "random" and vain:
        raise CommandError(f"{vain} has no effect with --data random")
    return options.data == "random"


def load(options: DataOptions, loaded: Loaded) -> Batches | None:
    """The batches, or None if the command line names none.

    Raises:
        CommandError: there is no such folder, object or function, or it holds no images.
    """
    if options.data is None:
        if vain := options.beside_data():
            raise CommandError(f"{vain} has no effect without data; give --data as well")
        return None
    vain = options.of_images()
    if vain and not Path(options.data).is_dir():
        raise CommandError(f"{vain} is for folders of images, and {options.data} makes batches of its own")
    unpack = None if options.unpack is None else models.factory(options.unpack)
    limit = options.samples or SAMPLES
    if Path(options.data).is_dir():
        return _OfFolder(_folder(Path(options.data), options, loaded), unpack, samples=limit, progress=True)
    return Batches(_object(options.data), unpack, samples=limit, progress=True)


class _OfFolder(Batches):
    """Batches of the images of a folder."""

    @property
    def images(self) -> Images:
        return self._data.dataset.dataset  # type: ignore[attr-defined, no-any-return]


def _object(name: str) -> Iterable[Any]:
    if ":" not in name:
        raise CommandError(f"'{name}' is neither a folder nor module:OBJECT")
    found = models.attribute(name)
    if callable(found) and not isinstance(found, Iterable):
        found = models.attempt(found, name)
    if not isinstance(found, Iterable):
        raise CommandError(f"{name} is not an iterable of batches; seen: {type(found).__name__}")
    return found


def _folder(folder: Path, options: DataOptions, loaded: Loaded) -> DataLoader[Any]:
    """At most so many of a folder's images, drawn at random, always the same ones."""
    images = Images(folder, _transform(loaded, options), class_numbers(loaded.model))
    count = min(len(images), options.samples or SAMPLES)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    chosen = Subset(images, sorted(order.tolist()))
    collate = _as_list if isinstance(loaded.inputs, list | tuple) and _first(loaded.inputs).dim() == 3 else None
    return DataLoader(chosen, batch_size=options.batch_size or BATCH_SIZE, collate_fn=collate)


def _transform(loaded: Loaded, options: DataOptions) -> Callable[[Any], Tensor]:
    """The library's own, unless another normalisation is given, or the model is to read images of another size."""
    own, first = loaded.transform, _first(loaded.inputs)
    if own is None:
        return standard_transform(loaded.inputs, options)
    try:
        black, white = (own(_blank(brightness)) for brightness in (0, 255))
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CommandError(f"what the library does to images fails on one, as for models of videos: {what}") from error
    if not (options.mean or options.std) and (first.dim() == 3 or black.shape == first.shape[-3:]):
        return own
    std = 1 / (white - black).flatten(1).mean(1)
    mean = -black.flatten(1).mean(1) * std
    usual = (",".join(f"{float(v):.6g}" for v in values) for values in (mean, std))
    return standard_transform(loaded.inputs, options, *usual)


def _blank(brightness: int) -> Any:
    return require("PIL.Image", extra="images").new("RGB", (113, 97), (brightness,) * 3)  # a size that no model reads


def _as_list(samples: list[Any]) -> tuple[tuple[list[Tensor]]]:
    """A batch of a detector: a list of images, its only argument. Numbers of classes are not its targets."""
    return (([s[0] if isinstance(s, tuple) else s for s in samples],),)


def _first(inputs: Any) -> Tensor:
    return next((t for t in tree_leaves(inputs) if isinstance(t, Tensor)), torch.empty(0))


class Images(Dataset[Any]):
    """The image files of a folder; where they lie in a folder for each class, with the class's number.

    Args:
        folder: of the files. Folders of classes are numbered in the order of their names, as torchvision does; what
            begins with a dot does not count.
        transform: an image (PIL) to a tensor.
        numbers: of classes, by the names that the model itself has for them. Where it names all folders, these count.

    Attributes:
        classes: names of the classes; empty where the files lie in the folder itself.
        are_named: whether they have the model's own numbers.

    Raises:
        CommandError: it holds no images.
    """

    def __init__(
        self, folder: Path, transform: Callable[[Any], Tensor], numbers: Mapping[str, int] | None = None
    ) -> None:
        here = _images(folder.iterdir())
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p))
        self._transform = transform
        self.are_named = bool(numbers) and set(self.classes) <= set(numbers or {})
        of = (numbers or {}) if self.are_named else {name: i for i, name in enumerate(self.classes)}
        inside = [(file, of[name]) for name in self.classes for file in _images((folder / name).rglob("*"))]
        if here and inside:
            seen = f"{here[0].name}, and {inside[0][0].parent.name}/{inside[0][0].name}"
            raise CommandError(f"{folder} holds images and folders of images ({seen}); leave one kind there")
        self.classes = [] if here else self.classes
        self.files = [(file, -1) for file in here] or inside
        if not self.files:
            raise CommandError(f"no image in {folder}; known endings: {' '.join(_SUFFIXES)}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        file, label = self.files[i]
        image = self._transform(_opened(file))
        return (image, label) if self.classes else image


def class_numbers(model: nn.Module) -> dict[str, int]:
    """The classes that a model names itself: `config.id2label` of transformers, `names` of ultralytics; else none.

    >>> from types import SimpleNamespace
    >>> class_numbers(SimpleNamespace(names={0: "dog", 1: "cat"}))
    {'dog': 0, 'cat': 1}
    """
    named = getattr(getattr(model, "config", None), "id2label", None) or getattr(model, "names", None)
    pairs = list(named.items() if isinstance(named, Mapping) else enumerate(named if isinstance(named, list) else ()))
    found = {str(name): int(number) for number, name in pairs if str(number).isdigit()}
    return found if len(found) == len(pairs) else {}  # of two classes of one name nobody knows which is meant


def unsure_classes(given: Any, outputs: int) -> str:
    """Why the numbers of a folder's classes may not be those of a model with so many outputs; empty if they are."""
    if not isinstance(given, _OfFolder):
        return ""
    count = len(given.images.classes)
    if count in (0, outputs) or given.images.are_named:
        return ""
    return (
        f"the data have {count} folders of classes and the model has {outputs} classes: which is which is not known; "
        "make a folder for each class, even if it is empty, or name them as the model does"
    )


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in _SUFFIXES and not _is_hidden(p))


def _is_hidden(path: Path) -> bool:
    """Systems and editors leave such files beside images (`._1.jpg`) and such folders beside classes."""
    return path.name.startswith(".")


def _opened(file: Path) -> Any:
    image = require("PIL.Image", extra="images")
    try:
        with image.open(file) as opened:
            return _of_bytes(opened, file).convert("RGB")
    except OSError as error:
        raise CommandError(f"cannot read the image {file}: {error}") from error


def _of_bytes(image: Any, file: Path) -> Any:
    """An image of at most 8 bits a number: what has more, PIL would make white."""
    if image.mode[0] not in "IF":
        return image
    if not image.mode.startswith("I;16") and (image.mode == "F" or image.format not in ("PNG", "PPM")):
        kind = {"I": "32 bits", "F": "floating point"}.get(image.mode, image.mode)
        raise CommandError(f"the image {file} has numbers of {kind}, whose range nobody knows; give 8 or 16 bits")
    numbers = np.asarray(image) / 257
    return require("PIL.Image", extra="images").fromarray(np.round(numbers).astype(np.uint8))


def standard_transform(inputs: Any, options: DataOptions, mean: str = MEAN, std: str = STD) -> Callable[[Any], Tensor]:
    """The middle of the image, of the example input's size and number of channels, scaled and normalised.

    Args:
        inputs: example inputs.
        options: with what is taken off, and what channels are divided by, if that is given.
        mean: what is taken off else, one number for each channel of colour images.
        std: what channels are divided by else.

    Raises:
        CommandError: the model's input is not an image.
    """
    first = _first(inputs)
    kind = first.dtype if first.is_floating_point() else torch.float32
    if first.dim() not in (3, 4) or first.shape[-3] not in (1, 3):
        raise CommandError(f"a folder of images needs a model of images; the input has the shape {tuple(first.shape)}")
    channels, height, width = first.shape[-3:]
    middle, spread = _numbers(options.mean, mean, channels), _numbers(options.std, std, channels)
    if not (spread > 0).all():
        raise CommandError(f"--std {options.std}: channels are divided by it; give positive numbers")

    def transform(image: Any) -> Tensor:
        pixels = torch.from_numpy(_array(_middle(image, height, width), channels)).movedim(-1, 0)
        return ((pixels.float() / 255 - middle) / spread).to(kind)

    return transform


def _middle(image: Any, height: int, width: int) -> Any:
    """The middle of an image that was made a little larger than the wanted size; an image of that size as it is."""
    if image.size == (width, height):
        return image
    scale = _RESIZE * max(height / image.height, width / image.width)
    image = image.resize((math.ceil(image.width * scale), math.ceil(image.height * scale)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _array(image: Any, channels: int) -> Any:
    array = np.array(image if channels == 3 else image.convert("L"))
    return array if channels == 3 else array[..., None]


def _numbers(given: str | None, usual: str, channels: int) -> Tensor:
    """One number for each channel, or for all; of a single channel, the mean of the usual ones."""
    try:
        values = torch.tensor([float(part) for part in (given or usual).split(",")])
    except ValueError as error:
        raise CommandError(f"not numbers: '{given}'; give one for each channel, such as 0.5,0.5,0.5") from error
    if given is None and channels == 1:
        values = values.mean()[None]
    if len(values) not in (1, channels):
        raise CommandError(
            f"{len(values)} numbers for {channels} channels: '{given}'; give one for each, or one for all"
        )
    return values.reshape(-1, 1, 1)
