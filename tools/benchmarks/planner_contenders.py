"""The planners that `benchmarks.planners` compares, by the names that its tables and options use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

import fxprune
from benchmarks.lab import Lab
from fxprune import scorers
from fxprune.planners import AtBudget, Budget, CumulativeContribution, Uniform
from fxprune.search import BeeColony, Bisection, Progressive

HALVINGS = 12


@dataclass(frozen=True)
class Found:
    """What a contender made of a network.

    Attributes:
        model: pruned, not yet tuned.
        tuned: the same after `Lab.tune`, where the search has done that already.
        whole: whether nothing was pruned, so that there is nothing to calibrate.
        refitted: by least squares; re-calibration would undo repairs of shortcuts, so it is settled instead.
    """

    model: nn.Module
    tuned: nn.Module | None = None
    whole: bool = False
    refitted: bool = False


@dataclass(frozen=True)
class Contender:
    """A planner in the comparison.

    Attributes:
        make: from a network and the part of its MACs that is to stay.
        own: whether it finds that part itself; it is then asked once.
    """

    make: Callable[[Lab, float], Found]
    own: bool = False


Family = Callable[[float], Callable[[fxprune.Groups, Mapping[str, Tensor]], fxprune.Plan]]


def scored(lab: Lab, scorer: scorers.Scorer) -> Mapping[str, Tensor]:
    return scorer(lab.model, lab.groups, lab.batches(lab.protocol.scored))


def one_shot(family: Family, scorer: Callable[[int], scorers.Scorer], refit: bool = False) -> Contender:
    """A family of planners brought to the budget, with least squares afterwards if asked for."""

    def make(lab: Lab, part: float) -> Found:
        plan = AtBudget(family, part)(lab.groups, scored(lab, scorer(lab.seed)))
        small = fxprune.rewrite(lab.model, plan)
        if refit:
            fxprune.reconstruct(lab.model, small, plan, lab.batches(lab.protocol.scored), seed=lab.seed)
        return Found(small, refitted=refit)

    return Contender(make)


def _budget(lab: Lab, part: float) -> Found:
    plan = Budget(part)(lab.groups, scored(lab, scorers.WeightPermutation()))
    return Found(fxprune.rewrite(lab.model, plan))


def _bisection(lab: Lab, _part: float) -> Found:
    """As published: fine-tune each probe, accept a loss of one point of validation accuracy; 5 probes."""
    search = Bisection(tolerance=0.01, precision=0.05, progress=False, seed=lab.seed)

    def tune(model: nn.Module) -> None:
        lab.calibrate(model)
        lab.tune(model)

    scorer, data = scorers.WeightPermutation(), lab.batches(lab.protocol.scored)
    evaluate = lab.evaluate(lab.protocol.judged)
    found = search(lab.model, lab.groups, evaluate, scorer=scorer, data=data, tune=tune)
    if found.model is lab.model:
        return Found(copy.deepcopy(lab.model), found.model, whole=True)
    return Found(fxprune.rewrite(lab.model, found.plan), found.model)


def _progressive(lab: Lab, part: float) -> Found:
    search = Progressive(part, step=0.2, top=0.5, progress=False, seed=lab.seed)
    data, evaluate = lab.batches(lab.protocol.scored), lab.evaluate(lab.protocol.judged // 2)
    found = search(lab.model, lab.groups, evaluate, scorer=scorers.Lasso(seed=lab.seed), data=data)
    return Found(found.model, refitted=True)


def _bees(lab: Lab, part: float) -> Found:
    search = BeeColony(sources=5, cycles=3, keep=part, progress=False, seed=lab.seed)
    data = lab.batches(lab.protocol.scored)

    def tune(model: nn.Module) -> None:
        fxprune.recalibrate_batchnorm(model, data)

    evaluate = lab.evaluate(lab.protocol.judged)
    return Found(search(lab.model, lab.groups, evaluate, scorer=scorers.L1Norm(), tune=tune).model)


def _peer(everywhere: bool) -> Contender:
    """Torch-Pruning's own pruner; its ratio is bisected to the MACs that come nearest to the budget."""

    def make(lab: Lab, part: float) -> Found:
        low, high = 0.0, 1.0
        found: list[tuple[float, int, nn.Module]] = []
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            small = peer_pruned(lab.model, lab.example, ratio, everywhere)
            macs = lab.left(small)[0]
            found.append((abs(macs - part), len(found), small))
            low, high = (low, ratio) if macs < part else (ratio, high)
        return Found(min(found, key=lambda f: f[:2])[2])

    return Contender(make)


def peer_pruned(model: nn.Module, example: Tensor, ratio: float, everywhere: bool) -> nn.Module:
    """As its README does; the dicts are fresh, since its mutable defaults keep earlier models."""
    small: Any = copy.deepcopy(model).eval()
    classifier = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    tp.pruner.BasePruner(
        small,
        (example,),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=everywhere,
        ignored_layers=[classifier],
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    ).step()
    pruned: nn.Module = small
    return pruned


CONTENDERS: dict[str, Contender] = {
    "unpruned": Contender(lambda lab, _: Found(copy.deepcopy(lab.model), whole=True), own=True),
    "uniform L1": one_shot(Uniform, lambda _: scorers.L1Norm()),
    "uniform permutation": one_shot(Uniform, lambda _: scorers.WeightPermutation()),
    "contribution rate": one_shot(CumulativeContribution, lambda _: scorers.WeightPermutation()),
    "budget": Contender(_budget),
    "one-shot LASSO": one_shot(Uniform, lambda seed: scorers.Lasso(seed=seed), refit=True),
    "PCP": Contender(_progressive),
    "bee colony": Contender(_bees),
    "TP local": _peer(everywhere=False),
    "TP global": _peer(everywhere=True),
    "bisection": Contender(_bisection, own=True),
}
"""By name; those of Torch-Pruning begin with "TP"."""
