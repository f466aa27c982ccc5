"""The scorers that `benchmarks.scorers` compares, by the names that its tables and options use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

import fxprune
from fxprune import scorers

Prepare = Callable[[nn.Module, Iterable[Any], Any], None]


@dataclass(frozen=True)
class Contender:
    """A scorer in the comparison.

    Attributes:
        make: from a seed.
        random: whether the seed matters so much that several are tried.
    """

    make: Callable[[int], scorers.Scorer]
    random: bool = False


def _fixed(scorer: scorers.Scorer) -> Contender:
    return Contender(lambda _: scorer)


@dataclass(frozen=True)
class Peer:
    """An importance of Torch-Pruning, prepared on a copy of the model as its own examples do.

    Attributes:
        importance: makes it.
        prepare: brings the gradients that it needs.
    """

    importance: Callable[[], Any]
    prepare: Prepare | None = None

    def __call__(
        self, model: nn.Module, groups: fxprune.Groups, data: Iterable[Any] | None = None
    ) -> dict[str, Tensor]:
        importance, model = self.importance(), copy.deepcopy(model).eval()
        if self.prepare is not None:
            self.prepare(model, data or (), importance)
        return scorers.TorchPruning(importance)(model, groups)


def _backward(model: nn.Module, data: Iterable[Any], _importance: Any) -> None:
    for images, labels in data:
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]


def _accumulate(model: nn.Module, data: Iterable[Any], importance: Any) -> None:
    """Squared gradients of single samples, of the first batch, as its README shows."""
    images, labels = next(iter(data))
    for loss in F.cross_entropy(model(images), labels, reduction="none"):
        model.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(model)


CONTENDERS: dict[str, Contender] = {
    "random": Contender(lambda seed: scorers.Random(seed), random=True),
    "L1": _fixed(scorers.L1Norm()),
    "L2": _fixed(scorers.L2Norm()),
    "LAMP": _fixed(scorers.LAMP()),
    "FPGM": _fixed(scorers.GeometricMedian()),
    "BN scale": _fixed(scorers.Fallback(scorers.BatchNormScale(), scorers.L2Norm())),
    "permutation": _fixed(scorers.WeightPermutation()),
    "permutation, bn": _fixed(scorers.WeightPermutation(scale="bn")),
    "permutation, sampled": Contender(lambda seed: scorers.SampledPermutation(samples=1, seed=seed), random=True),
    "zeroing": _fixed(scorers.WeightPermutation("zero")),
    "zeroing, absorbed": _fixed(scorers.WeightPermutation("absorb")),
    "activation mean": _fixed(scorers.ActivationMean()),
    "APoZ": _fixed(scorers.APoZ()),
    "entropy": _fixed(scorers.ActivationEntropy()),
    "HRank": _fixed(scorers.HRank()),
    "Taylor": _fixed(scorers.Taylor()),
    "group Taylor": _fixed(scorers.GroupTaylor()),
    "Hessian": _fixed(scorers.HessianDiagonal()),
    "NISP": _fixed(scorers.NISP()),
    "ThiNet": Contender(lambda seed: scorers.ThiNet(seed=seed)),
    "LASSO": Contender(lambda seed: scorers.Lasso(seed=seed)),
    "refit loss": Contender(lambda seed: scorers.RefitLoss(seed=seed)),
    "TP magnitude": _fixed(Peer(lambda: tp.importance.GroupMagnitudeImportance(p=2))),
    "TP BN scale": _fixed(Peer(lambda: tp.importance.BNScaleImportance())),
    "TP FPGM": _fixed(Peer(lambda: tp.importance.FPGMImportance())),
    "TP LAMP": _fixed(Peer(lambda: tp.importance.LAMPImportance())),
    "TP Taylor": _fixed(Peer(lambda: tp.importance.GroupTaylorImportance(), _backward)),
    "TP Hessian": _fixed(Peer(lambda: tp.importance.GroupHessianImportance(), _accumulate)),
}
"""By name; those of Torch-Pruning begin with "TP"."""
