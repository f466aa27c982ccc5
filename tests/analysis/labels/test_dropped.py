"""Results that the recorded forward drops: where only their shape counts, and where another forward may return them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune


class OnData(nn.Module):
    """A network that reads its input first, and so cannot be traced on meta tensors."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.net(x if float(x.sum()) > 0 else x + 1)  # type: ignore[no-any-return]


class Heads(nn.Module):
    """Two heads: the second one runs always and is returned in training only."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.a, self.b, self.always = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), always
        self.main, self.aux = nn.Conv2d(16, 6, 1), nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.b(self.a(x).relu()).relu()
        y = self.main(h)
        if self.always:
            aux = self.aux(h)
            return (y, aux) if self.training else y
        return (y, self.aux(h)) if self.training else y


class OnDemand(Heads):
    """The second one is returned where that is asked for."""

    def forward(self, x: Tensor, both: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        h = self.b(self.a(x).relu()).relu()
        y, aux = self.main(h), self.aux(h)
        return (y, aux) if both else y


def test_a_head_that_is_returned_in_training_only_keeps_its_classes() -> None:
    for always in (False, True):
        model, x = Heads(always).eval(), torch.rand(2, 3, 9, 9)
        groups = fxprune.find_groups(fxprune.trace(model, x))
        assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16), ("aux.0", 8)]
        small = fxprune.rewrite(model, groups.plan({"a": [0], "b": [1, 2], "aux.0": [3]}))
        assert [tuple(t.shape) for t in small.train()(x)] == [(2, 6, 5, 5)] * 2
        assert any(f.reason == "model output [1]" for f in groups.fixed if f.tensor == "aux.2.weight")


def test_a_head_that_is_returned_on_demand_keeps_its_classes() -> None:
    model, x = OnDemand(True).eval(), torch.rand(2, 3, 9, 9)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16), ("aux.0", 8)]
    assert any("dropped by the recorded forward" in f.reason for f in groups.fixed if f.tensor == "aux.2.weight")


class Shaped(nn.Module):
    """One channel is selected; its values count, or its shape alone."""

    def __init__(self, values: bool) -> None:
        super().__init__()
        self.a, self.b, self.values = nn.Linear(5, 32), nn.Linear(32, 7), values
        self.position = nn.Parameter(torch.rand(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        one = x[:, :, -1]
        x = x + self.position[: one.shape[1]]
        return self.b(x + one[..., None] if self.values else x)  # type: ignore[no-any-return]


def free(model: nn.Module) -> list[str]:
    groups = fxprune.find_groups(fxprune.trace(model.eval(), torch.rand(1, 9, 5)))
    reasons = {f.reason for f in groups.fixed if f.tensor.endswith("a.weight") and f.dim == 0}
    assert not any("refuses other widths" in reason for reason in reasons)
    assert bool(reasons) != bool(len(groups))
    return [g.name.removeprefix("net.") for g in groups]


@pytest.mark.parametrize("around", [nn.Sequential, OnData])
def test_an_index_counts_where_its_values_do(around: Callable[[nn.Module], nn.Module]) -> None:
    assert free(around(Shaped(values=True))) == []
    assert [name.removeprefix("0.") for name in free(around(Shaped(values=False)))] == ["a"]


class Timed(nn.Module):
    """A column as long as one channel is put in front of the channels."""

    def __init__(self, column: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.column = nn.Linear(5, 32), nn.Linear(33, 7), column

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.b(torch.cat([self.column(x), x], -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("around", [nn.Sequential, OnData])
@pytest.mark.parametrize(
    ("column", "counts"),
    [
        (lambda x: torch.ones_like(x[..., :1]) * 3, False),
        (lambda x: torch.full_like(x[:, :, 0:1], 2.0), False),
        (lambda x: torch.zeros_like(x[:, :, -1:].exp()) + 1, False),
        (lambda x: x[..., :1].new_ones(*x.shape[:-1], 1), False),
        (lambda x: torch.ones_like(x[..., 5:6]), True),
        (lambda x: torch.ones_like(x[..., :1]) * x[..., :1], True),
        (lambda x: torch.where(x[..., :1] > 0, torch.ones_like(x[..., :1]), 2.0), True),
    ],
)
def test_one_channel_whose_shape_alone_counts(
    column: Callable[[Tensor], Tensor], counts: bool, around: Callable[[nn.Module], nn.Module]
) -> None:
    model, x = around(Timed(column)).eval(), torch.rand(2, 9, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert len(groups) == (not counts)
    for kept in ([0, 5, 9], [7], range(1, 31)) if len(groups) else []:
        plan = groups.plan({groups[0].name: kept})
        assert fxprune.verify(model, plan, x) <= 1e-9
        assert fxprune.rewrite(model, plan)(torch.cat([x, x])).shape == (4, 9, 7)


class Reading(Shaped):
    """Values of the channel are read past PyTorch's dispatcher."""

    def __init__(self, read: Callable[[Tensor], object]) -> None:
        super().__init__(values=False)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x).relu()[:, :, -1]
        self.read(one)
        return super().forward(x)


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (lambda t: t.tolist(), []),
        (lambda t: t.detach().numpy(), []),
        (lambda t: np.asarray(t), []),
        (lambda t: t.data_ptr(), []),
        (lambda t: t.sum().item(), []),
        (lambda t: str(t), []),
        (lambda t: torch.from_dlpack(t), []),
        (lambda t: (t.shape, t.dtype, t.device, len(t), t.dim(), t.is_contiguous(), t.numel()), ["a"]),
        (lambda t: t.exp().tanh(), ["a"]),
    ],
)
def test_values_that_are_read_unseen_count(read: Callable[[Tensor], object], names: list[str]) -> None:
    assert free(OnData(Reading(read))) == names


def test_beside_a_tensor_of_unknown_origin_every_result_counts() -> None:
    made = torch.ones(1)
    assert free(OnData(Reading(lambda _: made + 1))) == []


def test_a_dropped_head_keeps_its_classes_on_real_data() -> None:
    groups = fxprune.find_groups(fxprune.trace(OnData(Heads(always=True)).eval(), torch.rand(2, 3, 9, 9)))
    assert [(g.name, g.size) for g in groups] == [("net.a", 16), ("net.b", 16), ("net.aux.0", 8)]


class Unreturned(nn.Module):
    """A normed branch that always runs, and whose result this forward does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 8)
        self.norm, self.d = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, both: bool = False) -> Any:
        h = self.a(x)
        branch = self.d(self.norm(self.c(h)))
        return (self.b(h), branch) if both else self.b(h)


def test_a_norm_in_a_branch_that_is_not_returned_is_no_fault() -> None:
    torch.manual_seed(0)
    model, x = Unreturned(), torch.randn(7, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name for g in groups if g.mixed_by} == {"c"}
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert not result.report.proof.disproved
    assert [t.shape for t in result.model(x, both=True)] == [(7, 4), (7, 3)]
