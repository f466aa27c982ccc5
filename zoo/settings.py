"""What decides the outcome of a training run besides the model and the data."""

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any, Literal

Schedule = Literal["cosine", "step", "annealed", "constant"]
Optimizer = Literal["sgd", "adamw"]
SCHEDULES = ("cosine", "step", "annealed", "constant")


@dataclass(frozen=True)
class Settings:
    """Numbers of one run of stochastic gradient descent with Nesterov momentum, or of AdamW.

    Args:
        epochs: passes over the training images.
        lr: highest learning rate.
        batch_size: images a step.
        weight_decay: L2 penalty on every parameter.
        momentum: Nesterov momentum; 0 is plain descent. AdamW has its usual ones.
        schedule: "cosine" falls from ``lr`` to 0, "step" is multiplied by ``gamma`` at each of the ``milestones``,
            "annealed" is ``lr`` / (1 + 10 p)^0.75 at the share p of the run (Ganin et al. 2016), "constant" stays at
            ``lr``; all after the warm-up.
        warmup: share of all steps over which the rate first rises linearly to ``lr``.
        milestones: of "step": shares of the run, rising.
        gamma: of "step".
        label_smoothing: share of the target spread evenly over all classes.
        distil: share of the loss that asks for the teacher's outputs, where there is a teacher.
        temperature: that softens both outputs for it (Hinton et al. 2015).
        seed: of shuffling, augmentation and dropout.
        optimizer: "sgd", or "adamw" (Loshchilov and Hutter 2019), which transformers are trained with.

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
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    distil: float = 0.5
    temperature: float = 4.0
    seed: int = 0
    optimizer: Optimizer = "sgd"

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", ">= 1", self.epochs)
        _require(self.batch_size >= 1, "batch_size", ">= 1", self.batch_size)
        _require(0 < self.lr < math.inf, "lr", "a finite number above 0", self.lr)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "a finite number >= 0", self.weight_decay)
        _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        _require(0 <= self.distil <= 1, "distil", "in [0, 1]", self.distil)
        _require(0 < self.temperature < math.inf, "temperature", "a finite number above 0", self.temperature)
        _require(0 < self.gamma <= 1, "gamma", "in (0, 1]", self.gamma)
        _require(self.optimizer in ("sgd", "adamw"), "optimizer", "one of sgd, adamw", self.optimizer)
        _require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}", self.schedule)
        inside = all(0 < milestone < 1 for milestone in self.milestones)
        rising = list(self.milestones) == sorted(self.milestones)
        _require(inside and rising, "milestones", "rising shares of the run in (0, 1)", self.milestones)

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON keeps them."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` in [0, ``steps``).

        >>> settings = Settings(epochs=1, lr=1.0, schedule="step", warmup=0)
        >>> [round(settings.rate(step, 4), 3) for step in range(4)]
        [1.0, 1.0, 0.1, 0.01]
        """
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "step":
            return self.lr * self.gamma ** bisect_right(self.milestones, step / steps)
        if self.schedule == "annealed":
            return self.lr / (1 + 10 * step / steps) ** 0.75
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
        return self.lr


def _require(holds: bool, name: str, what: str, seen: object) -> None:
    if not holds:
        raise ValueError(f"fit: {name} must be {what}, got {seen!r}")
