"""Maps whose channels are not laid one behind another: flattened with the channels last."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 3, 1, bias=False), nn.Linear(12, 2)
        self.a.weight.data = torch.tensor([1.0, -2.0, 4.0]).view(3, 1, 1, 1)

    def forward(self, x: Any) -> Any:
        return self.fc(self.a(x).permute(0, 2, 3, 1).flatten(1))


def test_activations_of_channels_that_are_flattened_last() -> None:
    model, x = ChannelsLast(), torch.rand(5, 1, 2, 2)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    found = fxprune.scorers.ActivationMean()(model, groups, [x])["a"]
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 4.0]).double() * x.double().mean(), rtol=1e-5, atol=0)
