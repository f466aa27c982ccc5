"""Every scorer keeps the contract, and the suite that says so catches one broken scorer for each promise."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from footprints import no_footprints
from torch import Tensor, nn

import fxprune
from fxprune import scorers as s
from fxprune.testing import PROMISES, SUBJECTS, BrokenPromiseError, check_scorer

SCORERS: list[s.Scorer] = [
    s.L1Norm(),
    s.L2Norm(),
    s.LAMP(),
    s.Random(),
    s.GeometricMedian(),
    s.BatchNormScale(),
    s.NISP(),
    s.WeightPermutation(),
    s.WeightPermutation("reinit", distance="relative"),
    s.WeightPermutation("zero", scale="bn"),
    s.WeightPermutation("absorb"),
    s.SampledPermutation(samples=2),
    s.SampledPermutation("reinit", "relative", samples=1),
    s.SampledPermutation(distance="cosine", samples=1),
    s.SampledPermutation(distance="ssim", samples=1),
    s.Taylor(),
    s.GroupTaylor(),
    s.HessianDiagonal(),
    s.HessianDiagonal("given", draws=2),
    s.ActivationMean(),
    s.APoZ(),
    s.ActivationEntropy(),
    s.HRank(),
    s.ThiNet(),
    s.RefitLoss(),
    s.Lasso(),
    s.JointElimination(),
    s.Normalised(s.Taylor(), "rank"),
    s.WeightedSum(((s.Normalised(s.L1Norm()), 0.5), (s.Normalised(s.ActivationMean()), 0.5))),
    s.SeedAverage(s.Random(), 2),
    s.OverMembers(s.Normalised(s.L2Norm()), reduce="max"),
    s.Fallback(s.BatchNormScale(), s.WeightPermutation()),
    s.TorchPruning(tp.importance.GroupMagnitudeImportance(p=2)),
    s.TorchPruning(tp.importance.RandomImportance()),
]


def name_of(scorer: Any) -> str:
    return f"{type(scorer).__name__}({', '.join(str(getattr(scorer, f.name))[:12] for f in fields(scorer))})"


@functools.cache
def _on(subject: Any, device: str) -> Any:
    return replace(subject, device=device)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch_pruning")
@pytest.mark.one_in(2)
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("scorer", SCORERS, ids=name_of)
def test_contract(scorer: s.Scorer, subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scorer leaves a trace in the network, or the next one would notice: it need not be made for each of them."""
    monkeypatch.setattr("fxprune.testing.scorer.SUBJECTS", [subject])
    monkeypatch.setattr(type(subject), "on", _on)
    check_scorer(scorer)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("width", [4, 9])
@pytest.mark.parametrize("scorer", SCORERS, ids=name_of)
def test_groups_of_another_model(scorer: s.Scorer, width: int) -> None:
    """Such as the one that was cut already, or one whose layers have other names."""
    x, labels, groups = torch.rand(4, 3, 6, 6), torch.zeros(4, dtype=torch.long), _groups()
    other = _small(width) if width == 4 else nn.ModuleList([_small(6)])
    with pytest.raises(fxprune.InputError, match="the groups are of another model"):
        scorer(other, groups, [(x, labels)])


@functools.cache
def _groups() -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(_small(6), torch.rand(4, 3, 6, 6)))


def _small(width: int) -> nn.Sequential:
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, 5)).eval()


def test_all_scorers_are_here() -> None:
    scorers = {v for v in vars(s).values() if isinstance(v, type) and is_dataclass(v) and "__call__" in vars(v)}
    assert scorers == {type(x) for x in SCORERS}


def test_subjects_hold_every_kind_of_slot() -> None:
    """Several producers, several consumers, several positions a channel, several groups in one dim."""
    groups = [g for subject in SUBJECTS for g in subject.groups]
    assert any(len(g.producers) > 1 for g in groups)
    assert any(len(g.consumers) > 1 for g in groups)
    assert any(len(slot.positions) > g.size for g in groups for slot in g.consumers)
    assert any(len(slot.positions) > g.size for g in groups for slot in g.producers)
    assert any(len(slot.positions) < slot.length for g in groups for slot in g.consumers)
    assert any(slot.dim == 1 for g in groups for slot in g.producers)
    assert {subject.dtype for subject in SUBJECTS} == {torch.float32, torch.float64}


Broken = Callable[..., dict[str, Any]]


