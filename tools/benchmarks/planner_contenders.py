"""The planners that `benchmarks.planners` compares, by the names that its tables and options use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import fxprune
from benchmarks.lab import Lab
from fxprune import scorers
from fxprune.planners import AtBudget, Budget, CumulativeContribution, Uniform
from fxprune.search import (
    Accuracy,
    BeeColony,
    Bisection,
    CurveFitness,
    LayerByLayer,
    MonotoneFit,
    Progressive,
    restore,
)

HALVINGS = 12
_NEAR = 0.005
"""Part of the budget that may stay unused."""


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
    """A family of planners brought to the budget, with a repair afterwards if asked for."""

    def make(lab: Lab, part: float) -> Found:
        plan = AtBudget(family, part, tolerance=_NEAR)(lab.groups, scored(lab, scorer(lab.seed)))
        return _made(lab, plan, refit)

    return Contender(make)


def _at_rate(rate: float) -> Contender:
    """As in the thesis: one rate for all groups, whatever that leaves of the MACs."""

    def make(lab: Lab, _part: float) -> Found:
        return _made(lab, Uniform(rate)(lab.groups, scored(lab, scorers.WeightPermutation())), refit=False)

    return Contender(make, own=True)


def _made(lab: Lab, plan: fxprune.Plan, refit: bool) -> Found:
    small = fxprune.rewrite(lab.model, plan)
    if refit:
        data = lab.batches(lab.protocol.scored)
        small = fxprune.repair(lab.model, small, plan, data, progress=False, seed=lab.seed)
    return Found(small, refitted=refit)


def _in_one_call(lab: Lab, part: float) -> Found:
    data = lab.batches(lab.protocol.scored)
    return Found(fxprune.prune(lab.model, lab.example, macs=part, data=data).model, refitted=True)


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


_STEP = 0.1  # of a group's channels in an attempt of PCP


def _progressive(method: LayerByLayer | None, sampled: Sequence[str] = (), step: float = _STEP) -> Contender:
    def make(lab: Lab, part: float) -> Found:
        model = fxprune.add_samplers(lab.model, sampled) if sampled else lab.model
        own = method and replace(method, seed=lab.seed)
        return Found(_searched(lab, model, (part,), own, None, step).model, refitted=True)

    return Contender(make)


def _searched(
    lab: Lab,
    model: nn.Module,
    parts: Sequence[float],
    method: LayerByLayer | None,
    folder: Path | None,
    step: float = _STEP,
) -> Any:
    search = Progressive(parts[0], tuple(parts[1:]), step=step, top=0.25, method=method, progress=False, seed=lab.seed)
    groups = fxprune.find_groups(fxprune.trace(model, lab.example))
    judged = lab.val[: lab.protocol.judged // 2]
    quality = Accuracy(list(zip(judged.images.split(500), judged.labels.split(500), strict=True)))
    data = lab.batches(lab.protocol.scored)
    return search(model, groups, quality, scorer=scorers.Lasso(seed=lab.seed), data=data, folder=folder)


def _of_one_search(lab: Lab, part: float) -> Found:
    """A checkpoint of the search down to a fifth."""
    with TemporaryDirectory() as folder:
        found = _searched(lab, lab.model, (min(part, 0.2), part), LayerByLayer(seed=lab.seed), Path(folder))
        full = fxprune.cost(lab.groups).macs
        key = next(s.key for s in found.history if s.cost.macs <= part * full * (1 + 1e-12))
        return Found(restore(lab.model, Path(folder) / "checkpoints" / f"{key}.safetensors"), refitted=True)


def _bees(repair: bool, sources: int = 5, cycles: int = 3) -> Contender:
    def make(lab: Lab, part: float) -> Found:
        search = BeeColony(sources, cycles, keep=part, tolerance=_NEAR, repair=repair, progress=False, seed=lab.seed)
        data = lab.batches(lab.protocol.scored)
        settle = fxprune.absorb_batchnorm if repair else fxprune.recalibrate_batchnorm
        evaluate = lab.evaluate(lab.protocol.judged)
        options: dict[str, Any] = {"data": data, "tune": lambda model: settle(model, data)}
        found = search(lab.model, lab.groups, evaluate, scorer=scorers.L1Norm(), **options)
        return _made(lab, found.plan, refit=True) if repair else Found(found.model)

    return Contender(make)


def _bees_up_to(most: float) -> Contender:
    """As published: a code keeps at most this part of every group (its alpha), and no budget is given."""

    def make(lab: Lab, _part: float) -> Found:
        search = BeeColony(sources=5, cycles=3, max_keep=most, repair=True, progress=False, seed=lab.seed)
        data = lab.batches(lab.protocol.scored)
        evaluate = lab.evaluate(lab.protocol.judged)
        options: dict[str, Any] = {"data": data, "tune": lambda model: fxprune.absorb_batchnorm(model, data)}
        found = search(lab.model, lab.groups, evaluate, scorer=scorers.L1Norm(), **options)
        return _made(lab, found.plan, refit=True)

    return Contender(make, own=True)


def _bees_on_curves(lab: Lab, part: float) -> Found:
    data, scorer = lab.batches(lab.protocol.scored), scorers.JointElimination(seed=lab.seed)
    curves = scorer.curves(lab.model, lab.groups, data)
    search = BeeColony(
        sources=20,
        cycles=20,
        levels=20,
        keep=part,
        tolerance=_NEAR,
        fitness=CurveFitness(curves),
        progress=False,
        seed=lab.seed,
    )
    held = {name: curve.scores() for name, curve in curves.items()}
    found = search(lab.model, lab.groups, lambda _: 0.0, scorer=lambda *_, **__: held, data=data)
    return _made(lab, found.plan, refit=True)


def _monotone(lab: Lab, _part: float) -> Found:
    """The smallest member of the contribution rate's family that loses at most a point against the original tuned."""
    search = MonotoneFit(0.01, tunings=10, baselines=1, progress=False, seed=lab.seed)

    def tune(model: nn.Module) -> None:
        lab.calibrate(model)
        lab.tune(model)

    found = search(
        lab.model,
        lab.groups,
        lab.evaluate(lab.protocol.judged),
        scorer=scorers.WeightPermutation(),
        data=lab.batches(lab.protocol.scored),
        tune=tune,
    )
    if found.model is lab.model:
        return Found(copy.deepcopy(lab.model), found.model, whole=True)
    return Found(fxprune.rewrite(lab.model, found.plan), found.model)


