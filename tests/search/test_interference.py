"""What a caller's functions may change between two calls, or in a candidate, is seen."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.search.describe import describe


class Quality:
    """An object that is called."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, model: nn.Module) -> float:
        return 10.0 - self.weight * sum(float(p.detach().abs().sum()) for p in model.parameters())

    def score(self, model: nn.Module) -> float:
        return self(model)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    return nn.Sequential(*layers).eval()


X = torch.rand(2, 1, 8, 8)
OF: dict[str, Any] = {"bound": lambda q: q.score, "part": lambda q: partial(q.score)}


@pytest.mark.parametrize("of", OF.values(), ids=OF)
def test_another_evaluate_in_the_folder_of_one_is_told(of: Any, tmp_path: Path) -> None:
    def call(weight: float, **more: Any) -> Any:
        return fxprune.prune(net(), X, evaluate=of(Quality(weight)), max_drop=0.1, folder=tmp_path / "runs", **more)

    first = call(0.0)
    assert call(0.0).plan == first.plan
    with pytest.raises(fxprune.InputError, match="the directory is of another run"):
        call(100.0)
    if of is not OF["part"]:  # whose arguments are settings
        assert call(100.0, resume=True).plan == first.plan  # the caller says that it is the same


def test_methods_are_described_by_what_their_object_holds() -> None:
    class Counting(Quality):
        def score(self, model: nn.Module) -> float:
            self.calls = getattr(self, "calls", 0) + 1
            return super().score(model)

    told = [describe(q.score) for q in (Quality(1.0), Quality(2.0), Counting(1.0))]
    assert len(set(told)) == 3
    assert describe(Quality(1.0).score) == told[0]
    counting = Counting(1.0)
    counting.score(net())
    assert describe(counting.score) == told[2]  # what a run itself changes is no setting
    assert describe(net().forward) == describe(nn.Sequential(nn.ReLU()).forward)  # whose numbers the fingerprint tells


@pytest.mark.parametrize("change", ["fuse", "half"])
def test_an_evaluate_that_changes_the_candidate_is_refused(change: str) -> None:
    def evaluate(model: Any) -> float:
        if change == "half":
            model.half()
        elif isinstance(model[1], nn.BatchNorm2d):
            model[0] = nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
            model[1] = nn.Identity()
        return 1.0

    with pytest.raises(fxprune.InputError, match=r"evaluate has changed the model's structure.*copy\.deepcopy"):
        fxprune.prune(net(), X, evaluate=evaluate, max_drop=0.1)


def test_a_tuning_that_registers_a_buffer_is_refused(tmp_path: Path) -> None:
    """No fresh model fits a file with it."""
    model = net()
    groups = fxprune.find_groups(fxprune.trace(model, X))
    search, said = fxprune.search.Bisection(0.5, progress=False), r"has changed the model's structure in 0\.steps"
    with pytest.raises(fxprune.InputError, match=f"tune {said}.*register no buffers"):
        search(model, groups, lambda _: 1.0, tune=_registers, folder=tmp_path)
    with pytest.raises(fxprune.InputError, match=f"tune {said}"):
        fxprune.prune(model, X, 0.5, tune=_registers)


def _registers(model: Any) -> None:
    model[0].register_buffer("steps", torch.ones(1))


def test_nan_that_a_tuning_leaves_in_statistics_is_refused() -> None:
    def tune(model: Any) -> None:
        model[1].running_var.fill_(float("nan"))

    with pytest.raises(fxprune.InputError, match=r"the model holds NaN in 1\.running_var"):
        fxprune.prune(net(), X, 0.5, tune=tune)


def test_a_second_search_in_the_folder_of_a_running_one(tmp_path: Path) -> None:
    """Also in one process, where a refused one must not let go of what the first one holds."""
    started, refused = threading.Event(), threading.Event()
    told: list[str] = []

    def evaluate(_model: nn.Module) -> float:
        started.set()
        assert refused.wait(60)
        return 1.0

    def call() -> Any:
        return fxprune.prune(net(), X, evaluate=evaluate, max_drop=0.1, folder=tmp_path / "runs")

    def intrude() -> None:
        started.wait(60)
        for _ in range(2):
            try:
                call()
            except fxprune.InputError as error:
                told.append(str(error))
        refused.set()

    other = threading.Thread(target=intrude)
    other.start()
    call()
    other.join()
    assert len(told) == 2
    assert all("another search is running here" in text for text in told)
