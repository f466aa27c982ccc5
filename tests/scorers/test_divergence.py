"""Divergences: by hand, and the same however the inputs come."""

import math
from typing import Any

import pytest
import torch

from fxprune.scorers.divergence import divergence_of


@pytest.mark.parametrize("size", [64, 17, 2, 1])
@pytest.mark.parametrize("shape", [(64, 5), (64, 1), (64, 3, 4)])
def test_batches_do_not_matter(size: int, shape: Any) -> None:
    """A single output has no spread of its own."""
    torch.manual_seed(0)
    wanted = torch.randn(shape, dtype=torch.float64)
    found = wanted + 0.1 * torch.randn(shape, dtype=torch.float64)
    if shape == (64, 5):
        each = (wanted.softmax(1) * (wanted.log_softmax(1) - found.log_softmax(1))).sum(1)
        expected = float(each.mean())
    else:
        expected = float((wanted - found).square().sum() / (wanted - wanted.mean()).square().sum())
    assert divergence_of(wanted.split(size), found.split(size), "auto") == pytest.approx(expected)


def test_no_number_is_infinitely_far() -> None:
    wanted, found = torch.randn(4, 3), torch.randn(4, 3)
    found[0, 0] = torch.nan
    assert divergence_of([wanted], [found], "auto") == divergence_of([wanted], [found], "squared") == math.inf
