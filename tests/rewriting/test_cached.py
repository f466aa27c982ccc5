"""What a `functools.cached_property` has kept: it is computed anew, whether or not the model has run before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Scaled(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.q, self.k, self.v, self.o = *(nn.Linear(8, width) for _ in range(3)), nn.Linear(width, 5)

    @functools.cached_property
    def scale(self) -> float:
        return self.each**-0.5  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, self.heads, self.each).transpose(1, 2) for f in (self.q, self.k, self.v))
        found = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        return self.o(found.transpose(1, 2).reshape(n, length, -1))  # type: ignore[no-any-return]


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.width = nn.Conv2d(3, 24, 3, padding=1), nn.Linear(24 * 16, 4), 24

    @functools.cached_property
    def flat(self) -> int:
        return self.width * 16

    @functools.cached_property
    def table(self) -> Tensor:
        return torch.arange(16.0).view(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) + self.table).relu().reshape(-1, self.flat))  # type: ignore[no-any-return]


CASES = [(Scaled, (2, 6, 8)), (Flat, (2, 3, 4, 4))]


@pytest.mark.parametrize(("make", "shape"), CASES, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("ran_before", [False, True])
def test_a_file_fits_a_model_that_has_run_and_one_that_has_not(
    make: Callable[[], nn.Module], shape: tuple[int, ...], ran_before: bool, tmp_path: Path
) -> None:
    x = 3 * torch.randn(shape)

    def made(run: bool) -> nn.Module:
        model = make().eval()
        if run:
            model(x)
        return model

    result = fxprune.prune(made(ran_before), x, pruning_ratio=0.5, heads="head_dim")
    assert result.report.after.parameters < 0.6 * result.report.before.parameters
    result.save(tmp_path)
    again = fxprune.load(tmp_path, lambda: made(not ran_before))
    torch.testing.assert_close(again(x), result.model(x))
    in_place = fxprune.rewrite(made(True), result.plan, inplace=True)
    in_place.load_state_dict(result.model.state_dict())
    torch.testing.assert_close(in_place(x), result.model(x))
