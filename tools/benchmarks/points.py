"""What the comparisons of scorers and of planners measure; a `Journal` holds it."""

from __future__ import annotations

from dataclasses import dataclass

TREATMENTS = ("none", "bn", "ls", "ls+bn")
ALLOCATIONS = ("uniform", "budget")


@dataclass(frozen=True)
class ScorerPoint:
    """What is measured once of a scorer.

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
    """What came out of pruning by a scorer.

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


@dataclass(frozen=True)
class PlannerPoint:
    """What is measured once of a planner.

    Attributes:
        network: of the zoo.
        contender: its name.
        left: part of the MACs that is to stay; 1 for contenders that find it themselves.
        seed: of tuning, search and statistics.
        epochs: of fine-tuning.
        images: training images, at most.
        tests: test images, at most.
        lr: highest learning rate of the tuning.
        distil: share of its loss that asks for the original's outputs.
        scored: training images for scores and refits.
    """

    network: str
    contender: str
    left: float
    seed: int
    epochs: int
    images: int
    tests: int
    lr: float = 0.03
    distil: float = 0.0
    scored: int = 256


@dataclass(frozen=True)
class Result:
    """What came out of a planner.

    Attributes:
        macs: part of the MACs that is left.
        parameters: part of the parameters that is left.
        before: accuracy on the test images before tuning, in [0, 1].
        after: the same after tuning.
        seen: images in forward passes of scores, refits and search.
        trained: images in training steps of the search, the last tuning left out.
        seconds: of CPU for all that, the last tuning included where it is a part of the search.
        tuning: seconds of CPU for the tuning that all get, without the original's outputs where known.
        epoch: images of an epoch.
        commit: of the code.
        latency: of a batch of images on the CPU, as a part of the original's.
        device: where all else was measured.
        precision: of the tuning; empty in rows that were made before it was noted, when it was the protocol's.
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
    latency: float | None = None
    device: str = "cpu"
    precision: str = ""

    @property
    def epochs(self) -> float:
        """Search cost in epochs of training, of which one is worth three of forward passes."""
        return (self.trained + self.seen / 3) / self.epoch
