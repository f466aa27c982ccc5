"""Scorers that measure on data say so where they are given none."""

import warnings

import pytest
import torch
from torch import nn

import fxprune
from fxprune.scorers import HRank, L2Norm, WeightPermutation


def net() -> tuple[nn.Module, fxprune.Groups, torch.Tensor]:
    model, x = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)).eval(), torch.rand(4, 3, 8, 8)
    return model, fxprune.find_groups(fxprune.trace(model, x)), x


@pytest.mark.parametrize("scorer", [HRank(), WeightPermutation("absorb")], ids=lambda s: type(s).__name__)
def test_scores_on_random_inputs_are_said_once_with_the_remedy(scorer: fxprune.scorers.Scorer) -> None:
    model, groups, x = net()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            scorer(model, groups)
    assert len(caught) == 1
    assert "measured on random inputs, since no data were given" in str(caught[0].message)
    assert "pass data=" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer(model, groups, [x])
        L2Norm()(model, groups)
