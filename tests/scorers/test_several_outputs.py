"""The divergence of models with several outputs."""

from __future__ import annotations

import pytest
import torch

from fxprune.scorers.divergence import divergence_of


def test_all_outputs_count() -> None:
    first, second = torch.randn(5, 3, 2), torch.randn(5, 4, 2)
    off = second + 2
    both = torch.stack([(t - t.mean()).square().sum() for t in (first, second)]).sum()
    found = divergence_of([(first, second)], [(first, off)], "auto")
    assert found == pytest.approx(float(4 * second.numel() / both), rel=1e-5)
    assert divergence_of([(first, second)], [(first, second)], "auto") == 0
