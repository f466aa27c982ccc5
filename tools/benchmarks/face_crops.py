"""Pictures of faces and of what is none, for the networks of a face detector: whether there is a face is the label.

They are scikit-image's hundred crops of faces and hundred of other things, of Labeled Faces in the Wild, in grey.
Calibration has one half of either hundred, and the tests have the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

_OF_A_KIND = 100
_MOVED = 2
"""Pixels of 25 by which a picture is moved at most; MTCNN itself looks at a face again and again, a little apart."""


def face_crops(count: int, side: int, seed: int, *, test: bool = False) -> tuple[Tensor, list[int]]:
    """Crops drawn again and again, moved, half of them mirrored, with other contrast and brightness, and what is seen.

    Returns:
        Pictures of shape (count, 3, side, side) and from -1 to 1, and 1 for each face, 0 for all else.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(_OF_A_KIND // 2) + test * _OF_A_KIND // 2
    drawn = rng.choice(np.concatenate([rows, rows + _OF_A_KIND]), count)
    pictures = torch.from_numpy(np.stack([_varied(_crops()[i], rng) for i in drawn]))[:, None]
    resized = interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
    return 2 * resized.repeat(1, 3, 1, 1) - 1, (drawn < _OF_A_KIND).astype(int).tolist()


@lru_cache
def _crops() -> Any:
    import skimage.data

    return skimage.data.lfw_subset().astype(np.float32)


def _varied(picture: Any, rng: np.random.Generator) -> Any:
    top, left = rng.integers(2 * _MOVED + 1, size=2)
    moved = np.pad(picture, _MOVED, mode="edge")[top : top + len(picture), left : left + len(picture)]
    moved = moved[:, ::-1] if rng.random() < 0.5 else moved
    return np.clip((moved - 0.5) * rng.uniform(0.6, 1.2) + rng.uniform(0.4, 0.6), 0, 1).astype(np.float32)
