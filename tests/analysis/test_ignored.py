"""Names of groups to keep, which not every analysis that is tried knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.grouping.components import analysed
from fxprune.analysis.ignored import Ignored


class Attention(nn.Module):
    """Parts that must stay equal; balanced or not, they make other groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.heads = nn.Linear(6, 9), nn.Linear(9, 96), nn.Linear(32, 5), 8

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(self.stem(x)).chunk(3, -1))
        logits = q @ k.mT + torch.linspace(0, 1, 8).view(8, 1, 1)
        y: Tensor = self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y


def test_a_group_that_not_every_analysis_makes_can_be_ignored() -> None:
    graph = fxprune.trace(Attention(), torch.randn(2, 7, 6))
    groups = fxprune.find_groups(graph)
    assert [(g.name, g.size) for g in groups] == [("stem", 9), ("qkv", 4), ("qkv#2", 4)]
    left = fxprune.find_groups(graph, ["qkv#2"])
    assert [g.name for g in left] == ["stem"]
    reasons = {f.reason for f in left.fixed if f.tensor == "qkv.weight" and f.dim == 0}
    assert reasons == {"ignored by the caller ('qkv#2')"}
    result = fxprune.prune(Attention(), torch.randn(2, 7, 6), pruning_ratio=0.5, ignored=["qkv#2"])
    assert (result.model.stem.out_features, result.model.qkv.out_features) == (5, 96)


def test_a_name_is_missed_until_an_analysis_knows_it() -> None:
    """What is ignored decides which analyses are tried; `find_groups` then tries those of nothing ignored as well."""
    graph = fxprune.trace(Attention(), torch.randn(2, 7, 6))
    first, best = analysed(graph), fxprune.find_groups(graph).analysis
    assert "qkv#2" not in {g.name for g in first.groups}
    ignored = Ignored(["qkv#2"])
    assert ignored(first) == {}
    assert ignored.misses_names()
    assert ignored(best) == {"qkv#2": ("ignored by the caller ('qkv#2')", "")}
    assert not ignored.misses_names()
    assert ignored.has_learned()
    assert ignored(first)


def test_a_name_of_nothing_is_told() -> None:
    graph = fxprune.trace(Attention(), torch.randn(2, 7, 6))
    with pytest.raises(fxprune.InputError, match="nothing has the ignored name; seen: qkv#3"):
        fxprune.find_groups(graph, ["qkv#3"])
