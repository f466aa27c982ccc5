"""Bad input: every error says what failed, where, what was seen and the remedy, and leaves the model as it was."""

import copy
import json
import pickle
import re
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from footprints import footprint
from nets import CASES, Net
from oracle import ROUNDING
from torch import nn

import fxprune
from fxprune.verification import reading


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is refused leaves no file and no folder in the working directory."""
    folder = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def net() -> Iterator[Net]:
    """A model that must be the same after the test."""
    model = CASES["residual"].build()
    before = footprint(model)
    yield model
    assert footprint(model) == before


@pytest.fixture(scope="module")
def plan() -> fxprune.Plan:
    """A value, which no test changes."""
    return fxprune.prune(CASES["residual"].build(), X, 0.5).plan


X = CASES["residual"].inputs()


def groups_of(model: nn.Module, x: Any = X) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model, x))


def refused(error: type[fxprune.FxpruneError], *texts: str) -> Any:
    """`pytest.raises` for an error whose text holds all of `texts`."""

    def said(raised: Exception) -> bool:
        missing = [t for t in texts if t not in str(raised)]
        assert not missing, f"{missing} not in: {raised}"
        return True

    return pytest.raises(error, check=said)


# Models and inputs


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_forward_that_fails() -> None:
    model = Fails()
    before = footprint(model)
    with refused(fxprune.TraceError, "forward fails", "inner.1", "Fails", "RuntimeError", "5 channels", "eval mode"):
        fxprune.trace(model, X)
    assert footprint(model) == before


def test_inputs_of_the_wrong_shape(net: Net) -> None:
    with refused(fxprune.TraceError, "forward fails", "'stem'", "3 channels", "call the model on them yourself"):
        fxprune.trace(net, torch.zeros(1, 4, 8, 8))


def test_inputs_on_another_device(net: Net) -> None:
    with refused(fxprune.InputError, "different devices", "inputs on meta, model on cpu", ".to('cpu')"):
        fxprune.trace(net, torch.zeros(1, 3, 8, 8, device="meta"))


def test_too_few_inputs(net: Net) -> None:
    with refused(fxprune.TraceError, "forward fails", "missing 1 required positional argument"):
        fxprune.trace(CASES["two_inputs"].build(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("nothing", "seen"),
    [((), "nothing"), ({}, "nothing"), (None, "NoneType"), (3, "int"), ({"x": "y"}, "str"), (np.ones(3), "ndarray")],
)
def test_inputs_without_a_tensor(net: Net, nothing: Any, seen: str) -> None:
    with refused(fxprune.InputError, "hold no tensor", f"seen: {seen}; remedy: pass a tensor (torch.as_tensor(array))"):
        fxprune.trace(net, nothing)


def test_outputs_without_a_tensor() -> None:
    model = Net(lambda m, x: {"loss": float(m.a(x).shape[0])}, {"a": nn.Conv2d(3, 4, 3)})
    with refused(fxprune.TraceError, "output holds no tensor", "dict", "return tensors"):
        fxprune.trace(model, X)


def test_a_meta_model_can_be_analysed_but_its_failure_is_reported() -> None:
    with torch.device("meta"):
        good, bad = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), Fails()
    assert [g.size for g in groups_of(good)] == [4]
    assert [g.size for g in groups_of(good, X[0].to("meta"))] == [4]
    with refused(fxprune.TraceError, "forward fails", "Fails"):
        fxprune.trace(bad, X)


def test_an_empty_batch_costs_nothing(net: Net) -> None:
    with refused(fxprune.InputError, "the model costs no macs", "give example inputs of at least a sample"):
        fxprune.prune(net, X[0][:0] if isinstance(X, tuple) else X[:0], macs=0.5)


def test_swapped_and_missing_arguments(net: Net, tmp_path: Path) -> None:
    groups = groups_of(net)
    scores = fxprune.scorers.L2Norm()(net, groups)
    uniform = fxprune.planners.Uniform(0.5)
    with refused(fxprune.InputError, "the groups", "planner(groups, scores)"):
        uniform(scores, groups)  # type: ignore[arg-type]
    with refused(fxprune.InputError, "the constraints", "planners.Constraints(round_to=8)"):
        fxprune.planners.Uniform(0.5, 8)(groups, scores)  # type: ignore[arg-type]
    with refused(fxprune.InputError, "the model"):
        fxprune.untie_attention(None)  # type: ignore[type-var]
    with refused(fxprune.InputError, "the groups", "fxprune.find_groups"):
        fxprune.latency.measure(net)  # type: ignore[arg-type]
    for plot in (fxprune.report.plot_scores, fxprune.report.plot_curves, fxprune.report.plot_tradeoff):
        with refused(fxprune.InputError, "give "):
            plot(groups)  # type: ignore[arg-type]
    for path in (tmp_path / "plan.json", tmp_path):
        with refused(fxprune.errors.StorageError, str(path)):
            fxprune.Plan.load(path)


def test_lazy_modules() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyLinear(3))
    with refused(fxprune.InputError, "uninitialised (lazy) parameters", "0.weight", "run the model once"):
        fxprune.trace(model, X)


def test_nothing_to_prune() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with refused(
        fxprune.InputError, "no channel of the model can be pruned", "Sequential", "model output", "model input"
    ):
        fxprune.prune(model, X, 0.5)


def test_a_model_without_parameters_has_no_groups() -> None:
    assert len(groups_of(nn.ReLU())) == 0
    with refused(fxprune.InputError, "no channel of the model can be pruned", "ReLU"):
        fxprune.prune(nn.ReLU(), X, 0.5)


@pytest.mark.parametrize("name", ["layer7", "stem.weigh", "resid*"])
def test_protecting_a_name_that_matches_nothing(net: Net, name: str) -> None:
    with refused(fxprune.InputError, "nothing has the ignored name", f"seen: {name}", "module, parameter or group"):
        fxprune.find_groups(fxprune.trace(net, X), ["stem", name])


# Numbers out of range


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_ratios_out_of_range(net: Net, ratio: float) -> None:
    with refused(fxprune.InputError, "the pruning ratio is not a number in [0, 1)", f"seen: {ratio}"):
        fxprune.prune(net, X, ratio)
    with refused(fxprune.InputError, "the pruning ratio is not a number in [0, 1)", f"seen: {ratio}"):
        fxprune.planners.Uniform(ratio)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.01, float("nan")])
def test_contribution_rates_out_of_range(rate: float) -> None:
    with refused(fxprune.InputError, "the contribution rate is not a number in (0, 1]", f"seen: {rate}"):
        fxprune.planners.CumulativeContribution(rate)


@pytest.mark.parametrize("precision", [0.0, 1.0, -0.5, float("nan")])
def test_precisions_out_of_range(precision: float) -> None:
    with refused(fxprune.InputError, "the precision is not a number in [1e-12, 1)", f"seen: {precision}"):
        fxprune.search.Bisection(precision=precision)


@pytest.mark.parametrize("multiple", [0, -8])
def test_round_to_out_of_range(multiple: int) -> None:
    with refused(fxprune.InputError, "round_to must be a positive integer", f"seen: {multiple}"):
        fxprune.planners.Constraints(round_to=multiple)


def test_an_unknown_change_of_kernels() -> None:
    with refused(fxprune.InputError, "unknown change", "seen: shuffle", "permute, reinit, zero, absorb"):
        fxprune.scorers.WeightPermutation("shuffle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ({"stem": []}, "at least one channel"),
        ({"stem": [8]}, "out of range"),
        ({"stem": [-1]}, "out of range"),
        ({"nosuch": [0]}, "no such prunable group; seen: nosuch"),
    ],
)
def test_channels_that_do_not_exist(net: Net, kept: dict[str, list[int]], text: str) -> None:
    with refused(fxprune.InputError, text):
        groups_of(net).plan(kept)


# Scores


def test_weights_that_are_not_finite(net: Net) -> None:
    bad = CASES["residual"].build()
    bad.a.weight.data[2, 0, 0, 0] = float("nan")
    with refused(fxprune.InputError, "the model holds NaN", "in a.weight", "1 of 432"):
        fxprune.prune(bad, X, 0.5)
    with refused(fxprune.InputError, "not finite", "in a", "1 of 6", "NaN"):
        fxprune.prune(bad, X, 0.5, verify=False)
    with refused(fxprune.InputError, "not finite", "NaN"):
        fxprune.prune(bad, X, 0.5, scorer=fxprune.scorers.WeightPermutation(), verify=False)


@pytest.mark.parametrize(
    ("scores", "texts"),
    [
        ({"a": torch.ones(6)}, ("no scores", "in stem", "score all groups")),
        ({"stem": torch.ones(7), "a": torch.ones(6)}, ("wrong shape", "in stem", "(7,), not (8,)")),
        ({"stem": torch.ones(8, 1), "a": torch.ones(6)}, ("wrong shape", "in stem")),
        ({"stem": torch.full((8,), float("inf")), "a": torch.ones(6)}, ("not finite", "in stem", "8 of 8")),
    ],
)
def test_unusable_scores(net: Net, scores: dict[str, torch.Tensor], texts: tuple[str, ...]) -> None:
    groups = groups_of(net)
    for planner in (fxprune.planners.Uniform(0.5), fxprune.planners.CumulativeContribution(0.5)):
        with refused(fxprune.InputError, *texts):
            planner(groups, scores)


def test_contributions_of_negative_scores(net: Net) -> None:
    scores = {"stem": torch.arange(8.0) - 1, "a": torch.ones(6)}
    with refused(fxprune.InputError, "at least zero", "in stem", "-1"):
        fxprune.planners.CumulativeContribution(0.5)(groups_of(net), scores)


@pytest.mark.parametrize("data", [[], iter(())])
def test_an_empty_data_loader(net: Net, data: Any) -> None:
    with refused(fxprune.InputError, "holds no batch", "used up only once"):
        fxprune.prune(net, X, 0.5, scorer=fxprune.scorers.WeightPermutation(), data=data)


def test_a_group_without_a_contraction(net: Net) -> None:
    model = Net(
        lambda m, x: m.b(x * m.scale + m.shift),
        {
            "scale": nn.Parameter(torch.rand(6, 1, 1)),
            "shift": nn.Parameter(torch.rand(6, 1, 1)),
            "b": nn.Conv2d(6, 2, 1),
        },
    )
    x = torch.rand(1, 1, 4, 4)
    assert fxprune.prune(model, x, 0.5).report.deviation is not None
    with refused(fxprune.InputError, "no convolution or linear layer", "scale", "L2Norm"):
        fxprune.prune(model, x, 0.5, scorer=fxprune.scorers.WeightPermutation())


# Plans that do not fit


def other_net() -> nn.Module:
    return CASES["chain"].build()


def narrower_net() -> nn.Module:
    model = CASES["residual"].build()
    return fxprune.prune(model, X, 0.25).model


Use = Callable[[nn.Module, fxprune.Plan], Any]
USES: list[Use] = [
    lambda model, plan: fxprune.rewrite(model, plan),
    lambda model, plan: fxprune.rewrite(model, plan, inplace=True),
    lambda model, plan: fxprune.verify(model, plan, X),
]


@pytest.mark.parametrize("use", USES, ids=["copy", "in place", "verify"])
@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (other_net, "no tensor stem.weight"),
        (narrower_net, "stem.weight is (6, 3, 3, 3), the plan expects (8, 3, 3, 3)"),
    ],
)
def test_a_plan_for_another_model_changes_nothing(plan: fxprune.Plan, make: Any, seen: str, use: Use) -> None:
    model = make()
    before = footprint(model)
    with refused(fxprune.PlanError, "the plan is for another model", seen, "full-size model of the architecture"):
        use(model, plan)
    assert footprint(model) == before


@pytest.mark.parametrize("use", USES, ids=["copy", "in place", "verify"])
def test_a_plan_applied_twice(plan: fxprune.Plan, use: Use) -> None:
    small = fxprune.rewrite(CASES["residual"].build(), plan)
    before = footprint(small)
    with refused(fxprune.PlanError, "applied already", "stem.weight is (4, 3, 3, 3)"):
        use(small, plan)
    assert footprint(small) == before


def test_masking_with_a_plan_for_another_model(plan: fxprune.Plan) -> None:
    model = other_net()
    before = footprint(model)
    with refused(fxprune.PlanError, "the plan is for another model", "stem.weight"):
        fxprune.mask(model, plan)
    assert footprint(model) == before


def test_cutting_a_state_of_another_model(plan: fxprune.Plan) -> None:
    with refused(fxprune.PlanError, "the plan is for another model", "stem.weight"):
        fxprune.cut_state(narrower_net().state_dict(), plan)


def test_cutting_a_state_with_names_of_its_own(plan: fxprune.Plan) -> None:
    average = torch.optim.swa_utils.AveragedModel(CASES["residual"].build())
    with refused(fxprune.PlanError, "the state is of another model", "module.stem.weight", "that of its .module"):
        fxprune.cut_state(average.state_dict(), plan)
    assert fxprune.cut_state(average.module.state_dict(), plan)["stem.weight"].shape == (4, 3, 3, 3)
    assert fxprune.cut_state({}, plan) == {}


def test_the_cost_of_a_plan_for_another_model(net: Net, plan: fxprune.Plan) -> None:
    with refused(fxprune.PlanError, "the plan is for another model", "stem"):
        fxprune.cost(fxprune.find_groups(fxprune.trace(other_net(), X)), plan)


def test_a_plan_whose_attributes_the_model_lacks(plan: fxprune.Plan) -> None:
    """The last thing to be applied fails first: nothing is touched."""
    for attributes in ({"nosuch": {"groups": 1}}, {"stem": {"nosuch": 1}}):
        model = CASES["residual"].build()
        before = footprint(model)
        with refused(fxprune.PlanError, "the plan is for another model", "nosuch"):
            fxprune.rewrite(model, replace(plan, attributes=attributes), inplace=True)
        assert footprint(model) == before


class Counted(nn.Conv2d):
    ran = False

    @property
    def doubled(self) -> int:
        type(self).ran = True
        return 2 * self.out_channels


def test_a_plan_for_an_attribute_that_cannot_be_set(plan: fxprune.Plan) -> None:
    """Found before the first tensor is cut, and without running the code behind it."""
    model = CASES["residual"].build()
    model.stem.__class__ = Counted
    before = footprint(model)
    with refused(fxprune.PlanError, "no width doubled in 'stem'"):
        fxprune.rewrite(model, replace(plan, attributes={"stem": {"doubled": 8}}), inplace=True)
    assert footprint(model) == before
    assert not Counted.ran


# Plan files


def test_a_missing_plan_file(tmp_path: Path) -> None:
    with pytest.raises(fxprune.errors.StorageError, match=r"none\.json"):
        fxprune.Plan.load(tmp_path / "none.json")


def test_every_truncation_of_a_plan_file(plan: fxprune.Plan, tmp_path: Path) -> None:
    whole = plan.to_json()
    path = tmp_path / "plan.json"
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_text(whole[:length])
        with refused(fxprune.PlanError, "not a plan", str(path), "cut short"):
            fxprune.Plan.load(path)


def test_a_saved_plan_has_the_permissions_of_any_new_file(plan: fxprune.Plan, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "plan.json").chmod(0o640)
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("exists", [False, True])
def test_a_plan_is_saved_where_a_link_leads(plan: fxprune.Plan, tmp_path: Path, exists: bool) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "plan.json", tmp_path / "link.json"
    link.symlink_to(target)
    if exists:
        target.write_text('{"fxprune_plan": 1}')
    plan.save(link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert fxprune.Plan.load(target) == plan


def test_a_plan_is_saved_whole_or_not_at_all(
    plan: fxprune.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace(plan, attributes={"stem": {"groups": 1}}).save(path)
    assert fxprune.Plan.load(path) == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


class Malicious:
    def __reduce__(self) -> Any:
        return (Path("/tmp/fxprune-was-here").touch, ())


@pytest.mark.parametrize("content", [pickle.dumps(Malicious()), b"\x00\xff\xfe", b"PK\x03\x04", np.arange(9).tobytes()])
def test_binary_files_are_not_executed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with refused(fxprune.PlanError, "not a plan", str(path)):
        fxprune.Plan.load(path)
    assert not Path("/tmp/fxprune-was-here").exists()


def damaged(plan: fxprune.Plan, where: tuple[Any, ...], value: Any) -> str:
    """The plan's JSON with one value replaced."""
    data = json.loads(plan.to_json())
    *path, last = where
    inner = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    return json.dumps(data)