def _peer(everywhere: bool) -> Contender:
    """Torch-Pruning's own pruner; its ratio is bisected to the MACs that come nearest to the budget.

    All layers of a width lose a channel at the same ratio, or a whole stage does, and that may take 5 % of the MACs at
    once. Where it misses the budget so, layers lose what smaller ratios would take from them, in an order that is
    drawn, where the budget allows it.
    """

    def make(lab: Lab, part: float) -> Found:
        found: list[tuple[float, int, nn.Module]] = []

        def macs(ratio: float, instead: Mapping[str, list[int]] | None = None) -> float:
            small = peer_pruned(lab.model, lab.example, ratio, everywhere, instead=instead)
            left = lab.left(small)[0]
            found.append((abs(left - part), len(found), small))
            return left

        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            low, high = (low, ratio) if macs(ratio) < part else (ratio, high)
        instead = peer_choice(lab.model, lab.example, high, everywhere)
        for milder in (low, *(high * (1 - k / 50) for k in range(1, 11))):
            if min(found)[0] <= _NEAR * part:
                break
            choice = peer_choice(lab.model, lab.example, milder, everywhere)
            for name in _drawn(instead, lab.seed):
                fewer = instead | {name: choice.get(name, [])}
                if fewer != instead and macs(high, fewer) <= part:
                    instead = fewer
        return Found(min(found, key=lambda f: f[:2])[2])

    return Contender(make)


