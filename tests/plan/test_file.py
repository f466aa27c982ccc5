"""A plan's file: what it claims is checked before memory or time is taken for it, and what is saved can be loaded."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES
from torch import nn

import fxprune
from fxprune.analysis.widths.constraints import ScaleUse

MANY = 10**7


@pytest.fixture
def groups() -> fxprune.Groups:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))


def slot(**more: Any) -> dict[str, Any]:
    return {"tensor": "w", "dim": 0, "role": "producer", **more}


def text(length: int, group: dict[str, Any], slots: list[dict[str, Any]]) -> str:
    """A plan of one group in tensors of which it claims to know the shapes."""
    fields: dict[str, Any] = {"attributes": {}, "scales": [], "orders": {}, "aliases": {}}
    shapes = {"w": [length, 3], "b": [length]}
    return json.dumps(
        {"fxprune_plan": 2, "groups": [{"name": "g", "slots": slots, **group}], "shapes": shapes} | fields
    )


CLAIMS: dict[str, Callable[[], str]] = {
    "channels": lambda: text(
        MANY,
        {"size": MANY, "kept": [0]},
        [slot(start=0, channels=MANY, repeat=1), slot(tensor="b", start=0, channels=MANY, repeat=1)],
    ),
    "many dims": lambda: text(
        2**21, {"size": 2**21, "kept": [0]}, [slot(start=0, channels=2**21, repeat=1, dim=d % 2) for d in range(9)]
    ),
    "repeated": lambda: text(MANY, {"size": 10, "kept": [0]}, [slot(start=0, channels=10, repeat=MANY // 10)]),
    "positions": lambda: text(5, {"size": 5, "kept": [0]}, [slot(positions=[0] * 2**22, channels=[])]),
    "kept": lambda: text(5, {"size": 5, "kept": [0] * 2**22}, [slot(start=0, channels=5, repeat=1)]),
    "a long text": lambda: " " * 2**27,
}


@pytest.mark.parametrize("name", CLAIMS)
def test_ten_million_channels_are_refused_in_a_second(name: str) -> None:
    claim = CLAIMS[name]()
    start = time.process_time()
    with pytest.raises(fxprune.PlanError, match=r"claims larger tensors|longer than that of any plan"):
        fxprune.Plan.from_json(claim)
    assert time.process_time() - start < 1


def test_the_largest_plan_is_read_in_seconds() -> None:
    length = 2**21
    start = time.process_time()
    plan = fxprune.Plan.from_json(
        text(length, {"size": length, "kept": [0, 5, length - 1]}, [slot(start=0, channels=length, repeat=1)])
    )
    assert time.process_time() - start < 5
    assert plan.cuts()["w"][0].tolist() == [0, 5, length - 1]


def test_an_edited_file_is_named(tmp_path: Path) -> None:
    whole = text(5, {"size": 5, "kept": [0]}, [slot(start=0, channels=5, repeat=1)])
    for old, new in (('"kept": [0]', '"kept": ["x"]'), ('"start": 0', '"start": -1')):
        assert old in whole
        (tmp_path / "edited.json").write_text(whole.replace(old, new))
        with pytest.raises(fxprune.PlanError, match=r"edited\.json; seen: "):
            fxprune.Plan.load(tmp_path / "edited.json")


@pytest.mark.parametrize("bad", [[0, True], [0, 1.0], ["0"], [-1], [5], {"0": 1}, "01", [2**70]])
def test_indices_are_checked(bad: Any) -> None:
    slots = [slot(start=0, channels=5, repeat=1)]
    with pytest.raises(fxprune.PlanError, match=r"not an index|out of range|not a plan"):
        fxprune.Plan.from_json(text(5, {"size": 5, "kept": bad}, slots))


def test_a_plan_of_an_earlier_version_says_what_to_do(groups: fxprune.Groups) -> None:
    data = json.loads(groups.plan({"0": [1, 2]}).to_json())
    assert data["fxprune_plan"] == 2
    earlier = json.dumps(data | {"fxprune_plan": 1, "heads": ""})
    with pytest.raises(
        fxprune.PlanError,
        match=r"an earlier version of fxprune in the given text; seen: version 1 .*; remedy: make the plan again",
    ):
        fxprune.Plan.from_json(earlier)


def test_a_plan_that_scales_a_tensor_which_it_does_not_cut(groups: fxprune.Groups) -> None:
    """The scale is laid on the last bias, whose channels are the model's output."""
    use = ScaleUse("4.bias", np.array([0, 2]), "2", 0.5)
    groups._held = replace(groups._held, scales=(use,))
    plan = groups.plan({"2": [0, 1, 3]})
    assert "4.bias" not in plan.cuts()
    assert plan.shapes["4.bias"] == (3,)
    again = fxprune.Plan.from_json(plan.to_json())
    assert again == plan
    model = groups.graph.model
    small = fxprune.rewrite(model, again)
    assert torch.allclose(small[4].bias, model[4].bias * torch.tensor([0.5**0.5, 1, 0.5**0.5]))
    with pytest.raises(fxprune.PlanError, match=r"no tensor 4\.bias"):
        fxprune.rewrite(nn.Sequential(*model[:4], nn.Linear(6, 3, bias=False)), plan)


@pytest.mark.parametrize("name", CASES)
def test_plans_of_all_networks_can_be_loaded_again(name: str) -> None:
    model, groups = CASES[name].build(), CASES[name].analysed()
    if len(groups):
        plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
        assert fxprune.Plan.from_json(plan.to_json()) == plan


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3))
    plan = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1, 8, 8))).plan({"0": [0, 1]})
    weights = tmp_path / "best.pt"
    torch.save(net.state_dict(), weights)
    before = weights.read_bytes()
    with pytest.raises(fxprune.InputError, match="best"):
        plan.save(weights)
    assert weights.read_bytes() == before
    plan.save(tmp_path / "plan.json")
    plan.save(tmp_path / "plan.json")
    assert fxprune.Plan.load(tmp_path / "plan.json") == plan