SLOT = ("groups", 0, "slots", 0)
DAMAGE: list[tuple[tuple[Any, ...], Any]] = [
    *((("fxprune_plan",), v) for v in (0, 99, "1", None)),
    *((("groups",), v) for v in (None, 7, "x", [1], {"a": 1}, [[]])),
    *((("groups", 0, "name"), v) for v in (["a"], None, 3, {})),
    *((("groups", 0, "size"), v) for v in (-1, 3.5, "8", None, True, 10**12, 10**30, 0)),
    *((("groups", 0, "kept"), v) for v in ([], [0, 0], [8], [-1], ["0"], [0.0], None, "01", [10**30], [[0]])),
    *((("groups", 0, "slots"), v) for v in (None, 5, [None], [[]], "ab")),
    *(((*SLOT, "tensor"), v) for v in ("nosuch", None, 3, [])),
    *(((*SLOT, "dim"), v) for v in (-1, 4, 10**30, "0", 1.0, True)),
    *(((*SLOT, "start"), v) for v in (-1, 1, 10**18, 10**30, "0", None)),
    *(((*SLOT, "channels"), v) for v in (-1, 9, 10**12, 10**30, "8", None, [0])),
    *(((*SLOT, "repeat"), v) for v in (-1, 2, 10**12, 10**30, "1", None, 0)),
    *(((*SLOT, "role"), v) for v in (3, None, "boss")),
    *((("shapes",), v) for v in (None, [], {"stem.weight": 3}, {}, 1)),
    *((("shapes", "stem.weight"), v) for v in ([], [-8, 3, 3, 3], ["8", 3, 3, 3], [8.0, 3, 3, 3], None, [0, 3, 3, 3])),
    *(
        (("attributes",), v)
        for v in (None, [], {"stem": 3}, {"stem": {"groups": -1}}, {"stem": {"groups": "1"}}, {"stem": {"groups": 1.5}})
    ),
    *((("aliases",), v) for v in (None, [], 3, {"x": "nosuch"}, {"x": 3}, {"x": []}, {"stem.weight": "a.weight"})),
]


