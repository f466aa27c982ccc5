"""What is measured: over all batches, weights included, and without what only training runs."""

from __future__ import annotations

import torch
from nets import TrainingHead
from torch import nn

import fxprune
from fxprune.cli.compare import peak
from fxprune.cli.quality import quality


def test_all_batches_count() -> None:
    torch.manual_seed(0)
    original, pruned = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(10, 4)
    rows = quality({"original": original, "pruned": pruned}, [x[:6], x[6:]])
    same = (original(x).argmax(1) == pruned(x).argmax(1)).double().mean()
    assert rows == {"same answer as the original, of 10": {"pruned": float(same)}}


def test_the_weights_are_part_of_the_peak() -> None:
    assert peak(nn.Linear(1000, 1000), torch.zeros(1, 1000)) >= 4 * 1000 * 1000


def test_what_training_alone_computes_costs_nothing() -> None:
    groups = fxprune.find_groups(fxprune.trace(TrainingHead(), torch.zeros(1, 4)))
    assert fxprune.cost(groups).macs == 4 * 8 + 8 * 2
