"""Layers over tokens: channels lie beside what they mix, in a spatial dim of length-1 kernels or in rows."""

import pytest
import torch
from nets import Members
from oracle import ROUNDING
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune


class Mixer(nn.Module):
    """Patches, a perceptron over tokens, one over channels."""

    def __init__(self, convolutions: bool, bias: bool, end: str, kernel: int = 1) -> None:
        super().__init__()
        self.end, self.convolutions = end, convolutions
        self.embed = nn.Conv2d(3, 12, 4, 4)
        if convolutions:
            self.a = nn.Conv1d(16, 20, 1, bias=bias)
            self.b: nn.Module = nn.Conv1d(20, 16, kernel, padding=kernel // 2, bias=bias)
        else:
            self.a, self.b = nn.Linear(16, 20, bias=bias), nn.Linear(20, 16, bias=bias)  # type: ignore[assignment]
        self.c, self.d, self.head = nn.Linear(12, 9), nn.Linear(9, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2)  # (batch, channels, tokens)
        if self.convolutions:
            x = x + self.b(self.a(x.transpose(1, 2)).relu()).transpose(1, 2)
        else:
            x = x + self.b(self.a(x).relu())
        x = x.transpose(1, 2)
        x = x + self.d(self.c(x).relu())
        if self.end == "mean over tokens":
            return self.head(x.mean(1))  # type: ignore[no-any-return]
        return x.sum(2) if self.end == "sum" else x @ x.transpose(1, 2)


def members(groups: fxprune.Groups) -> dict[str, Members]:
    return {g.name: (g.size, frozenset((s.tensor, s.dim) for s in g.slots if "bias" not in s.tensor)) for g in groups}


def halved(model: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))


@pytest.mark.parametrize("end", ["mean over tokens", "sum", "product"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("convolutions", [True, False])
def test_channels_beside_tokens(convolutions: bool, bias: bool, end: str) -> None:
    torch.manual_seed(0)
    model, x = Mixer(convolutions, bias, end).eval(), torch.rand(2, 3, 16, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    head = {("head.weight", 1)} if end == "mean over tokens" else set()
    assert members(groups) == {
        "embed": (12, frozenset({("embed.weight", 0), ("c.weight", 1), ("d.weight", 0), *head})),
        "a": (20, frozenset({("a.weight", 0), ("b.weight", 1)})),
        "c": (9, frozenset({("c.weight", 0), ("d.weight", 1)})),
    }
    # A masked channel is not zero once a bias was added along the tokens: sums and products of activations see it.
    seen = bias and end != "mean over tokens"
    assert bool(groups["embed"].mixed_by) is seen
    plan = halved(model, groups)
    assert (fxprune.verify(model, plan, x) <= ROUNDING) is not seen
    small, cost = fxprune.rewrite(model, plan), fxprune.cost(groups, plan)
    with FlopCounterMode(display=False) as counter:
        small(x)
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.parameters == sum(p.numel() for p in small.parameters())


def test_longer_kernels_fix_what_they_run_along() -> None:
    model, x = Mixer(convolutions=True, bias=True, end="mean over tokens", kernel=3).eval(), torch.rand(2, 3, 16, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert set(members(groups)) == {"a", "c"}
    assert any(f.tensor == "embed.weight" and "spatial" in f.reason for f in groups.fixed)


@pytest.mark.parametrize("convolutions", [True, False])
def test_layers_whose_positions_are_gone_are_not_refitted(convolutions: bool) -> None:
    torch.manual_seed(0)
    model = Mixer(convolutions, bias=True, end="mean over tokens").eval()
    images = torch.rand(24, 3, 16, 16)
    groups = fxprune.find_groups(fxprune.trace(model, images[:2]))
    plan = halved(model, groups)
    done = fxprune.reconstruct(model, fxprune.rewrite(model, plan), plan, [images])
    assert [r.name for r in done.layers] == ["c.weight", "d.weight", "head.weight"]
    assert done.skipped == ("b.weight",)
    assert all(r.after <= r.before for r in done.layers)
    kept_stream = groups.plan({"a": plan.groups["a"].kept})
    done = fxprune.reconstruct(model, fxprune.rewrite(model, kept_stream), kept_stream, [images])
    assert [r.name for r in done.layers] == ["b.weight"]


class Shortened(nn.Module):
    """Pools over tokens by windows of one channel each, and makes a mask of the shape of one channel."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.a, self.b, self.window = nn.Linear(6, 8), nn.Linear(8 // window[1], 3), window

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        mask = torch.ones_like(y)[..., 0] + torch.zeros_like(y)[..., -1]
        y = nn.functional.avg_pool2d((y * mask[..., None])[:, None], self.window, ceil_mode=True)
        return self.b(nn.functional.max_pool2d(y, (2, 1), stride=(2, 1))[:, 0])  # type: ignore[no-any-return]


def test_windows_of_one_channel_pool_tokens() -> None:
    model, x = Shortened((2, 1)).eval(), torch.randn(2, 9, 6)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a", 8)]
    assert fxprune.verify(model, groups.plan({"a": [1, 2, 6]}), x) <= ROUNDING


def test_windows_of_several_channels_hold_them() -> None:
    graph = fxprune.trace(Shortened((2, 2)).eval(), torch.randn(2, 9, 6))
    fixed = fxprune.find_groups(graph).fixed
    assert "spatial dim of aten.avg_pool2d.default" in {f.reason for f in fixed if f.tensor == "a.weight"}


class Marked(nn.Module):
    """Selects one channel of a tensor that was filled with one number, and then perhaps written to."""

    def __init__(self, written: bool, index: int) -> None:
        super().__init__()
        self.a, self.b, self.written, self.index = nn.Linear(6, 8), nn.Linear(8, 3), written, index

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        ones = torch.ones_like(y)
        if self.written:
            ones[..., 0] = 5.0
        return self.b(y * ones[..., self.index, None])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("written", "index", "names"), [(False, 0, ["a"]), (False, 3, []), (True, 0, [])])
def test_one_channel_of_equal_numbers_stands_for_all(written: bool, index: int, names: list[str]) -> None:
    groups = fxprune.find_groups(fxprune.trace(Marked(written, index).eval(), torch.randn(2, 6)))
    assert [g.name for g in groups] == names
