"""The two choices of kept channels that the probe runs with."""

import pytest
import torch
from nets import CASES, Case

import fxprune
from fxprune.analysis.widths.constraints import Held
from fxprune.analysis.widths.prediction import Prediction


@pytest.mark.parametrize("case", list(CASES.values())[::4], ids=lambda c: c.name)
def test_the_second_choice_keeps_what_the_first_one_drops(case: Case) -> None:
    """As far as the counts allow: together they keep as many channels of each group as possible."""
    torch.manual_seed(0)
    analysis = fxprune.find_groups(fxprune.trace(case.build(), case.inputs())).analysis
    first = Prediction(analysis, Held())
    second = first.turned(Held())
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
    second = first.turned(Held())
    pairs = {(first.counts[g.name], second.counts[g.name]) for g in analysis.groups}
    assert len(pairs) == len(analysis.groups) == 39
