"""What decides the outcome of a training run besides the model and the data."""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Settings:
    """Numbers of one run of stochastic gradient descent with Nesterov momentum.

    Args:
        epochs: passes over the training images.
        lr: highest learning rate.
        batch_size: images a step.
        weight_decay: L2 penalty on every parameter.
        momentum: Nesterov momentum; 0 is plain descent.
        schedule: "cosine" falls from ``lr`` to 0, "constant" stays at ``lr``; both after the warm-up.
        warmup: share of all steps over which the rate first rises linearly to ``lr``.
        label_smoothing: share of the target spread evenly over all classes.
        seed: of shuffling, augmentation and dropout.

    Raises:
        ValueError: a number is out of range, or there is no such schedule.
    """

    epochs: int
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", ">= 1", self.epochs)
        _require(self.batch_size >= 1, "batch_size", ">= 1", self.batch_size)
        _require(0 < self.lr < math.inf, "lr", "a finite number above 0", self.lr)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "a finite number >= 0", self.weight_decay)
        _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        _require(self.schedule in ("cosine", "constant"), "schedule", '"cosine" or "constant"', self.schedule)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` in [0, ``steps``)."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def _require(holds: bool, name: str, what: str, seen: object) -> None:
    if not holds:
        raise ValueError(f"fit: {name} must be {what}, got {seen!r}")
