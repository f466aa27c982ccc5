"""The oracle would notice: a plan with two kept channels of one slot exchanged is far from the masked model.

If it were blind somewhere, "pruned equals masked" would prove nothing there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision_models as tv
from nets import CASES, Case, Net
from oracle import ROUNDING, WRONG, random_plan, without_mixed
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fxprune

SMALL = ["resnet18", "mobilenet_v2", "googlenet", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x0_5"]
EVERY = [n for n in tv.names() if not n.startswith("quantized")]  # those are the same networks


def swapped(plan: fxprune.Plan, group: str, at: int) -> fxprune.Plan | None:
    """The plan with two kept channels exchanged in one slot; None where fewer than two stay or none goes."""
    planned = plan.groups[group]
    slot = planned.slots[at]
    if not 2 <= len(planned.kept) < planned.size:
        return None
    a, b = (slot.positions[np.flatnonzero(slot.channels == planned.kept[i])[0]] for i in (0, -1))
    order = plan.cuts()[slot.tensor][slot.dim].copy()
    i, j = (np.flatnonzero(order == position)[0] for position in (a, b))
    order[[i, j]] = order[[j, i]]
    return replace(plan, orders={**plan.orders, slot.tensor: {**plan.orders.get(slot.tensor, {}), slot.dim: order}})


def mutants(plan: fxprune.Plan, names: list[str]) -> Iterator[tuple[str, fxprune.Plan]]:
    """A wrong plan for each producing or consuming slot of the named groups, and for their norms."""
    for name in names:
        for at, slot in enumerate(plan.groups[name].slots):
            wrong = swapped(plan, name, at)
            if wrong is not None:
                yield f"{slot} of group {name}", wrong


def ends_and_middle(names: list[str]) -> list[str]:
    return list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))


def blind_spots(
    model: nn.Module,
    plan: fxprune.Plan,
    names: list[str],
    x: Any,
    most: int,
    among: set[str] | None = None,
    third: int | None = None,
) -> list[str]:
    """The mutants that `verify` takes for right ones; of each group `most` slots are tried, the first and last.

    With `among`, no other mutants are tried; with `third`, every third slot.
    """
    found = []
    for name in names:
        tried = list(mutants(plan, [name]))
        assert tried, f"group {name} has no mutant, so nothing is proven of it"
        tried = tried if third is None else tried[third::3]
        for what, wrong in tried if len(tried) <= most else [*tried[: -(-most // 2)], *tried[len(tried) - most // 2 :]]:
            if among is not None and what.partition(":")[0] not in among:
                continue
            error = fxprune.verify(model, wrong, x)
            if error <= WRONG:
                found.append(f"{what}: {error:.1e}")
    return found


def check(name: str, most: int, size: int | None = None) -> None:
    """`size`: of images that are smaller than the example."""
    torch.manual_seed(0)
    model = tv.build(name)
    if name.startswith("maskrcnn"):  # untrained it finds no object, and its masks' layers would see no data
        model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 4
    x = tv.example(name, size=size)
    graph = fxprune.trace(model, x)
    groups = fxprune.find_groups(graph)
    if mixed := [g.name for g in groups if g.mixed_by]:
        groups = fxprune.find_groups(graph, ignored=mixed)
    assert len(groups)
    plan = random_plan(model, groups, 0.5)
    # Optical flow is refined in twelve rounds, each of which magnifies the rounding of those before.
    assert fxprune.verify(model, plan, x) <= (WRONG if tv.family(name) == "optical flow" else ROUNDING)
    pruned = [g.name for g in groups if g.size > 2]  # of two channels one stays, and one has no order
    assert blind_spots(model, plan, ends_and_middle(pruned), x, most) == []


@pytest.mark.parametrize("name", SMALL)
def test_torchvision(name: str) -> None:
    check(name, most=2, size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_all_of_torchvision(name: str) -> None:
    """A slot of the first, a middle and the last group, whose plans are wrong in nothing else."""
    check(name, most=1)


# Slots whose order does not matter to the net, or not to its evaluation: no oracle could see them exchanged.
EQUIVALENT = {
    "sum_of_channels": "of group b",  # the sum does not care
    "group_norm_each": "a.bias",  # the norm subtracts it
    "instance_norm": "a.bias",
    "single_head_attention": "k.bias",  # a softmax does not see what is added to a whole row
}


# Nets without a mutant, and why.
PAIR = "of two channels one stays, and one channel has no order"
MIXED = "a norm or product runs over the only group, where pruned and masked differ as they should"
UNTOUCHED = "nothing can be pruned"
NO_MUTANT = {
    "depthwise_on_input": PAIR,
    **dict.fromkeys(["group_norm_by_width", "group_norm_all", "layer_norm_channels_last", "rms_norm"], MIXED),
    **dict.fromkeys(["unit_gates", "product_of_positive_features"], MIXED),
}
# A third is taken of every group, but where that leaves tied groups whole.
RATIOS = {"multihead_attention": 0.5}


def why_not(groups: fxprune.Groups) -> str | None:
    """Why a net has no mutant."""
    if not len(groups):
        return UNTOUCHED
    if all(g.mixed_by for g in groups):
        return MIXED
    return PAIR if all(g.mixed_by or g.size == 2 for g in groups) else None


@pytest.mark.one_in(2)
@pytest.mark.parametrize("third", [0, 1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=lambda c: c.name)
def test_toy_networks(case: Case, third: int) -> None:
    """Every third slot of every group of more than two channels; three draws, for small ReLU layers may be dead.

    What one draw has shown needs no other.
    """
    excused = EQUIVALENT.get(case.name)
    blind: set[str] | None = None
    for seed in range(3):
        model, x, groups = case.build(seed), case.inputs(2, seed), case.analysed(2, seed)
        assert why_not(groups) == NO_MUTANT.get(case.name)
        plan = without_mixed(groups, random_plan(model, groups, RATIOS.get(case.name, 0.34)))
        spots = blind_spots(model, plan, [g.name for g in groups if not g.mixed_by and g.size > 2], x, 99, blind, third)
        blind = {s.partition(":")[0] for s in spots if excused is None or excused not in s}
        if not blind:
            break
    assert not blind


def test_a_group_without_a_mutant_is_not_taken_for_proven() -> None:
    case = CASES["residual"]
    model, x = case.build(), case.inputs()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    with pytest.raises(AssertionError, match="group a has no mutant"):
        blind_spots(model, random_plan(model, groups, 0.0), ["a"], x, most=1)


@pytest.mark.parametrize("name", ["residual", "depthwise", "dense"])
def test_removing_another_channel_than_planned(name: str) -> None:
    """One slot keeps another channel than the rest of its group."""
    case = CASES[name]
    model, x = case.build(), case.inputs(2)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = random_plan(model, groups, 0.5)
    g = groups[0]
    kept, gone = plan.groups[g.name].kept[0], min(set(range(g.size)) - set(plan.groups[g.name].kept.tolist()))
    channels = g.slots[0].channels.copy()
    channels[[kept, gone]] = channels[[gone, kept]]
    slots = (replace(g.slots[0], channels=channels), *g.slots[1:])
    wrong = replace(plan, groups={**plan.groups, g.name: replace(plan.groups[g.name], slots=slots)})
    assert fxprune.verify(model, wrong, x) > WRONG


def test_a_slot_that_is_read_in_training_alone() -> None:
    """A plan that forgot an auxiliary head: the pruned model evaluates, but does not train."""

    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out, self.head = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x).relu()
            return (self.out(x), self.head(x)) if self.training else self.out(x)

    model, x = WithHead(), torch.rand(2, 4)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"stem": [0, 2, 3]})
    assert fxprune.verify(model, plan, x) <= ROUNDING
    planned = plan.groups["stem"]
    known = tuple(s for s in planned.slots if s.tensor != "head.weight")
    assert len(known) == len(planned.slots) - 1
    forgetful = replace(plan, groups={"stem": replace(planned, slots=known)})
    assert fxprune.verify(model, forgetful, x) == float("inf")


def convolution_and_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


@pytest.mark.parametrize("blank", [torch.zeros, torch.ones])
def test_blank_examples(blank: Any) -> None:
    """A black image makes no channel differ from another; `verify` draws its own, unless told to take it as it is."""
    model, x = convolution_and_norm(), blank(1, 3, 8, 8)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    assert fxprune.verify(model, plan, x) <= ROUNDING
    assert len(list(mutants(plan, ["0"]))) == 6
    assert blind_spots(model, plan, ["0"], x, most=99) == []
    assert min(fxprune.verify(model, wrong, x, randomise=False) for _, wrong in mutants(plan, ["0"])) <= ROUNDING


@pytest.mark.parametrize("types", [{torch.float32}, {torch.float32, torch.float64}])
def test_a_model_that_takes_blank_examples_only(types: set[torch.dtype]) -> None:
    """The example is then taken as it is, also where the model insists on its precision as well."""

    def run(m: Any, x: Tensor) -> Tensor:
        if bool(x.any()) or x.dtype not in types:
            raise KeyError("not black, or of the wrong type")
        return m.net(x + 0.5)

    model, x = Net(run, {"net": convolution_and_norm()}), torch.zeros(1, 3, 8, 8)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    assert fxprune.verify(model, plan, x) <= (ROUNDING if torch.float64 in types else WRONG)
    reader = next(wrong for what, wrong in mutants(plan, ["net.0"]) if what.startswith("net.3.weight"))
    assert fxprune.verify(model, reader, x) > WRONG


def test_infinities_hide_nothing() -> None:
    """Outputs that are infinite in both models; the finite ones are compared by their own size."""
    parts = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)}
    model = Net(lambda m, x: m.b(m.a(x).relu()).masked_fill(torch.eye(4, dtype=torch.bool), float("-inf")), parts)
    x = torch.rand(1, 3, 8, 8)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    assert fxprune.verify(model, plan, x) <= ROUNDING
    assert blind_spots(model, plan, ["a"], x, most=99) == []


class Roundings(TorchFunctionMode):
    """Notes the types of the numbers that convolutions work on."""

    def __init__(self) -> None:
        super().__init__()
        self.types = list[torch.dtype]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def types_of_proof(run: Any, parts: Mapping[str, nn.Module]) -> set[torch.dtype]:
    """What the proof of a plan is computed in; a wrong plan is found in any case."""
    model, x = Net(run, {"net": convolution_and_norm(), **parts}).eval(), torch.rand(1, 3, 8, 8)
    plan = random_plan(model, fxprune.find_groups(fxprune.trace(model, x)), 0.5)
    with Roundings() as seen:
        assert fxprune.verify(model, plan, x) <= ROUNDING
    assert blind_spots(model, plan, ["net.0"], x, most=99) == []
    return set(seen.types)


def test_what_is_equal_to_the_last_bit_needs_no_float64() -> None:
    assert types_of_proof(lambda m, x: m.net(x), {}) == {torch.float32}


def test_convolutions_in_groups_need_no_float64_either() -> None:
    parts = {"b": nn.Conv2d(4, 8, 3, groups=4), "c": nn.Conv2d(8, 12, 1, groups=2), "d": nn.Conv2d(12, 3, 1)}
    assert types_of_proof(lambda m, x: m.d(m.c(m.b(m.net(x)).relu())), parts) == {torch.float32}


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_what_is_narrower_than_float32_is_compared_in_float64(narrow: torch.dtype) -> None:
    """There, numbers that differ are often equal."""
    assert torch.float64 in types_of_proof(lambda m, x: m.net(x.to(narrow).float()), {})
    assert torch.float64 in types_of_proof(lambda m, x: m.net(x), {"unused": nn.Linear(4, 4).to(narrow)})


def test_autocast_is_compared_in_float64() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.net(x)

    assert torch.float64 in types_of_proof(run, {})


def test_a_bias_that_is_also_read_by_itself() -> None:
    """Before the layer that it belongs to; the proof gives it one kind of numbers all the same."""
    parts = {"a": nn.Linear(5, 12), "b": nn.Linear(12, 24), "c": nn.Linear(24, 12), "d": nn.Linear(12, 10)}

    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.a(x)
        return m.d(x + m.c.bias), m.d(m.c(m.b(x).relu()))

    model, x = Net(run, parts).eval(), torch.randn(2, 5)
    plan = fxprune.prune(model, x, 0.5).plan
    assert {"a", "b"} <= plan.groups.keys()
    assert fxprune.verify(model, plan, x) <= ROUNDING
    assert blind_spots(model, plan, ["b"], x, most=99) == []


def test_the_mutation_is_a_mutation() -> None:
    case = CASES["residual"]
    model = case.build()
    groups = fxprune.find_groups(fxprune.trace(model, case.inputs()))
    plan = random_plan(model, groups, 0.5)
    wrong = swapped(plan, "a", 0)
    assert wrong is not None
    assert wrong != plan
    right, mutated = (fxprune.rewrite(model, p).a.weight for p in (plan, wrong))
    assert right.shape == mutated.shape
    assert torch.equal(right[[2, 1, 0]], mutated)


class Product(nn.Module):
    """A linear layer by ops that are computed with the masked channels: sums come in another order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] * self.weight).sum(1)