def _drawn(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order drawn by the seed."""
    ordered = sorted(names)
    return [ordered[i] for i in torch.randperm(len(ordered), generator=torch.Generator().manual_seed(seed))]


def peer_pruned(
    model: nn.Module,
    example: Tensor,
    ratio: float,
    everywhere: bool,
    heads: Sequence[str] = (),
    instead: Mapping[str, list[int]] | None = None,
) -> nn.Module:
    """As its README and its torchvision script do.

    Args:
        model: it stays as it is.
        example: an input.
        ratio: of the channels that go.
        everywhere: rank all channels together.
        heads: layers whose outputs are the model's; by default the last one.
        instead: channels that some layers lose, by name, instead of those that `ratio` takes.
    """
    small, groups = _peer_groups(model, example, ratio, everywhere, heads)
    for name, group in groups:
        channels = (instead or {}).get(name)
        if channels is None:
            group.prune()
        elif channels:
            group.prune(idxs=channels)
    if isinstance(small, VisionTransformer):
        small.hidden_dim = small.conv_proj.out_channels  # the model's own code holds this width
    return small


def peer_choice(model: nn.Module, example: Tensor, ratio: float, everywhere: bool) -> dict[str, list[int]]:
    """The channels that each layer would lose by `peer_pruned`, by the name of the layer that makes them."""
    _, groups = _peer_groups(model, example, ratio, everywhere, ())
    return {name: list(group[0].idxs) for name, group in groups}


def _peer_groups(
    model: nn.Module, example: Tensor, ratio: float, everywhere: bool, heads: Sequence[str]
) -> tuple[nn.Module, Iterator[tuple[str, Any]]]:
    """A copy of the model, and what its pruner would remove from that, with the layer that makes the channels.

    Dicts are fresh, since the pruner's mutable defaults keep earlier models.
    """
    small: Any = copy.deepcopy(model).eval()
    last = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    pruner = tp.pruner.BasePruner(
        small,
        (example,),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        pruning_ratio_dict={},
        global_pruning=everywhere,
        ignored_layers=[small.get_submodule(name) for name in heads] or [last],
        round_to=small.encoder.layers[0].num_heads if isinstance(small, VisionTransformer) else None,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    names = {module: name for name, module in small.named_modules()}
    return small, ((names[group[0].dep.target.module], group) for group in pruner.step(interactive=True))


_PERMUTED = scorers.WeightPermutation
CONTENDERS: dict[str, Contender] = {
    "unpruned": Contender(lambda lab, _: Found(copy.deepcopy(lab.model), whole=True), own=True),
    "uniform L1": one_shot(Uniform, lambda _: scorers.L1Norm()),
    "uniform permutation": one_shot(Uniform, lambda _: _PERMUTED()),
    "contribution rate": one_shot(CumulativeContribution, lambda _: _PERMUTED()),
    "uniform zeroing": one_shot(Uniform, lambda _: _PERMUTED("zero")),
    "uniform re-initialising": one_shot(Uniform, lambda _: _PERMUTED("reinit")),
    "uniform permutation, noise": one_shot(Uniform, lambda seed: _PERMUTED(inputs="noise", seed=seed)),
    "uniform FPGM": one_shot(Uniform, lambda _: scorers.GeometricMedian()),
    "uniform NISP": one_shot(Uniform, lambda _: scorers.NISP()),
    "uniform HRank": one_shot(Uniform, lambda _: scorers.HRank()),
    "budget": Contender(_budget),
    "uniform L1, refitted": one_shot(Uniform, lambda _: scorers.L1Norm(), refit=True),
    "uniform permutation, refitted": one_shot(Uniform, lambda _: _PERMUTED(), refit=True),
    "contribution rate, refitted": one_shot(CumulativeContribution, lambda _: _PERMUTED(), refit=True),
    "one-shot LASSO": one_shot(Uniform, lambda seed: scorers.Lasso(seed=seed), refit=True),
    "uniform elimination": one_shot(Uniform, lambda seed: scorers.JointElimination(seed=seed), refit=True),
    "prune(data=)": Contender(_in_one_call),
    "PCP": _progressive(None),
    "PCP, published": _progressive(LayerByLayer()),
    "PCP, published, steps of 0.05": _progressive(LayerByLayer(), step=0.05),
    "PCP, samplers": _progressive(LayerByLayer(), ("*.conv1",)),
    "PCP, of one search": Contender(_of_one_search),
    "bee colony": _bees(repair=False),
    "bee colony, refitted": _bees(repair=True),
    "bee colony of 210, refitted": _bees(repair=True, sources=10, cycles=10),
    "bee colony, curves": Contender(_bees_on_curves),
    **{f"bee colony, at most {100 * most:.0f} %": _bees_up_to(most) for most in (0.3, 0.5, 0.7, 0.9)},
    **{f"permutation, rate {rate / 10:g}": _at_rate(rate / 10) for rate in range(1, 10)},
    "TP local": _peer(everywhere=False),
    "TP global": _peer(everywhere=True),
    "bisection": Contender(_bisection, own=True),
    "monotone fit": Contender(_monotone, own=True),
}
"""By name; those of Torch-Pruning begin with "TP"."""
