"""What `compare_scorers.py` has measured: points, and the file that holds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

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
    """

    accuracy: float
    macs: float = 1.0
    parameters: float = 1.0
    seconds: float = 0.0


class JournalError(Exception):
    """A journal that cannot be read."""


class Journal:
    """Measured points in a file of JSON lines; a last line that a crash has cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Point, Measured] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self.rows[Point(**row["point"])] = Measured(**row["measured"])
            except (ValueError, TypeError, KeyError) as error:
                if number < len(lines):
                    raise JournalError(f"{path}, line {number}, is no point of a comparison: {error}") from error
                path.write_text("".join(f"{good}\n" for good in lines[:-1]))

    def add(self, point: Point, measured: Measured) -> None:
        """Append a point, so that another run that writes to the file at the same time loses nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows[point] = measured
        with self.path.open("a") as file:
            file.write(json.dumps({"point": asdict(point), "measured": asdict(measured)}) + "\n")
