"""What the tests of searches share: a net, a judge of widths, and a search that runs as a program of its own.

    python tests/helpers/search_toys.py SEARCH FOLDER [seconds a candidate] [workers]

prints the plan's widths and the history's length; a test kills it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fxprune
from fxprune.search import ROBUST, BeeColony, Bisection, Progressive, Workers


class Wide(nn.Module):
    """Its features are few mixed to many, so that most channels can be made up for; a residual stream and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Linear(4, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.b(self.a(x)))


def perceptron(*widths: int, seed: int = 0) -> tuple[nn.Sequential, fxprune.Groups, dict[str, Tensor]]:
    """A net with the given hidden widths, its groups 0, 1, ..., and random scores."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise([4, *widths, 2])])
        groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))
        scores = {g.name: torch.rand(g.size) + 0.1 for g in groups}
    return model, groups, scores


def widths_of(model: Any) -> list[int]:
    return [layer.out_features for layer in list(model)[:-1]]


def jitter(model: nn.Module) -> None:
    """A tuning that draws from the global generator."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))


class Judged:
    """Each sample is answered right with a chance that grows with the widths; the noise comes from the weights.

    With `per_sample` it tells all samples, else their mean.
    """

    def __init__(self, full: int = 104, samples: int = 200, per_sample: bool = True) -> None:
        self.full, self.samples, self.per_sample = full, samples, per_sample
        self.before: Callable[[], Any] = bool

    def after(self, what: Callable[[], Any]) -> Judged:
        """The same judge, who first does something that changes no answer: waits, counts, fails or is interrupted."""
        self.before = what
        return self

    def __call__(self, model: Any) -> Any:
        self.before()
        left = sum(widths_of(model)) / self.full
        digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
        noise = np.random.default_rng(int.from_bytes(digest.digest()[:8], "little")).normal(0, 0.01)
        right = np.random.default_rng(0).random(self.samples) < 1 - 0.3 * (1 - left) ** 2 + noise
        return torch.tensor(right.astype(np.float32)) if self.per_sample else float(right.mean())


SEARCHES: dict[str, Any] = {
    "bisection": Bisection(0.03, progress=False),
    "robust": Bisection(0.03, acceptance=replace(ROBUST, repeats=3, verify=2), progress=False),
    "bees": BeeColony(sources=4, cycles=3, moves=1, limit=2, progress=False),
    "progressive": Progressive(0.5, step=0.25, top=0.5, progress=False),
}


class Given:
    """A scorer that gives the scores that it was made with."""

    def __init__(self, scores: dict[str, Tensor]) -> None:
        self.scores = scores

    def __call__(self, model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Tensor]:
        return self.scores


DATA = [torch.linspace(-1, 1, 200).sin().view(50, 4)]


def given_to(name: str, scores: dict[str, Tensor]) -> dict[str, Any]:
    """What a search is given beside model, groups and evaluate."""
    return {"data": DATA} if name == "progressive" else {"scorer": Given(scores)}


@cache
def _net() -> tuple[nn.Sequential, fxprune.Groups, dict[str, Tensor]]:
    return perceptron(64, 40)


def run(name: str, folder: str | None, seconds: float = 0.0, workers: int = 0) -> fxprune.search.Search[Any, Any]:
    model, groups, scores = _net()
    options = {**given_to(name, scores), "tune": jitter, "folder": folder}
    parallel = Workers(workers) if workers else None
    return SEARCHES[name](model, groups, Judged().after(partial(time.sleep, seconds)), **options, workers=parallel)


@cache
def undisturbed(name: str) -> fxprune.search.Search[Any, Any]:
    """A search that nothing interrupts, done once for all tests that compare others with it."""
    return run(name, None)


if __name__ == "__main__":
    import search_toys  # so that the functions have the same names as in the tests

    found = search_toys.run(*sys.argv[1:3], *(float(a) for a in sys.argv[3:4]), *(int(a) for a in sys.argv[4:5]))
    print(json.dumps([found.plan.kept_counts(), len(found.history), found.finished]))
