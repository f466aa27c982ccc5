"""Statistics and biases suit what a layer makes: every channel can be told from every other, dead ones as well."""

import pytest
import torch

from fxprune.verification.signals import live_bias, statistics

HALF = torch.full((4,), 0.5, dtype=torch.float64)  # neither mean nor variance is moved


def test_statistics_are_the_signals_own() -> None:
    x = torch.randn(2, 4, 5, 6) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) + 7
    mean, variance = statistics(x, HALF, HALF)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_channels_and_constant_ones_have_what_is_typical(side: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, side, side, dtype=dtype)
    x[:, 1], x[:, 2] = 0, 3
    typical = float(x.square().mean((0, 2, 3))[[0, 2, 3]].mean())
    mean, variance = statistics(x, torch.full_like(HALF, 0.75), HALF)
    assert variance[1:3].tolist() == pytest.approx([typical] * 2, rel=1e-4)
    assert mean[1].item() == pytest.approx(0.25 * typical**0.5, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (2, 4, 7), (1, 4, 3, 5)])
def test_a_bias_moves_each_channels_mean(shape: tuple[int, ...]) -> None:
    out = torch.randn(shape)
    bias = live_bias(out, 1 - len(shape), torch.full((4,), 0.5)).view(4, *[1] * (len(shape) - 2))
    dims = [0, *range(2, len(shape))]
    means, deviations = (out + bias).mean(dims), out.var(dims, correction=0).sqrt()
    torch.testing.assert_close(means, 0.5 * deviations, rtol=1e-3, atol=1e-3)
    tokens = torch.randn(3, 5, 4)
    moved = (tokens + live_bias(tokens, -1, torch.full((4,), 0.5))).mean((0, 1))
    torch.testing.assert_close(moved, 0.5 * tokens.var((0, 1), correction=0).sqrt(), rtol=1e-3, atol=1e-3)