def good(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    return s.L2Norm()(model, groups)


def but(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Broken:
    """A good scorer's scores, changed."""
    return lambda model, groups, data=None: change(good(model, groups))


def after(spoil: Callable[[nn.Module], Any]) -> Broken:
    """A good scorer that does something to the model."""

    def scorer(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
        spoil(model)
        return good(model, groups)

    return scorer


def first_tensor(data: Iterable[Any]) -> Tensor:
    return next(iter(data))[0]


def knows_modules(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    """Looks for a layer that only some networks have."""
    _ = dict(model.named_parameters())["b.0.weight"]
    return good(model, groups)


def sequential(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    """One generator for all groups: scores depend on the order."""
    generator = torch.Generator().manual_seed(0)
    return {g.name: torch.rand(g.size, generator=generator, dtype=torch.float64) for g in groups}


def global_state(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    return {g.name: torch.rand(g.size, dtype=torch.float64) for g in groups}


def writes_data(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    first_tensor(data).mul_(2)
    return good(model, groups)


def leaves_eval(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    """Puts the mode back, but not if the data fails."""
    modes = [m.training for m in model.modules()]
    model.eval()
    for x, _ in data:
        with torch.no_grad():
            model(x)
    for m, mode in zip(model.modules(), modes, strict=True):
        m.training = mode
    return good(model, groups)


def needs_a_batch(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    first_tensor(data)
    return good(model, groups)


def runs_in_training_mode(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
    with torch.no_grad():
        model(first_tensor(data))
    return good(model, groups)


def first_of(change: Callable[[Tensor], Any]) -> Broken:
    return but(lambda found: {n: change(v) for n, v in found.items()})


BROKEN: list[tuple[str, Broken, tuple[str, ...]]] = [
    ("works", knows_modules, ("KeyError: 'b.0.weight'", "network 'transposed'", "read the groups' slots")),
    ("works", but(lambda found: list(found.values())), ("returns no dict", "seen: list")),  # type: ignore[arg-type, return-value]
    ("works", but(lambda found: None), ("returns no dict", "seen: NoneType")),  # type: ignore[arg-type, return-value]
    ("works", lambda m, g, d=None: s.Taylor()(m, g), ("InputError: this scorer needs data",)),
    ("complete", but(lambda found: dict(list(found.items())[:-1])), ("a group has no scores in group b.0", "for each")),
    ("complete", but(lambda found: {**found, "x": 1}), ("scores of something other than a group", "seen: x")),
    ("shaped", first_of(lambda v: v[:-1]), ("wrong shape in group a.0", "seen: (5,), not (6,)", "one a channel")),
    ("shaped", first_of(Tensor.float), ("wrong type", "torch.float32", "call .double()")),
    ("shaped", first_of(lambda v: v.requires_grad_()), ("carry a gradient", "call .detach()")),
    ("shaped", first_of(lambda v: v.tolist()), ("scores are not a tensor", "seen: list", "return torch tensors")),
    ("finite", first_of(lambda v: v.log() / 0), ("not finite in group a.0", "6 of 6", "divisions by zero")),
    ("deterministic", global_state, ("the same call", "and then", "torch.Generator().manual_seed")),
    ("order-independent", sequential, ("another order", "seed by group name")),
    ("untouched", after(lambda m: m.eval()), ("changes the mode in the model", "isolated")),
    ("untouched", after(lambda m: m.requires_grad_(True)), ("changes the requires_grad in a.0.weight",)),
    ("untouched", after(lambda m: m.zero_grad()), ("changes the gradients",)),
    ("untouched", after(lambda m: m.head.weight.data.mul_(2)), ("changes the parameters in head.weight",)),  # type: ignore[union-attr, operator]
    ("untouched", after(lambda m: m.register_forward_hook(print)), ("changes the hooks in _forward_hooks",)),
    ("untouched", after(lambda m: setattr(m, "scores", 1)), ("changes the attributes in the model",)),
    ("untouched", runs_in_training_mode, ("changes the buffers in a.1.running_mean",)),
    ("untouched", after(lambda m: torch.rand(1)), ("changes the random state in torch",)),
    ("untouched", after(lambda m: np.random.rand()), ("changes the random state in numpy",)),  # noqa: NPY002
    ("untouched", after(lambda m: random.random()), ("changes the random state in python",)),
    ("untouched", writes_data, ("changes the data in batch 0, tensor 0",)),
    ("untouched on failure", leaves_eval, ("changes the mode",)),
    ("refuses clearly", needs_a_batch, ("data without a batch", "StopIteration", "fxprune.InputError")),
]


@pytest.mark.parametrize(("promise", "scorer", "texts"), BROKEN, ids=[f"{p}-{i}" for i, (p, *_) in enumerate(BROKEN)])
def test_a_broken_scorer_is_told_which_promise_it_breaks(promise: str, scorer: Broken, texts: tuple[str, ...]) -> None:
    """By the whole suite, which stops at this promise, not at another."""
    with pytest.raises(BrokenPromiseError) as caught:
        check_scorer(scorer, devices=["cpu"])
    assert caught.value.promise == promise, caught.value
    assert f"breaks the promise '{promise}'" in str(caught.value)
    assert "of the network '" in str(caught.value) or "in the network '" in str(caught.value)
    assert all(t in str(caught.value) for t in texts), caught.value


def test_every_promise_is_broken_once() -> None:
    assert {promise for promise, *_ in BROKEN} == set(PROMISES)


def test_one_promise_alone() -> None:
    check_scorer(global_state, promises=["works", "complete", "shaped", "finite"], devices=["cpu"])
    with pytest.raises(fxprune.InputError, match="no such promise; seen: quick; remedy: one of works, complete"):
        check_scorer(good, promises=["works", "quick"])


def test_a_scorer_may_refuse_what_has_no_norm_but_only_clearly() -> None:
    check_scorer(s.BatchNormScale())

    def unclear(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Any]:
        try:
            return s.BatchNormScale()(model, groups)
        except fxprune.InputError as error:
            raise ValueError("no norm") from error

    with pytest.raises(BrokenPromiseError, match=r"'works'.*'linear, without norms'.*ValueError: no norm"):
        check_scorer(unclear, devices=["cpu"])


def test_the_suite_itself_leaves_no_footprints() -> None:
    with no_footprints(nn.Linear(1, 1)):
        check_scorer(s.Taylor())
        with pytest.raises(BrokenPromiseError):
            check_scorer(global_state)


def test_the_readmes_scorer_keeps_the_contract() -> None:
    """A scorer takes a function and no edit elsewhere."""

    def spread(model: nn.Module, groups: fxprune.Groups, data: Any = None) -> dict[str, Tensor]:
        weights = dict(model.named_parameters())

        def score(group: fxprune.Group) -> Tensor:
            makers = s.makers(group, weights)
            parts = [s.per_channel(s.along(weights[m.tensor], m).std(1, correction=0), m, group.size) for m in makers]
            return torch.stack(parts).sum(0)

        return {g.name: score(g) for g in groups}

    check_scorer(spread)
