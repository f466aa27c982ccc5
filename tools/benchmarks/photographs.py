"""Photographs that packages ship, for networks that were trained on photographs: crops for calibration, and for tests.

Sources: scikit-image, scikit-learn, and Debian's packages of desktop backgrounds, as far as they are installed
(mate-backgrounds, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04, plasma-workspace-wallpapers, ukui-wallpapers), and
of a children's game, gcompris-qt-data: animals, food, tools, vehicles, buildings, instruments.
Objects that are cut out of photographs (animals, plants, food, tools, vehicles) come from tuxpaint-stamps-default.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

BACKGROUNDS = Path("/usr/share/backgrounds")
WALLPAPERS = Path("/usr/share/wallpapers")
STAMPS = Path("/usr/share/tuxpaint/stamps")
GAMES = Path("/usr/share/gcompris-qt/rcc")
WITH_PHOTOGRAPHS = (
    "categorization",
    "details",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
"""Resource files of the game that hold photographs; others hold drawings."""
DRAWN = ("cartoon", "symbols", "flags", "roadsigns")
"""Parts of paths of what is drawn, not photographed."""
SMALLEST = 10_000
"""Bytes of a file that holds a photograph; smaller ones are links written as text."""
SHORTER = 700
"""Pixels of a photograph's shorter side after it is loaded."""
LONGER = 300
"""Pixels of an object's longer side, at most."""


@lru_cache(maxsize=1)
def photographs() -> tuple[tuple[str, Any], ...]:
    """Name and pixels, of shape (height, width, 3), of every photograph; fewer where packages are missing."""
    return (*_bundled(), *((path.name, _loaded(path)) for path in _files()), *_of_games())


def _bundled() -> Iterator[tuple[str, Any]]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    for name in ("astronaut", "coffee", "cat", "rocket"):
        yield name, getattr(skimage.data, name)()[..., :3]
    folder = Path(skimage.data.__file__).parent
    yield "motorcycle", _loaded(folder / "motorcycle_left.png")
    sample = load_sample_images()
    yield from zip((Path(n).stem for n in sample.filenames), sample.images, strict=True)


def _files() -> list[Path]:
    nature = sorted(BACKGROUNDS.glob("mate/nature/*.jpg"))
    named = sorted(BACKGROUNDS.glob("*_by_*.jpg")) + sorted(BACKGROUNDS.glob("goldfish.png"))
    largest = [
        max(files, key=lambda p: p.stat().st_size)
        for folder in sorted(WALLPAPERS.glob("*/contents/images"))
        if (files := [p for p in folder.glob("*.jpg") if p.stat().st_size > SMALLEST])
    ]
    return [*nature, *named, *largest]


def _of_games() -> Iterator[tuple[str, Any]]:
    for name in WITH_PHOTOGRAPHS:
        path = GAMES / f"{name}.rcc"
        for i, file in enumerate(_inside(path.read_bytes()) if path.exists() else ()):
            yield f"{name} {i}", _loaded(io.BytesIO(file))


def _inside(resource: bytes) -> Iterator[bytes]:
    """The pictures of a shorter side of at least 200 pixels that a Qt resource file holds as they are."""
    from PIL import Image, UnidentifiedImageError

    for found in re.finditer(rb"RIFF....WEBP|\xff\xd8\xff[\xe0\xe1]", resource, re.DOTALL):
        try:
            if min(Image.open(io.BytesIO(resource[found.start() :])).size) >= 200:
                yield resource[found.start() :]
        except UnidentifiedImageError:
            continue


def _loaded(path: Path | io.BytesIO) -> Any:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    scale = SHORTER / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(image)


def crops(which: Sequence[Any], count: int, size: int, seed: int) -> Tensor:
    """Random squares, of 35 % to all of a photograph's shorter side, half of them mirrored, in the photographs' order.

    Returns:
        Pixels in [0, 255], of shape (count, 3, size, size).
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        pixels = which[i * len(which) // count]
        shorter = min(pixels.shape[:2])
        side = int(rng.integers(int(0.35 * shorter), shorter + 1))
        top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
        square = pixels[top : top + side, left : left + side]
        square = square[:, ::-1] if rng.random() < 0.5 else square
        tensor = torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float()
        made.append(interpolate(tensor, size=(size, size), mode="bilinear", antialias=True))
    return torch.cat(made)


@lru_cache(maxsize=1)
def objects() -> tuple[Any, ...]:
    """Pixels with opacity, of shape (height, width, 4), of every object; none where the package is missing."""
    from PIL import Image

    made = []
    for path in sorted(STAMPS.glob("**/*.png")):
        if path.stat().st_size > SMALLEST and not any(part in str(path) for part in DRAWN):
            image = Image.open(path)
            image.thumbnail((LONGER, LONGER))
            made.append(np.asarray(image.convert("RGBA")))
    return tuple(made)


def with_objects(squares: Tensor, which: Sequence[Any], seed: int) -> Tensor:
    """The squares with an object in each, of half to all of their side, anywhere inside.

    Args:
        squares: from `crops`.
        which: objects; they are taken in turn.
        seed: of sizes and places.
    """
    from PIL import Image

    rng, side = np.random.default_rng(seed), squares.shape[-1]
    made = []
    for i, square in enumerate(squares):
        canvas = Image.fromarray(square.permute(1, 2, 0).clamp(0, 255).byte().numpy())
        thing = Image.fromarray(which[i % len(which)])
        scale = float(rng.uniform(0.5, 1.0)) * side / max(thing.size)
        thing = thing.resize((max(1, int(thing.width * scale)), max(1, int(thing.height * scale))))
        left, top = (int(rng.integers(side - n + 1)) for n in thing.size)
        canvas.paste(thing, (left, top), thing)
        made.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float())
    return torch.stack(made)


def apart(seed: int) -> tuple[list[Any], list[Any]]:
    """Two halves of the photographs: for calibration, and for tests. The tests' half is the same for all seeds."""
    pixels = [p for _, p in photographs()]
    calibration = pixels[::2]
    order = np.random.default_rng(seed).permutation(len(calibration))
    return [calibration[i] for i in order], pixels[1::2]
