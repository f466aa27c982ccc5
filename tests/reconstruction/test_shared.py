"""Refits that share statistics, and refits that run their original once, against those that compute all anew."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from footprints import no_footprints
from nets import CASES
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.readers import readers_of
from fxprune.reconstruction.shared import sharing
from fxprune.scorers import Informative, L2Norm
from tests.reconstruction.test_reconstruct import NETWORKS, halves

MIXING = "group_norm_by_groups group_norm_by_width group_norm_all layer_norm_channels_last rms_norm"


def attempts(model: nn.Module, x: Any) -> Iterator[fxprune.Plan]:
    """One group after another, cut to half."""
    groups = fxprune.find_groups(fxprune.trace(model, x))
    kept = {n: g.kept for n, g in fxprune.planners.Uniform(0.5)(groups, L2Norm()(model, groups)).groups.items()}
    for g in groups:
        together = next((tie for tie in groups.ties if g.name in tie), {g.name})
        yield groups.plan({n: kept[n] for n in together})


def weights(model: nn.Module, plan: fxprune.Plan, data: Any, **options: Any) -> dict[str, Tensor]:
    small = fxprune.rewrite(model, plan)
    fxprune.reconstruct(model, small, plan, data, **options)
    return small.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("positions", [3, Informative(2), None])
@pytest.mark.parametrize("name", [*NETWORKS.split(), *MIXING.split()])
def test_sharing_changes_nothing(name: str, positions: Any) -> None:
    case = CASES[name]
    model = case.build().double()
    x = tuple(t.double() for t in case.inputs(12))
    halves_of = [tuple(t[i : i + 6] for t in x) for i in (0, 6)]
    data = [(part,) if len(x) > 1 else part[0] for part in halves_of]
    plans = [plan for plan in attempts(model, x) if readers_of(plan)]
    alone = [weights(model, plan, data, positions=positions) for plan in plans]
    names = [s.tensor for g in fxprune.find_groups(fxprune.trace(model, x)) for s in g.consumers]
    with no_footprints(model), sharing(model, names, data):
        together = [weights(model, plan, data, positions=positions) for plan in plans]
    for a, b in zip(alone, together, strict=True):
        equal(a, b)


class Counted(nn.Module):
    """Blocks that are added to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        x = self.stem(x).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


def counted() -> tuple[Any, list[Tensor]]:
    torch.manual_seed(0)
    return Counted().double().eval(), [torch.randn(5, 3, 7, 7, dtype=torch.float64) for _ in range(3)]


def runs(model: Any, work: Any) -> int:
    """How often the original runs."""
    before = Counted.forward
    seen = 0

    def forward(self: Any, x: Tensor) -> Tensor:
        nonlocal seen
        seen += self is model and not x.is_meta
        return before(self, x)

    Counted.forward = forward  # type: ignore[method-assign]
    try:
        work()
    finally:
        Counted.forward = before  # type: ignore[method-assign]
    return seen


def test_the_original_runs_once_on_each_batch() -> None:
    model, data = counted()
    plan = halves(model, data[0])
    assert runs(model, lambda: weights(model, plan, data)) == len(data)
    assert runs(model, lambda: weights(model, plan, data, memory=1)) > 3 * len(data)


def test_attempts_share_two_passes() -> None:
    """One for statistics, one for the outputs that the layers behind an attempt's first ones should give."""
    model, data = counted()
    plans = [*attempts(model, data[0])]
    assert len(plans) > 3
    names = [s.tensor for plan in plans for g in plan.groups.values() for s in g.slots if s.role == "consumer"]

    def all_of_them() -> None:
        with sharing(model, names, data):
            for plan in plans:
                weights(model, plan, data)

    assert runs(model, all_of_them) == 2 * len(data)


class Shuffled:
    """Gives its images in another order each time, as a data loader does that shuffles."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.generator = images, torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.images[torch.randperm(len(self.images), generator=self.generator)].split(5)


def test_a_loader_may_shuffle() -> None:
    model, data = counted()
    plan = halves(model, data[0])
    ordered, shuffled = (weights(model, plan, d, positions=None) for d in (data, Shuffled(torch.cat(data))))
    equal(ordered, shuffled)


def test_other_data_or_another_model_shares_nothing() -> None:
    model, data = counted()
    plan = halves(model, data[0])
    expected = weights(model, plan, data)
    other, _ = counted()
    with torch.no_grad():
        other.stem.weight.mul_(2)
    with sharing(other, ["head.weight", *readers_of(plan)], data):
        equal(weights(model, plan, data), expected)
    with sharing(model, [*readers_of(plan)], [x + 1 for x in data]):
        equal(weights(model, plan, data), expected)


def test_little_memory_shares_less() -> None:
    from fxprune.reconstruction.shared import Shared
    from fxprune.statistics.gram.collect import Sampling

    model, data = counted()
    names = [n for n, _ in model.named_parameters() if n.endswith("weight") and "stem" not in n]
    room = 8 * 72 * (72 + 8)  # of one 3x3 convolution
    assert {*Shared(model, names, data, room)._collected(Sampling()).layers} == {"blocks.0.0.weight"}
    assert {*Shared(model, names, data, room + 8 * 8 * (8 + 4))._collected(Sampling()).layers} == {
        "blocks.0.0.weight",
        "head.weight",
    }