@pytest.mark.parametrize(("where", "value"), DAMAGE, ids=lambda v: str(v).replace(" ", "")[:40])
def test_damaged_plans_are_refused(plan: fxprune.Plan, where: tuple[Any, ...], value: Any) -> None:
    """Wrong types, negative and huge numbers: refused at once, by reading alone, without memory for what they claim."""
    with refused(fxprune.PlanError, "plan"):
        fxprune.Plan.from_json(damaged(plan, where, value))


def inflated(plan: fxprune.Plan, size: int, repeat: int = 1) -> str:
    """A plan file of a few hundred bytes all of whose numbers agree on a huge tensor."""
    data = json.loads(plan.to_json())
    slot = data["groups"][0]["slots"][0] | {"channels": size, "repeat": repeat}
    group = data["groups"][0] | {"size": size, "kept": [0], "slots": [slot]}
    shapes = {slot["tensor"]: [size * repeat, 3, 3, 3]}
    return json.dumps(data | {"groups": [group], "shapes": shapes, "orders": {}, "aliases": {}})


@pytest.mark.parametrize(("size", "repeat"), [(10**9, 1), (10**13, 1), (10**30, 1), (8, 10**9), (10**5, 10**5)])
def test_plans_whose_huge_numbers_agree_are_refused_without_memory(plan: fxprune.Plan, size: int, repeat: int) -> None:
    text = inflated(plan, size, repeat)
    assert fxprune.Plan.from_json(inflated(plan, 8)).kept_counts() == {"stem": 1}
    tracemalloc.start()
    try:
        with refused(fxprune.PlanError, "plan"):
            fxprune.Plan.from_json(text)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_plan_without_memory_to_read_it(plan: fxprune.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    text = plan.to_json()
    monkeypatch.setattr("numpy.repeat", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
    with refused(fxprune.PlanError, "not a plan", "MemoryError"):
        fxprune.Plan.from_json(text)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "3", '"plan"', "{" * 100_000, "[" * 100_000, "1" * 10_000])
def test_texts_that_are_no_plan(text: str) -> None:
    with refused(fxprune.PlanError, "not a plan"):
        fxprune.Plan.from_json(text)


@pytest.mark.parametrize(
    "attributes",
    [
        *({"stem": {name: 1}} for name in ("__class__", "forward", "weight")),
        *({"stem": {"groups": n}} for n in (0, 7, 10**30)),
        *({"bn": {"_version": n}} for n in (1, 2, 7)),
        {"": {"training": 0}},
    ],
)
def test_a_plan_sets_only_widths(net: Net, plan: fxprune.Plan, attributes: dict[str, dict[str, int]]) -> None:
    """A plan file from elsewhere can't replace methods, modes or tensors."""
    text = damaged(plan, ("attributes",), attributes)
    with refused(fxprune.PlanError, "plan"):
        fxprune.rewrite(net, fxprune.Plan.from_json(text))


def test_a_slot_listed_twice(net: Net, plan: fxprune.Plan) -> None:
    """Two groups that claim the same indices of a tensor."""
    data = json.loads(plan.to_json())
    data["groups"][1]["slots"].append(data["groups"][0]["slots"][1] | {"channels": 6})
    with refused(fxprune.PlanError, "plan"):
        fxprune.rewrite(net, fxprune.Plan.from_json(json.dumps(data)))


def test_a_group_listed_twice(plan: fxprune.Plan) -> None:
    data = json.loads(plan.to_json())
    data["groups"].append(data["groups"][0])
    with refused(fxprune.PlanError, "plan"):
        fxprune.Plan.from_json(json.dumps(data))


def test_every_error_is_an_fxprune_error_with_its_parts() -> None:
    error = fxprune.InputError("what", where="where", seen="seen", remedy="remedy")
    assert str(error) == "what in where; seen: seen; remedy: remedy"
    assert isinstance(error, fxprune.FxpruneError)
    assert isinstance(error, ValueError)
    assert (error.what, error.where, error.seen, error.remedy) == ("what", "where", "seen", "remedy")
    assert str(fxprune.PlanError("what")) == "what"


def test_what_is_no_model(net: Net) -> None:
    for wrong in (None, net.forward):
        with pytest.raises(fxprune.InputError, match=r"the model is not a torch.nn.Module; seen: (NoneType|method);"):
            fxprune.trace(wrong, X)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(3, 4))
    with pytest.raises(fxprune.InputError, match="a scripted module has no Python code to follow in 1; remedy: give"):
        fxprune.trace(nn.Sequential(nn.Linear(3, 3), scripted), torch.zeros(1, 3))


@pytest.mark.parametrize("make", [threading.Lock, lambda: (n for n in range(3)), lambda: [{"inner": threading.Lock()}]])
@pytest.mark.parametrize(
    "use",
    [
        lambda model, plan: fxprune.prune(model, X, 0.5),
        lambda model, plan: fxprune.rewrite(model, plan),
        lambda model, plan: fxprune.verify(model, plan, X),
    ],
    ids=["prune", "rewrite", "verify"],
)
def test_a_model_that_holds_what_cannot_be_copied(plan: fxprune.Plan, use: Use, make: Callable[[], Any]) -> None:
    model = CASES["residual"].build()
    model.bn.held = make()
    before = footprint(model)
    with refused(fxprune.InputError, "cannot be copied in bn.held", "cannot pickle", "take it off"):
        use(model, plan)
    assert footprint(model) == before


