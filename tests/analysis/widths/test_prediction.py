"""The two choices of kept channels that the probe runs with."""

import pytest
import torch
from nets import CASES, Case

import fxprune
from fxprune.analysis.widths.constraints import Held
from fxprune.analysis.widths.prediction import Prediction, _own_counts


@pytest.mark.parametrize("case", list(CASES.values())[::4], ids=lambda c: c.name)
def test_the_second_choice_keeps_what_the_first_one_drops(case: Case) -> None:
    """As far as the counts allow: together they keep as many channels of each group as possible."""
    torch.manual_seed(0)
    analysis = case.analysed().analysis
    first = Prediction(analysis, Held())
    second = Prediction(analysis, Held(), other=True)
    for g in analysis.groups:
        own = ~analysis.keep({g.name: []})
        a, b = first.keep[own], second.keep[own]
        assert 0 < a.sum() < len(a) or len(a) < 3
        assert (a | b).sum() == min(len(a), a.sum() + b.sum())


def test_equal_counts_in_one_choice_differ_in_the_other() -> None:
    """Else the width of one group could stand for another one's in both runs."""
    net = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(40)))
    analysis = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 64))).analysis
    first = Prediction(analysis, Held())
    second = Prediction(analysis, Held(), other=True)
    pairs = {(first.counts[g.name], second.counts[g.name]) for g in analysis.groups}
    assert len(pairs) == len(analysis.groups) == 39


@pytest.mark.parametrize("size", range(2, 12))
def test_one_channel_is_tried_of_two_alone(size: int) -> None:
    """Code may take another way for a single one, as `einsum` does: three heads were held for that."""
    for i in range(12):
        counts = _own_counts(i, size)
        assert 0 < min(counts) <= max(counts) <= size
        assert (1 in counts) <= (size == 2)


class Relative(torch.nn.Module):
    """Scores of each head by `einsum`."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv = heads, torch.nn.Linear(5, 3 * heads * 8)
        self.table, self.out = torch.nn.Parameter(torch.randn(1, heads, 8, 6)), torch.nn.Linear(heads * 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.view(x.size(0), -1, self.heads, 8).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhid,xhdj->bhij", q, self.table)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("heads", [3, 4, 6])
def test_few_heads_are_as_many(heads: int) -> None:
    graph = fxprune.trace(Relative(heads).eval(), torch.randn(2, 6, 5))
    assert [g.size for g in fxprune.find_groups(graph, heads="num_heads")] == [heads]
