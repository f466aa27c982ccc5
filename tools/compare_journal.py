"""What `compare_scorers.py` has measured: points, and the file that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import compare_common

TREATMENTS = ("none", "bn", "ls", "ls+bn")
ALLOCATIONS = ("uniform", "budget")


@dataclass(frozen=True)
class Point:
    """What is measured once.

    Attributes:
        network: of the zoo.
        scorer: its name; empty for the network as it is.
        seed: of the scorer.
        allocation: one of `ALLOCATIONS`; empty for the network as it is.
        less: part of the MACs that is to go.
        treatment: one of `TREATMENTS`.
        images: validation images for scores and treatments.
        tests: test images.
    """

    network: str
    scorer: str
    seed: int
    allocation: str
    less: float
    treatment: str
    images: int
    tests: int


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        accuracy: on the test images, in [0, 1].
        macs: part of the MACs that is left.
        parameters: part of the parameters that is left.
        seconds: of CPU for the treatment.
        commit: of the code.
    """

    accuracy: float
    macs: float = 1.0
    parameters: float = 1.0
    seconds: float = 0.0
    commit: str | None = None


class Journal(compare_common.Journal[Point, Measured]):
    """Measured points in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Point, Measured)