def test_verify_on_other_inputs(net: Net, plan: fxprune.Plan) -> None:
    with pytest.raises(fxprune.InputError, match=r"the model fails on the example inputs in Net; seen: .*99, 8, 8"):
        fxprune.verify(net, plan, torch.zeros(1, 99, 8, 8))


def asserting(m: Any, x: torch.Tensor) -> torch.Tensor:
    torch._assert(x.shape[1] == 3, "three colours")
    return m.b(m.a(x))


def refusing(m: Any, x: torch.Tensor) -> torch.Tensor:
    if x.shape[2] != 8:
        raise ValueError("eight rows")
    return m.b(m.a(x))


@pytest.mark.parametrize(
    ("run", "given", "seen"),
    [
        (asserting, (), "TypeError: .*missing 1 required positional argument"),
        (asserting, torch.zeros(1, 5, 8, 8), r"AssertionError: three colours \(inputs of shape .*1, 5, 8, 8"),
        (refusing, torch.zeros(1, 3, 9, 9), r"ValueError: eight rows \(inputs of shape .*1, 3, 9, 9"),
    ],
)
def test_verify_on_inputs_that_the_models_own_code_refuses(run: Any, given: Any, seen: str) -> None:
    model = Net(run, {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)})
    plan = groups_of(model).plan({"a": [0, 3]})
    with pytest.raises(fxprune.InputError, match=f"the model fails on the example inputs in Net; seen: {seen}"):
        fxprune.verify(model, plan, given)


def test_verify_with_a_hook_that_fails(net: Net, plan: fxprune.Plan) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("not me")

    handle = net.a.register_forward_hook(fail)
    with refused(fxprune.InputError, "the model fails on the example inputs", "ValueError: not me"):
        fxprune.verify(net, plan, X)
    handle.remove()


