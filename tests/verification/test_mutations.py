"""Every slot of every group is proven: two channels of one slot exchanged read more than 1e-5, the right plan rounding.

The exchanged channels may both stay, or one of them may go. A kind of network is here for each way in which a wrong
slot can hide: statistics, damped signals, grids, shared tensors, divisors, code that reads tensors past their modules.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nets import CASES, Case, Net
from oracle import ROUNDING, WRONG, deviation, random_plan, without_mixed
from torch import Tensor, nn

import fxprune
from fxprune.verification.judgement import Question
from fxprune.verification.numbers import Numbers, Precision
from fxprune.verification.reading import Twin


def norm_between() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model, torch.rand(2, 3, 9, 9)


def own_norm() -> tuple[nn.Module, Tensor]:
    """A frozen norm: buffers, and no module of PyTorch's that reads them."""
    model = Net(
        lambda m, x: m.b(((m.a(x) - m.mean) / (m.variance + 1e-5).sqrt()).abs()),
        {"a": nn.Conv2d(3, 8, 3, bias=False), "b": nn.Conv2d(8, 4, 3)},
    )
    for name in ("mean", "variance"):
        model.register_buffer(name, torch.rand(8, 1, 1) + 0.5)
    return model, torch.rand(2, 3, 9, 9)


def divisor() -> tuple[nn.Module, Tensor]:
    model = Net(lambda m, x: m.b(m.a(x) / m.size), {"a": nn.Linear(3, 8), "b": nn.Linear(8, 4)})
    model.register_buffer("size", torch.rand(8) + 0.5)
    return model, torch.rand(5, 3)


def divisor_of_many() -> tuple[nn.Module, Tensor]:
    """A wide layer reads it, whose product with what both models have in common is computed once."""
    model = Net(lambda m, x: m.b(m.a(x) / m.size), {"a": nn.Linear(3, 16), "b": nn.Linear(16, 64)})
    model.register_buffer("size", torch.rand(16) + 0.5)
    return model, torch.rand(2, 3)


def chain() -> tuple[nn.Module, Tensor]:
    """Deep, narrow and without norms: the signal of the first layers is gone at the end."""
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(30))), torch.rand(2, 8)


def tanh_chain() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(6, 6), nn.Tanh()))), torch.rand(3, 6)


def residual() -> tuple[nn.Module, Tensor]:
    parts = {"stem": nn.Conv2d(3, 8, 3), "a": nn.Conv2d(8, 6, 1), "n": nn.BatchNorm2d(6), "b": nn.Conv2d(6, 8, 1)}
    model = Net(lambda m, x: m.out((y := m.stem(x)) + m.b(m.n(m.a(y)).relu())), {**parts, "out": nn.Conv2d(8, 4, 1)})
    return model, torch.rand(1, 3, 8, 8)


def depthwise() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)]
    return nn.Sequential(*layers, nn.ReLU6(), nn.Conv2d(8, 4, 1)), torch.rand(1, 3, 8, 8)


def grouped() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3), nn.Conv2d(12, 4, 1)
    ), torch.rand(1, 3, 8, 8)


def flattened() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.BatchNorm1d(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 4)), torch.rand(3, 3, 6, 6)


def transposed() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.PReLU(8), nn.Conv2d(8, 4, 1)), torch.rand(1, 3, 5, 5)


def read_past_modules() -> tuple[nn.Module, Tensor]:
    """Weights that no module's own forward reads."""
    model = Net(
        lambda m, x: torch.einsum("...i,oi->...o", (x @ m.a.weight.T + m.a.bias).relu(), m.b.weight),
        {"a": nn.Linear(3, 8), "b": nn.Linear(8, 4)},
    )
    return model, torch.rand(5, 3)


def insists_on_a_type() -> tuple[nn.Module, Tensor]:
    model = Net(lambda m, x: m.b(m.a(x).float().relu()), {"a": nn.Linear(3, 8), "b": nn.Linear(8, 4)})
    return model, torch.rand(5, 3)


def dead_filters() -> tuple[nn.Module, Tensor]:
    """Some of its scales are zero, as training leaves them."""
    model, x = norm_between()
    model[1].weight.data[2:] = 0
    return model, x


