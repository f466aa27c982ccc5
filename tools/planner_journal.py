"""What `compare_planners.py` has measured: points, and the file that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compare_common import Journal


@dataclass(frozen=True)
class Point:
    """What is measured once.

    Attributes:
        network: of the zoo.
        contender: its name.
        left: part of the MACs that is to stay; 1 for contenders that find it themselves.
        seed: of tuning, search and statistics.
        epochs: of fine-tuning.
        images: training images, at most.
        tests: test images, at most.
        lr: highest learning rate of the tuning.
    """

    network: str
    contender: str
    left: float
    seed: int
    epochs: int
    images: int
    tests: int
    lr: float = 0.03


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        macs: part of the MACs that is left.
        parameters: part of the parameters that is left.
        before: accuracy on the test images before tuning, in [0, 1].
        after: the same after tuning.
        seen: images in forward passes of scores, refits and search.
        trained: images in training steps of the search, the last tuning left out.
        seconds: of CPU for all that, the last tuning included where it is a part of the search.
        tuning: seconds of CPU for the tuning that all get.
        epoch: images of an epoch.
        commit: of the code.
    """

    macs: float
    parameters: float
    before: float
    after: float
    seen: int
    trained: int
    seconds: float
    tuning: float
    epoch: int
    commit: str | None = None

    @property
    def epochs(self) -> float:
        """Search cost in epochs of training, of which one is worth three of forward passes."""
        return (self.trained + self.seen / 3) / self.epoch


class Book(Journal[Point, Result]):
    """Results in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Point, Result)
