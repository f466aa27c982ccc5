"""scikit-learn's handwritten digits, which come with it."""

from functools import cache
from typing import Any

import torch

from zoo.sources.places import Request
from zoo.sources.raw import Raw
from zoo.splits import divide


def digits(_request: Request, seed: int) -> Raw:
    """1,797 images of 8 x 8 in 17 greys, split 60 / 20 / 20 %."""
    bunch = _bunch()
    images = (15 * torch.from_numpy(bunch.images)).to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(bunch.target)
    rest, test = divide(labels, 1 / 5, seed, "digits")
    names = tuple(str(name) for name in bunch.target_names)
    return Raw((images[rest], labels[rest]), (images[test], labels[test]), names, val=1 / 4)


@cache  # the text file takes longer to parse than all else
def _bunch() -> Any:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # where it is used: a second

    return load_digits()