@pytest.mark.parametrize("name", ["1.running_var", "3.bias"])
def test_nan_that_a_comparison_would_draw_anew(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.rand(1, 3, 8, 8)
    plan = fxprune.prune(model, x, 0.5).plan
    model.state_dict()[name].fill_(float("nan"))
    for call in (lambda: fxprune.prune(model, x, 0.5), lambda: fxprune.verify(model, plan, x)):
        with refused(fxprune.InputError, "the model holds NaN", f"in {name}", "sound weights"):
            call()


@pytest.mark.parametrize("randomise", [False, True])
def test_verify_with_nan(randomise: bool) -> None:
    """In the example, and in the weights of the second layer; a blank example is drawn anew, the NaN stays."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    plan = groups_of(model, torch.zeros(1, 3, 8, 8)).plan({"0": [0, 3]})
    x = torch.rand(1, 3, 8, 8)
    x[0, 0, 0, 0] = float("nan")
    with refused(fxprune.InputError, "computes NaN", "first appears in the example inputs", "not finite"):
        fxprune.verify(model, plan, x, randomise=randomise)
    model[2].weight.data[1] = float("nan")
    for example in (torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)):
        with refused(fxprune.InputError, "the model holds NaN", "in 2.weight", "sound weights"):
            fxprune.verify(model, plan, example, randomise=randomise)
        with refused(fxprune.InputError, "the model holds NaN", "in 2.weight", "sound weights"):
            fxprune.prune(model, example, 0.5, scorer=fxprune.scorers.Random())


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=(2, 3), keepdim=True)),
        lambda m, x: m.b(m.a(x) / m.size),
        lambda m, x: m.b(m.a(x).abs().div_(m.size).log_()),
    ],
    ids=["norm", "buffer", "in place"],
)
def test_nan_that_only_the_mask_makes_is_no_bad_input(run: Any) -> None:
    """A masked channel is divided by zero; the pruned model has no such channel."""
    model = Net(run, {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)})
    model.register_buffer("size", torch.rand(8, 1, 1) + 0.5)
    deviation = fxprune.prune(model, X, 0.5).report.deviation
    assert deviation is not None
    assert deviation <= ROUNDING


@pytest.mark.parametrize("x", [X, X[0].to("meta")])
def test_meta_weights(x: Any) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3))
    with refused(fxprune.InputError, "a meta tensor holds no data", "the scores of 0", "load the model's weights"):
        fxprune.prune(model, x, 0.5)
    with refused(fxprune.InputError, "a meta tensor holds no data", "0.weight", "load the model's weights"):
        fxprune.prune(model, x, 0.5, scorer=fxprune.scorers.Random())
    small = fxprune.prune(model, x, 0.5, scorer=fxprune.scorers.Random(), verify=False).model
    assert small[0].weight.shape == (4, 3, 3, 3)


def test_verify_on_meta_inputs(net: Net, plan: fxprune.Plan) -> None:
    with refused(fxprune.InputError, "a meta tensor holds no data", "the example inputs"):
        fxprune.verify(net, plan, X[0].to("meta"))


def test_verify_does_not_blame_the_inputs_for_a_pruned_model_that_fails(
    net: Net, plan: fxprune.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("sizes do not fit")

    monkeypatch.setattr(reading, "mend", broken)
    with refused(fxprune.ProofError, "the pruned model fails where the full-size one runs", "sizes do not fit"):
        fxprune.verify(net, plan, X)


@pytest.mark.parametrize("kept", [[0.7, 1.2], ["0"], [[0, 1]], [True, False], np.zeros((2, 2), dtype=bool)])
def test_kept_channels_that_are_no_list_of_indices(net: Net, kept: Any) -> None:
    groups = groups_of(net)
    with pytest.raises(
        fxprune.InputError, match=r"kept channels are not a list of indices in .*; seen: .*; remedy: give"
    ):
        groups.plan({groups[0].name: kept})


def test_a_mask_of_booleans_is_a_choice(net: Net) -> None:
    groups = groups_of(net)
    name, size = groups[0].name, groups[0].size
    mask = [i % 2 == 1 for i in range(size)]
    assert groups.plan({name: mask}) == groups.plan({name: list(range(1, size, 2))})
    assert repr(groups).startswith(f"Groups({len(groups)} groups, ")


def test_names_that_fit_nothing(net: Net) -> None:
    name = groups_of(net)[0].name
    assert name not in groups_of_protected(net, name)
    with pytest.raises(fxprune.InputError, match="nothing has the ignored name; seen: nosuch"):
        groups_of_protected(net, "nosuch")
    with pytest.raises(fxprune.InputError, match="no module has the name or pattern; seen: nosuch"):
        fxprune.find_groups(fxprune.trace(net, X), heads={"nosuch": "num_heads"})


def groups_of_protected(net: Net, name: str) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(net, X), name)


def test_ratios_and_plans_of_other_types(net: Net) -> None:
    with pytest.raises(
        fxprune.InputError,
        match=r"the pruning ratio is not a number in \[0, 1\); seen: '0.5'; remedy: 0.5 removes half",
    ):
        fxprune.prune(net, X, "0.5")  # type: ignore[arg-type]
    with pytest.raises(
        fxprune.PlanError, match="the argument is not a plan; seen: Groups; remedy: give what a planner returns"
    ):
        fxprune.rewrite(net, groups_of(net))  # type: ignore[arg-type]


# Arguments of another kind


WRONG: dict[str, tuple[Callable[[Any, Any, Any], Any], type[fxprune.FxpruneError], str]] = {
    "find_groups(model)": (lambda m, g, p: fxprune.find_groups(m), fxprune.InputError, "give what fxprune.trace"),
    "cost(model)": (lambda m, g, p: fxprune.cost(m), fxprune.InputError, "give what fxprune.find_groups"),
    "cost(groups, groups)": (lambda m, g, p: fxprune.cost(g, g), fxprune.PlanError, "give what a planner returns"),
    "rewrite(None)": (lambda m, g, p: fxprune.rewrite(None, p), fxprune.InputError, "seen: NoneType"),
    "verify(None)": (lambda m, g, p: fxprune.verify(None, p, X), fxprune.InputError, "seen: NoneType"),  # type: ignore[arg-type]
    "mask(None)": (lambda m, g, p: fxprune.mask(None, p), fxprune.InputError, "seen: NoneType"),  # type: ignore[arg-type]
    "cut_state(model)": (lambda m, g, p: fxprune.cut_state(m, p), fxprune.InputError, "model.state_dict()"),
    "cut_state(lists)": (
        lambda m, g, p: fxprune.cut_state({"stem.weight": [1.0]}, p),  # type: ignore[dict-item]
        fxprune.InputError,
        "stem.weight is not of type Tensor; seen: list",
    ),
    "cut_state(groups)": (
        lambda m, g, p: fxprune.cut_state(m.state_dict(), g),
        fxprune.PlanError,
        "give what a planner returns",
    ),
    "ignored=None": (
        lambda m, g, p: fxprune.prune(m, X, 0.5, ignored=None),  # type: ignore[arg-type]
        fxprune.InputError,
        "this names no part of the model; seen: NoneType; remedy: give names or shell patterns",
    ),
    "ignored=[module]": (
        lambda m, g, p: fxprune.find_groups(g.graph, [nn.Conv2d(1, 1, 1)]),
        fxprune.InputError,
        "this names no part of the model; seen: Conv2d of another model; remedy: give a part of the model",
    ),
    "heads=None": (
        lambda m, g, p: fxprune.find_groups(g.graph, heads=None),  # type: ignore[arg-type]
        fxprune.InputError,
        "unknown choice of heads; seen: None",
    ),
    "heads={3}": (
        lambda m, g, p: fxprune.find_groups(g.graph, heads={3: "num_heads"}),  # type: ignore[dict-item]
        fxprune.InputError,
        "no module has the name or pattern; seen: 3",
    ),
    "plan([0])": (lambda m, g, p: g.plan([0]), fxprune.InputError, "give {group name: indices"),
    "plan(ragged)": (
        lambda m, g, p: g.plan({"stem": [[0], [1, 2]]}),
        fxprune.InputError,
        "kept channels are not a list of indices in stem",
    ),
    "ratio={0}": (
        lambda m, g, p: fxprune.prune(m, X, {0: 0.5}),
        fxprune.InputError,
        "this names no part of the model; seen: int; remedy: give names or shell patterns",
    ),
    "PerGroup({0})": (
        lambda m, g, p: fxprune.planners.PerGroup({0: 0.5})(g, fxprune.scorers.L2Norm()(m, g)),  # type: ignore[dict-item]
        fxprune.InputError,
        "a name of groups is not of type str; seen: int",
    ),
    "scorer=None": (
        lambda m, g, p: fxprune.prune(m, X, 0.5, scorer=lambda m, g, d: None),  # type: ignore[arg-type,return-value]
        fxprune.InputError,
        "what the scorer returns is not of type Mapping; seen: NoneType; remedy: return {name of a group",
    ),
    "planner(None)": (
        lambda m, g, p: fxprune.planners.Uniform(0.5)(g, None),  # type: ignore[arg-type]
        fxprune.InputError,
        "what the scorer gave is not of type Mapping",
    ),
    "notes={int}": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("never", notes={"a": 1}),  # type: ignore[dict-item]
        fxprune.InputError,
        "a note is not a text; seen: 'a': int",
    ),
    "save(None)": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save(None),  # type: ignore[arg-type]
        fxprune.InputError,
        "this is no path of a file or folder; seen: None",
    ),
    "save(nul)": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("a\0b"),
        fxprune.InputError,
        r"this is no path of a file or folder; seen: 'a\x00b'; remedy: give a name, or a pathlib.Path, without \0",
    ),
    "save(surrogate)": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("\ud800"),
        fxprune.InputError,
        r"this is no path of a file or folder; seen: '\ud800'",
    ),
    "save(long)": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("a" * 300),
        fxprune.errors.StorageError,
        "File name too long; remedy: give a shorter name",
    ),
    "plan.save(nul)": (lambda m, g, p: p.save("a\0b"), fxprune.InputError, "this is no path of a file or folder"),
    "plan.save(long)": (
        lambda m, g, p: p.save("a" * 300),
        fxprune.errors.StorageError,
        "File name too long; remedy: give a shorter name",
    ),
    "Plan.load(nul)": (
        lambda m, g, p: fxprune.Plan.load("a\0b"),
        fxprune.InputError,
        "this is no path of a file or folder",
    ),
    "load(long)": (
        lambda m, g, p: fxprune.load("a" * 300, m),
        fxprune.errors.StorageError,
        "File name too long; remedy: give a shorter name",
    ),
    "folder=long": (
        lambda m, g, p: fxprune.prune(m, X, evaluate=lambda m: 1.0, max_drop=0.1, folder="a" * 300),
        fxprune.errors.StorageError,
        "File name too long; remedy: give a shorter name",
    ),
    "notes={surrogate}": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("never", notes={"a": "\udcff"}),
        fxprune.InputError,
        "a note holds half a character; seen: in 'a'",
    ),
    "notes={large}": (
        lambda m, g, p: fxprune.prune(m, X, 0.5).save("never", notes={"a": "x" * 10**8}),
        fxprune.InputError,
        "the file has no place for this much text",
    ),
    "plan.save(3)": (
        lambda m, g, p: p.save(3),  # type: ignore[arg-type]
        fxprune.InputError,
        "this is no path of a file or folder; seen: 3",
    ),
    "load(None)": (
        lambda m, g, p: fxprune.load(None, m),  # type: ignore[arg-type]
        fxprune.InputError,
        "this is no path of a file or folder; seen: None",
    ),
    "folder=3": (
        lambda m, g, p: fxprune.prune(m, X, evaluate=lambda m: 1.0, max_drop=0.1, folder=3),  # type: ignore[arg-type]
        fxprune.InputError,
        "this is no path of a file or folder; seen: 3",
    ),
    "picture(report)": (
        lambda m, g, p: fxprune.report.picture(fxprune.prune(m, X, 0.5).report),  # type: ignore[arg-type]
        fxprune.InputError,
        "a report needs groups or a result; seen: Report",
    ),
    "repair(result)": (
        lambda m, g, p: fxprune.repair(m, fxprune.prune(m, X, 0.5), p, X),  # type: ignore[type-var]
        fxprune.InputError,
        "the pruned model is not of type Module; seen: Result; remedy: give a torch.nn.Module; of a result, its model",
    ),
    "reconstruct(result)": (
        lambda m, g, p: fxprune.reconstruct(m, fxprune.prune(m, X, 0.5), p, X),  # type: ignore[arg-type]
        fxprune.InputError,
        "the pruned model is not of type Module; seen: Result",
    ),
    "absorb(result)": (
        lambda m, g, p: fxprune.absorb_batchnorm(fxprune.prune(m, X, 0.5), X),  # type: ignore[arg-type]
        fxprune.InputError,
        "the model is not of type Module; seen: Result",
    ),
    "recalibrate(result)": (
        lambda m, g, p: fxprune.recalibrate_batchnorm(fxprune.prune(m, X, 0.5), X),  # type: ignore[arg-type]
        fxprune.InputError,
        "the model is not of type Module; seen: Result",
    ),
    "data=[meta]": (
        lambda m, g, p: fxprune.prune(m, X, macs=0.5, data=[X[0].to("meta")]),
        fxprune.InputError,
        "a meta tensor holds no data in batch 1 of the data; remedy: give batches that hold numbers",
    ),
    "data=[array]": (
        lambda m, g, p: fxprune.prune(m, X, macs=0.5, data=[(X[0].numpy(), 3)]),
        fxprune.InputError,
        "batch 1 of the data; seen: tuple of ndarray, int; remedy: make tensors of arrays: torch.as_tensor(array)",
    ),
    "unpack=": (
        lambda m, g, p: fxprune.prune(m, X, 0.5, unpack=lambda batch: batch),
        fxprune.InputError,
        "unpack= has nothing to unpack; seen: no data; remedy: give data= as well",
    ),
    "unpack=, data=Batches": (
        lambda m, g, p: fxprune.prune(m, X, 0.5, data=fxprune.Batches([X[0]]), unpack=lambda batch: batch),
        fxprune.InputError,
        "unpack= has nothing to unpack; seen: Batches, which have their own",
    ),
    "pickle(groups)": (lambda m, g, p: pickle.dumps(g), fxprune.InputError, "save the plan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_another_kind(net: Net, plan: fxprune.Plan, name: str) -> None:
    use, error, text = WRONG[name]
    with pytest.raises(error, match=re.escape(text)):
        use(net, groups_of(net), plan)


# Nonsense: the call, and what its one error says. All of these were accepted, or failed with an error of Python's.


def _scores(groups: fxprune.Groups) -> dict[str, torch.Tensor]:
    return {g.name: torch.arange(1.0, g.size + 1) for g in groups}


def _other_plan() -> fxprune.Plan:
    groups = groups_of(other_net())
    return fxprune.planners.Uniform(0.5)(groups, _scores(groups))


def _quiet(**settings: Any) -> Any:
    return S.Bisection(precision=0.5, progress=False, **settings)


A, P, S, R = fxprune.scorers, fxprune.planners, fxprune.search, fxprune.report
NAN, ARRAY, HALF = float("nan"), np.zeros(3), 0.5
NONSENSE: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "find_faulty_groups(None)": (
        lambda m, g, p: fxprune.find_faulty_groups(m, None, p, X),
        "given as groups is not of",
    ),
    "find_faulty_groups(plan)": (lambda m, g, p: fxprune.find_faulty_groups(m, p, g, X), "the argument is not a plan"),
    "heads=array": (lambda m, g, p: fxprune.find_groups(g.graph, heads=ARRAY), "seen: ndarray of shape (3,)"),
    "rewrite_code=": (
        lambda m, g, p: fxprune.find_groups(g.graph, rewrite_code="no"),
        "rewrite_code is neither True nor",
    ),
    "random_inputs(None)": (
        lambda m, g, p: fxprune.random_inputs(None, 2),
        "the example inputs hold no tensor; seen: None",
    ),
    "random_inputs(seed)": (
        lambda m, g, p: fxprune.random_inputs(X, seed=HALF),
        "the seed must be an integer of 64 bits",
    ),
    "round_to=array": (
        lambda m, g, p: fxprune.prune(m, X, macs=HALF, round_to=ARRAY),
        "round_to must be a positive int",
    ),
    "scorer=planner": (
        lambda m, g, p: fxprune.prune(m, X, HALF, scorer=P.Uniform(HALF)),
        "cannot be called with 3 arg",
    ),
    "scorer=model": (
        lambda m, g, p: fxprune.prune(m, X, HALF, scorer=nn.Linear(2, 2)),
        "the scorer cannot be called with 3 arguments",
    ),
    "planner=scorer": (
        lambda m, g, p: fxprune.prune(m, X, planner=lambda g: g),
        "the planner cannot be called with 2 arg",
    ),
    "tune=class": (lambda m, g, p: fxprune.prune(m, X, HALF, tune=A.L2Norm), "tune cannot be called with 1 argument"),
    "NISP(None)": (lambda m, g, p: A.NISP()(m, None), "given as groups is not of type Groups; seen: NoneType"),
    "GroupTaylor(None)": (lambda m, g, p: A.GroupTaylor()(m, None, [X[0]]), "given as groups is not of type Groups"),
    "JointElimination(None)": (lambda m, g, p: A.JointElimination()(m, None, [X[0]]), "given as groups is not of type"),
    "HessianDiagonal(None)": (lambda m, g, p: A.HessianDiagonal()(m, None, [X[0]]), "given as groups is not of type"),
    "OverMembers(None)": (lambda m, g, p: A.OverMembers(A.L1Norm())(m, None), "given as groups is not of type Groups"),
    "APoZ(None)": (
        lambda m, g, p: A.APoZ(None),
        "the threshold is not a number in [0, inf); seen: None; remedy: 0 counts",
    ),
    "ActivationEntropy(text)": (
        lambda m, g, p: A.ActivationEntropy("x"),
        "the number of bins must be an integer of at",
    ),
    "ActivationEntropy(nan)": (
        lambda m, g, p: A.ActivationEntropy(NAN),
        "the number of bins must be an integer of at least",
    ),
    "HessianDiagonal(seed)": (
        lambda m, g, p: A.HessianDiagonal(seed="x"),
        "the seed must be an integer of 64 bits; seen: 'x'",
    ),
    "HessianDiagonal(draws)": (
        lambda m, g, p: A.HessianDiagonal(draws=1.5),
        "the number of draws must be a positive integer",
    ),
    "Taylor(loss)": (lambda m, g, p: A.Taylor(loss=lambda outputs: 0), "the loss cannot be called with 2 arguments"),
    "WeightPermutation(seed)": (
        lambda m, g, p: A.WeightPermutation(seed=None),
        "the seed must be an integer of 64 bits",
    ),
    "WeightPermutation(array)": (
        lambda m, g, p: A.WeightPermutation(ARRAY),
        "unknown change of a kernel; seen: [0. 0. 0.]",
    ),
    "JointElimination(ridge)": (
        lambda m, g, p: A.JointElimination(ridge=None),
        "the ridge is not a number in (0, inf)",
    ),
    "RefitLoss(ridge)": (lambda m, g, p: A.RefitLoss(ridge="x"), "the ridge is not a number in (0, inf); seen: 'x'"),
    "SampledPermutation": (
        lambda m, g, p: A.SampledPermutation(samples=None),
        "the number of samples must be a positive",
    ),
    "SeedAverage(1.5)": (
        lambda m, g, p: A.SeedAverage(A.Random(), 1.5),
        "the number of seeds must be a positive integer",
    ),
    "TorchPruning(None)": (lambda m, g, p: A.TorchPruning(None), "the importance is not a function; seen: None"),
    "WeightedSum(3)": (lambda m, g, p: A.WeightedSum(3), "a weighted sum of no pairs; seen: 3"),
    "WeightedSum(text)": (
        lambda m, g, p: A.WeightedSum(((A.L1Norm(), "x"),)),
        "a weight is not a number in (-inf, inf)",
    ),
    "Normalised(planner)": (lambda m, g, p: A.Normalised(P.Uniform(HALF)), "what is combined cannot be called with 3"),
    "ThiNet(centred)": (lambda m, g, p: A.ThiNet(centred="no"), "centred is neither True nor False; seen: 'no'"),
    "ThiNet(seed)": (lambda m, g, p: A.ThiNet(seed=NAN), "the seed must be an integer of 64 bits; seen: nan"),
    "along(None)": (
        lambda m, g, p: A.along(None, g[0].slots[0]),
        "what a slot is of is not of type Tensor; seen: NoneType",
    ),
    "along(tensor, None)": (lambda m, g, p: A.along(X[0], None), "the slot is not of type Slot; seen: NoneType"),
    "makers(None)": (lambda m, g, p: A.makers(None, {}), "the group is not of type Group; seen: NoneType"),
    "per_channel(None)": (
        lambda m, g, p: A.per_channel(None, g[0].slots[0], 8),
        "what a slot is of is not of type Tensor",
    ),
    "per_channel(size)": (
        lambda m, g, p: A.per_channel(X[0], g[0].slots[0], None),
        "the number of channels must be a pos",
    ),
    "lasso_path(None)": (
        lambda m, g, p: A.lasso_path(None, None),
        "a LASSO needs a matrix and a vector; seen: None, None",
    ),
    "output_sensitivity(None)": (
        lambda m, g, p: A.output_sensitivity(None, [X[0]], ["stem.weight"]),
        "the model is not of",
    ),
    "output_sensitivity(m, None)": (
        lambda m, g, p: A.output_sensitivity(m, [X[0]], None),
        "are not several values",
    ),
    "ErrorCurve(None)": (
        lambda m, g, p: A.ErrorCurve(None, "x"),
        "an error curve needs an order and its errors; seen: None",
    ),
    "scores of booleans": (
        lambda m, g, p: P.Uniform(HALF)(g, {n: s > 2 for n, s in _scores(g).items()}),
        "scores are no real numbers in stem; seen: torch.bool",
    ),
    "complex scores": (
        lambda m, g, p: P.ErrorCurves(HALF)(g, {n: s * 1j for n, s in _scores(g).items()}),
        "scores are no real numbers in stem; seen: torch.complex64",
    ),
    "AtBudget(None)": (lambda m, g, p: P.AtBudget(None), "the family is not a function; seen: None"),
    "Budget(measure)": (
        lambda m, g, p: P.Budget(HALF, measure=A.L2Norm()),
        "the measure cannot be called with 1 argument",
    ),
    "Budget(constraints)": (
        lambda m, g, p: P.Budget(HALF, constraints=None),
        "the constraints is not of type Constraints",
    ),
    "Budget(tolerance)": (lambda m, g, p: P.Budget(HALF, tolerance=None), "the tolerance is not a number in [0, 1)"),
    "Budget(True)": (lambda m, g, p: P.Budget(True), "that may stay is not a number in (0, 1]; seen: True"),
    "ErrorCurves(weights)": (
        lambda m, g, p: P.ErrorCurves(HALF, weights=3),
        "the weights is not of type Mapping; seen: int",
    ),
    "ErrorCurves(curve)": (lambda m, g, p: P.ErrorCurves(HALF, curve=None), "curve is not a function; seen: None"),
    "ErrorCurves([0.5])": (lambda m, g, p: P.ErrorCurves([HALF]), "a limit is not of type Limit; seen: float"),
    "GlobalThreshold(None)": (lambda m, g, p: P.GlobalThreshold(HALF, normalise=None), "normalise is not a function"),
    "GlobalThreshold(pool)": (lambda m, g, p: P.GlobalThreshold(HALF, pool=3), "pool is not a function; seen: 3"),
    "PerGroup(0.5)": (lambda m, g, p: P.PerGroup(HALF), "pruning_ratios is not of type Mapping; seen: float"),
    "NearestOutput(text)": (lambda m, g, p: P.NearestOutput("x", [X[0]]), "the planners are no tuple; seen: 'x'"),
    "NearestOutput(planner)": (lambda m, g, p: P.NearestOutput(P.Uniform(HALF), [X[0]]), "the planners are no tuple"),
    "NearestOutput(data)": (lambda m, g, p: P.NearestOutput((P.Uniform(HALF),), 3), "the data cannot be iterated"),
    "NearestOutput(treat)": (
        lambda m, g, p: P.NearestOutput((P.Uniform(),), [X[0]], treat=3),
        "treat is not a function",
    ),
    "Constraints(minimum)": (lambda m, g, p: P.Constraints(minimum=None), "a minimum width must be a positive integer"),
    "Constraints(nan)": (
        lambda m, g, p: P.Constraints(minimum=NAN),
        "a minimum width must be a positive integer; seen: nan",
    ),
    "Constraints(1.5)": (
        lambda m, g, p: P.Constraints(minimum=1.5),
        "a minimum width must be a positive integer; seen: 1.5",
    ),
    "Constraints(ratio)": (
        lambda m, g, p: P.Constraints(max_pruning_ratio="x"),
        "max_pruning_ratio is not a number in",
    ),
    "Constraints(None)": (lambda m, g, p: P.Constraints(ignored=None), "the ignored names are not several values"),
    "Constraints({})": (lambda m, g, p: P.Constraints(ignored={"0": 3}), "the ignored names are not several values"),
    "Constraints([3])": (lambda m, g, p: P.Constraints(ignored=[3]), "an ignored name is not of type str; seen: int"),
    "units(None)": (
        lambda m, g, p: P.Constraints().units(None),
        "given as groups is not of type Groups; seen: NoneType",
    ),
    "fit(None)": (
        lambda m, g, p: P.Constraints().fit(g, None),
        "the wished widths is not of type Mapping; seen: NoneType",
    ),
    "keep_best(None)": (lambda m, g, p: P.keep_best(g, _scores(g), None), "the wished widths is not of type Mapping"),
    "nearest_output(None)": (
        lambda m, g, p: P.nearest_output(None, [p], [X[0], X[0]]),
        "the model is not of type Module",
    ),
    "nearest_output(plan)": (lambda m, g, p: P.nearest_output(m, p, [X[0]]), "the plans are not several values"),
    "nearest_output(data)": (
        lambda m, g, p: P.nearest_output(m, [p], None),
        "the data cannot be iterated; seen: NoneType",
    ),
    "nearest_output(limit)": (
        lambda m, g, p: P.nearest_output(m, [p], [X[0]], limit=-1),
        "limit must be a positive integer",
    ),
    "relative(None)": (lambda m, g, p: P.relative(None), "what is given as scores is not of type Tensor"),
    "same_shape(None)": (lambda m, g, p: P.same_shape(None), "the group is not of type Group; seen: NoneType"),
    "Bisection(tolerance)": (lambda m, g, p: S.Bisection(tolerance=None), "the tolerance is not a number in [0, inf)"),
    "Bisection(precision)": (lambda m, g, p: S.Bisection(precision="x"), "the precision is not a number in [1e-12, 1)"),
    "Bisection(family)": (lambda m, g, p: S.Bisection(family=None), "the family is not a function; seen: None"),
    "Bisection(acceptance)": (lambda m, g, p: S.Bisection(acceptance=None), "acceptance is not of type Acceptance"),
    "Bisection(seed)": (lambda m, g, p: S.Bisection(seed={}), "the seed must be an integer in [0, 2**64); seen: {}"),
    "Bisection(-1)": (lambda m, g, p: S.Bisection(seed=-1), "the seed must be an integer in [0, 2**64); seen: -1"),
    "MonotoneFit(nan)": (lambda m, g, p: S.MonotoneFit(confidence="x"), "the confidence is not a number in [0.5, 1)"),
    "BeeColony(None)": (
        lambda m, g, p: S.BeeColony(sources=None),
        "sources must be an integer of at least 2; seen: None",
    ),
    "BeeColony(cycles)": (
        lambda m, g, p: S.BeeColony(cycles=1.5),
        "cycles must be an integer of at least 0; seen: 1.5",
    ),
    "BeeColony(levels)": (
        lambda m, g, p: S.BeeColony(levels=float("inf")),
        "levels must be a positive integer; seen: inf",
    ),
    "BeeColony(nan)": (lambda m, g, p: S.BeeColony(sources=NAN), "sources must be an integer of at least 2; seen: nan"),
    "BeeColony(measure)": (lambda m, g, p: S.BeeColony(measure=3), "unknown measure of cost; seen: 3"),
    "CurveFitness(3)": (lambda m, g, p: S.CurveFitness(3), "the curves is not of type Mapping; seen: int"),
    "Acceptance": (lambda m, g, p: S.Acceptance(repeats=NAN), "repeats must be a positive integer; seen: nan"),
    "Workers(text)": (lambda m, g, p: S.Workers("x"), "the number of workers must be a positive integer; seen: 'x'"),
    "Workers(threads)": (lambda m, g, p: S.Workers(2, 1.5), "the number of threads must be a positive integer"),
    "Workers(backend)": (lambda m, g, p: S.Workers(2, 1, 3), "the backend is not of type str; seen: int"),
    "fastest(None)": (lambda m, g, p: S.fastest(None), "unknown measure of cost; seen: None"),
    "fastest(3)": (
        lambda m, g, p: S.fastest("macs", constraints=3),
        "the constraints is not of type Constraints; seen: int",
    ),
    "Progressive(step)": (lambda m, g, p: S.Progressive(step="x"), "step is not a number in (0, 1]; seen: 'x'"),
    "Progressive(method)": (
        lambda m, g, p: S.Progressive(method="x"),
        "the method is not of type LayerByLayer; seen: str",
    ),
    "LayerByLayer(memory)": (
        lambda m, g, p: S.LayerByLayer(memory="x"),
        "memory is not a number in [0, inf]; seen: 'x'",
    ),
    "LayerByLayer(seed)": (lambda m, g, p: S.LayerByLayer(seed=[]), "the seed must be an integer of 64 bits; seen: []"),
    "Accuracy(3)": (lambda m, g, p: S.Accuracy(3), "the data cannot be iterated; seen: int"),
    "evaluate=scorer": (
        lambda m, g, p: _quiet()(m, g, A.L2Norm()),
        "evaluate cannot be called with 1 argument; seen: L2N",
    ),
    "evaluate=model": (lambda m, g, p: _quiet()(m, g, m), "evaluate is a model, not a function of one; seen: Net"),
    "tune=model": (lambda m, g, p: _quiet()(m, g, lambda s: 1.0, tune=m), "tune is a model, not a function of one"),
    "search(scorer)": (
        lambda m, g, p: _quiet()(m, g, lambda s: 1.0, scorer=P.Uniform(HALF)),
        "the scorer cannot be called",
    ),
    "search(data)": (lambda m, g, p: _quiet()(m, g, lambda s: 1.0, data=3), "the data cannot be iterated; seen: int"),
    "search(resume)": (lambda m, g, p: _quiet()(m, g, lambda s: 1.0, resume="no"), "resume is neither True nor False"),
    "workers=None": (
        lambda m, g, p: _quiet()(m, g, lambda s: 1.0, workers=lambda f, jobs: None),
        "workers gave no results",
    ),
    "workers=lost": (
        lambda m, g, p: _quiet()(m, g, lambda s: 1.0, workers=lambda f, jobs: iter(())),
        "workers lost candidates, or made some of their own; seen: 0 results of 1 candidates",
    ),
    "fixed_rows(None)": (lambda m, g, p: R.fixed_rows(None), "given as groups is not of type Groups; seen: NoneType"),
    "fixed_table(None)": (lambda m, g, p: R.fixed_table(None), "given as groups is not of type Groups; seen: NoneType"),
    "fixed_table(examples)": (
        lambda m, g, p: R.fixed_table(g, examples=1.5),
        "examples must be an integer of at least 0",
    ),
    "group_rows(None)": (lambda m, g, p: R.group_rows(None), "given as groups is not of type Groups; seen: NoneType"),
    "group_rows(text)": (lambda m, g, p: R.group_rows(g, "x"), "the argument is not a plan; seen: str"),
    "group_rows(other)": (lambda m, g, p: R.group_rows(g, _other_plan()), "the plan is for another model"),
    "group_table(title)": (lambda m, g, p: R.group_table(g, title=5), "the title is not of type str; seen: int"),
    "members_table(None)": (lambda m, g, p: R.members_table(None), "the group is not of type Group; seen: NoneType"),
    "add_samplers(None)": (lambda m, g, p: fxprune.add_samplers(None, ["a"]), "the model is not of type Module"),  # type: ignore[type-var]
    "add_samplers(3)": (lambda m, g, p: fxprune.add_samplers(m, [3]), "this names no part of the model; seen: int"),  # type: ignore[list-item]
    "cut_state(numbers)": (
        lambda m, g, p: fxprune.cut_state({0: X}, p),  # type: ignore[dict-item]
        "a name in the state is not of type str; seen: int",
    ),
    "reconstruct(ridge)": (
        lambda m, g, p: fxprune.reconstruct(m, fxprune.rewrite(m, p), p, [X], ridge="x"),  # type: ignore[arg-type]
        "the ridge is not a number in [0, inf); seen: 'x'",
    ),
    "reconstruct(memory)": (
        lambda m, g, p: fxprune.reconstruct(m, fxprune.rewrite(m, p), p, [X], memory=None),  # type: ignore[arg-type]
        "memory is not a number in (0, inf); seen: None",
    ),
    "GroupLasso(True)": (
        lambda m, g, p: fxprune.sparsity.GroupLasso(g, True),
        "is not a number in [0, inf); seen: True",
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_gets_one_clear_error(net: Net, plan: fxprune.Plan, name: str) -> None:
    use, text = NONSENSE[name]
    with pytest.raises((fxprune.InputError, fxprune.PlanError), match=re.escape(text)):
        use(net, groups_of(net), plan)


def test_numbers_and_flags_of_numpy_are_numbers_and_flags(net: Net) -> None:
    groups = groups_of(net)
    rules = P.Constraints(np.int64(2), np.int32(1), np.float32(0.5))
    wanted = P.Uniform(np.float64(0.5), rules)(groups, _scores(groups)).kept_counts()  # type: ignore[arg-type]
    assert wanted == P.Uniform(0.5, P.Constraints(2, 1, 0.5))(groups, _scores(groups)).kept_counts()
    assert torch.equal(A.Random(np.int64(3))(net, groups)["stem"], A.Random(3)(net, groups)["stem"])  # type: ignore[arg-type]
    assert P.Budget(0.5, strict=np.bool_(False)) == P.Budget(0.5, strict=False)  # type: ignore[arg-type]


def test_modules_whose_names_hold_brackets_are_found() -> None:
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model = nn.Sequential()
    model.add_module("a[0]", inner)
    graph = fxprune.trace(model, torch.zeros(1, 4))
    assert [g.name for g in fxprune.find_groups(graph)] == ["a[0].0"]
    for ignored in ("a[0]", inner, inner[0]):
        assert len(fxprune.find_groups(graph, [ignored])) == 0


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"only": "8"}, ["what has the name or pattern is fixed; seen: 8: model output", 'groups.why("8") tells more']),
        ({"pruning_ratio": {"8": 0.5}}, ["is fixed; seen: 8: model output"]),
        ({"only": "0", "ignored": "0"}, ["seen: 0: ignored by the caller ('0')", "remedy: take it out of ignored="]),
        ({"only": "1"}, ["makes no channels of its own; seen: 1; remedy: give the group: 0"]),
        ({"only": "2"}, ["no prunable group has the name or pattern; seen: 2"]),
    ],
)
def test_names_of_what_cannot_lose_channels_are_told_why(options: Any, texts: list[str]) -> None:
    with refused(fxprune.InputError, *texts):
        fxprune.prune(line(), torch.rand(1, 3, 8, 8), **{"pruning_ratio": 0.5, **options})


def test_why_a_module_without_parameters_has_no_groups() -> None:
    groups = groups_of(line(), torch.rand(1, 3, 8, 8))
    with refused(fxprune.InputError, "the module has no parameters in 2; seen: ReLU; remedy: ask for the layer"):
        groups.why("2")
    with refused(fxprune.InputError, "nothing in the model has the name; seen: 20"):
        groups.why("20")


def test_ratios_of_modules_and_groups() -> None:
    model, x = line(), torch.rand(1, 3, 8, 8)
    group = groups_of(model, x)["3"]
    assert fxprune.prune(model, x, {model[0]: 0.5, group: 0.25}).report.kept == {"0": 4, "3": 12}


def line() -> nn.Sequential:
    first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    second = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def test_groups_can_be_copied_in_memory(net: Net) -> None:
    groups = groups_of(net)
    for again in (copy.copy(groups), copy.deepcopy(groups)):
        assert [g.name for g in again] == [g.name for g in groups]
        assert again.plan({"stem": [1, 2]}) == groups.plan({"stem": [1, 2]})
    assert copy.copy(groups).graph is groups.graph
    assert fxprune.cost(copy.deepcopy(groups)) == fxprune.cost(groups)


def test_planned_groups_can_be_compared(plan: fxprune.Plan, net: Net) -> None:
    one, other = plan.groups["stem"], groups_of(net).plan({}).groups["stem"]
    assert one != other
    assert {one, other, one} == {other, one}
