"""Images blended with patches of natural photographs, as MNIST-M is made from MNIST (Ganin et al. 2016)."""

from functools import partial

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from zoo.sources.places import Request
from zoo.sources.raw import Raw, Source


def blend(images: Tensor, seed: int) -> Tensor:
    """|image − patch| in each colour, the patch cut from a random place of one of scikit-learn's two photographs.

    Args:
        images: uint8 (n, 1, h, w), smaller than the photographs (427 x 640).
        seed: of the patches.

    Returns:
        uint8 (n, 3, h, w).

    >>> blend(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), seed=0).shape
    torch.Size([2, 3, 8, 8])
    """
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # where it is used: a second

    draw = np.random.default_rng(seed)
    photographs = np.stack(load_sample_images().images)
    windows = sliding_window_view(photographs, tuple(images.shape[-2:]), axis=(1, 2))
    which, row, column = (draw.integers(0, size, len(images)) for size in windows.shape[:3])
    patches = torch.from_numpy(windows[which, row, column].astype(np.int16))
    return (images.to(torch.int16) - patches).abs().to(torch.uint8)


def blended(source: Source) -> Source:
    """The data set of ``source`` with every image blended; its patches do not depend on the seed of the split."""
    return partial(_blended, source)


def _blended(source: Source, request: Request, seed: int) -> Raw:
    raw = source(request, seed)
    (train, train_labels), (test, test_labels) = raw.train, raw.test
    return Raw((blend(train, 0), train_labels), (blend(test, 1), test_labels), raw.names, raw.val)
