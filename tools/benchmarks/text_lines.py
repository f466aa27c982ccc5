"""Lines of text, rendered with the fonts that Matplotlib ships, for a network that reads them: their words are labels.

The words are those of the descriptions of scikit-learn's data sets. Calibration and tests share neither a description
nor a font.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEIGHT, WIDTH = 48, 320
"""Pixels of a picture of a line; what is right of a shorter line is grey."""
_LONGEST = 22
"""Letters of a line; more would have to be squeezed."""
_DESCRIBED = ("iris", "wine", "digits"), ("breast_cancer", "diabetes", "linnerud")
"""Data sets whose descriptions give the words of calibration, and of tests."""
_PATTERN = re.compile(r"[A-Za-z][A-Za-z'-]*[,.;]?|\b\d{2,4}\b")


def lines(count: int, seed: int, *, test: bool = False) -> tuple[Tensor, list[str]]:
    """Pictures of one to three words in a row, of shape (count, 3, 48, 320) and from -1 to 1, and their words."""
    draw, words, fonts = random.Random(seed), _words(test), _fonts()[test::2]
    texts = list[str]()
    while len(texts) < count:
        start, many = draw.randrange(len(words) - 3), draw.randint(1, 3)
        text = " ".join(words[start : start + many])
        texts += [text] * (len(text) <= _LONGEST)
    pictures = [_picture(text, draw.choice(fonts), draw) for text in texts]
    return torch.from_numpy(np.stack(pictures)).unsqueeze(1).repeat(1, 3, 1, 1), texts


@lru_cache
def _words(test: bool) -> Sequence[str]:
    import sklearn.datasets

    described = (getattr(sklearn.datasets, f"load_{name}")()["DESCR"] for name in _DESCRIBED[test])
    return [word for text in described for word in _PATTERN.findall(text)]


@lru_cache
def _fonts() -> Sequence[Path]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(p for p in folder.glob("DejaVu*.ttf") if "Display" not in p.name)  # which lacks most letters


def _picture(text: str, font: Path, draw: random.Random) -> Any:
    """Dark on light or the reverse, a little askew and noisy."""
    from PIL import Image, ImageDraw, ImageFont

    letters = ImageFont.truetype(str(font), 40)
    left, top, right, bottom = letters.getbbox(text)
    margin, shades = draw.randint(3, 9), (draw.randint(170, 255), draw.randint(0, 90))
    paper, ink = shades if draw.random() < 0.7 else shades[::-1]
    image = Image.new("L", (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=letters)
    image = image.rotate(draw.uniform(-1, 1), fillcolor=paper, resample=Image.Resampling.BILINEAR)
    width = min(WIDTH, max(8, round(image.width * HEIGHT / image.height)))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    noise = np.random.default_rng(draw.randrange(2**32)).standard_normal(pixels.shape, dtype=np.float32)
    whole = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    whole[:, :width] = (pixels + noise * draw.uniform(0, 12)).clip(0, 255) / 127.5 - 1
    return whole