NETS: list[Callable[[], tuple[nn.Module, Any]]] = [
    *(
        norm_between,
        own_norm,
        divisor,
        divisor_of_many,
        chain,
        tanh_chain,
        residual,
        depthwise,
        grouped,
        flattened,
        transposed,
    ),
    *(read_past_modules, insists_on_a_type, dead_filters),
]


def exchanged(plan: fxprune.Plan, name: str, at: int, a: int, b: int) -> fxprune.Plan:
    """The plan that takes channel a for channel b in one slot, and b for a."""
    planned = plan.groups[name]
    other = np.arange(planned.size)
    other[[a, b]] = other[[b, a]]
    slots = list(planned.slots)
    slots[at] = replace(slots[at], channels=other[slots[at].channels])
    return replace(plan, groups={**plan.groups, name: replace(planned, slots=tuple(slots))})


def permuted(plan: fxprune.Plan, name: str, at: int, a: int, b: int) -> fxprune.Plan:
    """The plan that puts channels a and b, which both stay, in each other's place in one slot."""
    slot = plan.groups[name].slots[at]
    order = plan.cuts()[slot.tensor][slot.dim].copy()
    i, j = (np.flatnonzero(np.isin(order, slot.positions[slot.channels == c])) for c in (a, b))
    order[i], order[j] = order[j], order[i]
    return replace(plan, orders={**plan.orders, slot.tensor: {**plan.orders.get(slot.tensor, {}), slot.dim: order}})


def mutants(plan: fxprune.Plan) -> Iterator[tuple[str, fxprune.Plan]]:
    """Of many groups, the first two, one in the middle, and the last."""
    names = list(plan.groups)
    for name in names if len(names) < 5 else [*names[:2], names[len(names) // 2], names[-1]]:
        planned = plan.groups[name]
        gone = np.setdiff1d(np.arange(planned.size), planned.kept)
        if not len(gone) or len(planned.kept) < 2:
            continue
        for at, slot in enumerate(planned.slots):
            yield f"{slot} of {name}: one goes", exchanged(plan, name, at, int(planned.kept[0]), int(gone[0]))
            yield f"{slot} of {name}: both stay", permuted(plan, name, at, *map(int, planned.kept[[0, -1]]))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("third", [0, 1, 2])
@pytest.mark.parametrize("build", NETS, ids=lambda f: f.__name__)
def test_no_slot_is_unproven(build: Callable[[], tuple[nn.Module, Any]], third: int) -> None:
    model, x = build()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert len(groups)
    plan = random_plan(model, groups, 0.4)
    assert fxprune.verify(model, plan, x) <= ROUNDING
    tried = list(mutants(plan))[third::3]
    assert tried
    assert [what for what, wrong in tried if fxprune.verify(model, wrong, x) <= WRONG] == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_no_slot_of_a_toy_network_is_unproven(case: Case) -> None:
    """Without groups that are mixed: there, pruned and masked differ anyway. A dead channel is as good as another."""
    model, x, groups = case.build(), case.inputs(2), case.analysed(2)
    plan = without_mixed(groups, random_plan(model, groups, 0.4))
    assert fxprune.verify(model, plan, x) <= ROUNDING
    missed = [(what, wrong) for what, wrong in mutants(plan) if fxprune.verify(model, wrong, x) <= WRONG]
    assert [what for what, wrong in missed if deviation(model, wrong, x) > 1e-14] == []


def test_of_a_batch_of_maps_one_is_kept() -> None:
    """The results of modules are held until they are compared; one of a batch shows as much as all."""
    model, x = norm_between()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    question = Question(model, random_plan(model, groups, 0.4))
    numbers = Numbers(model, question.plan, 0, Precision.DOUBLE)
    shapes = [tuple(t.shape) for _, t in Twin(model, numbers, "masked", lazy=True).run(((x.double(),), {}), 0)]
    assert shapes == [(1, 8, 7, 7), (1, 8, 7, 7), (1, 4, 5, 5), (2, 4, 5, 5)]