def test_rounding_is_not_magnified_where_the_example_hardly_varies() -> None:
    """BatchNorm behind BatchNorm, on a single vector: there is no variance to divide by."""
    layers = [m for _ in range(12) for m in (Product(100), nn.BatchNorm1d(100), nn.Hardswish())]
    model, x = nn.Sequential(*layers, nn.Linear(100, 3)).eval(), torch.rand(1, 100)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = fxprune.planners.Uniform(0.37)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert fxprune.verify(model, plan, x) < 1e-10


class Averaged(nn.Module):
    """A block whose tokens attend to each other nearly alike, between norms that make up for any scale (Swin v2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        x = x + self.norm(self.shared(mean + 1e-3 * (x - mean)))
        return x + self.norm(self.down(self.up(x).relu()))


def test_rounding_is_not_magnified_where_tokens_are_nearly_alike() -> None:
    """To take the mean from them, layer by layer, leaves their rounding: this read 0.6 on a Swin v2."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Averaged(24) for _ in range(8)), nn.Linear(24, 3)).eval(), torch.rand(1, 16, 24)
    everything = fxprune.find_groups(fxprune.trace(model, x))
    groups = fxprune.find_groups(everything.graph, [g.name for g in everything if g.mixed_by])
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert len(plan.groups) == 8
    assert fxprune.verify(model, plan, x) < 1e-10
