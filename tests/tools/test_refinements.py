"""The program that measures refinements: exchanges of channels are right, and norms come to what they are fitted to."""

from itertools import combinations

import pytest
import torch
from benchmarks.refinements import Reading, fit_norms, swapped, with_moments
from torch import nn
from torchvision.models.convnext import LayerNorm2d

import fxprune
from fxprune.statistics.gram.elimination import Problem, eliminate


def problem(seed: int, channels: int = 7, size: int = 2, outputs: int = 3) -> Problem:
    draw = torch.Generator().manual_seed(seed)
    n = channels * size
    mixed = torch.randn(n, n, generator=draw, dtype=torch.float64)
    x = torch.randn(200, n, generator=draw, dtype=torch.float64) @ mixed
    kernels = torch.randn(1, outputs, n, generator=draw, dtype=torch.float64)
    s = (x.T @ x)[None]
    return Problem(s, kernels, torch.arange(n).view(1, channels, size), 1e-2, s.diagonal(dim1=1, dim2=2))


def error(problems: list[Problem], gone: tuple[int, ...]) -> float:
    """tr(W_R [(S⁻¹)_RR]⁻¹ W_Rᵀ) of all layers, as parts of ‖Y - μ‖²."""
    total = 0.0
    for p in problems:
        entries = p.entries[0, list(gone)].flatten()
        inverse, w = torch.linalg.inv(p.damped()[0]), p.kernels[0][:, entries]
        total += float((w @ torch.linalg.inv(inverse[entries][:, entries]) * w).sum()) / p.energy()
    return total


@pytest.mark.parametrize("seed", range(6))
def test_swaps_lower_the_error_and_end_near_the_best_choice(seed: int) -> None:
    problems = [problem(seed), problem(seed + 100, size=1)]
    order, errors = eliminate(problems, 7)
    before, after, gone = swapped([Reading.of(p) for p in problems], order[:3])
    best = min(error(problems, some) for some in combinations(range(7), 3))
    assert before == pytest.approx(float(errors[2]), rel=1e-6)
    assert after == pytest.approx(error(problems, tuple(gone.tolist())), rel=1e-6)
    assert best * (1 - 1e-6) <= after <= before * (1 + 1e-6)


def test_swaps_find_what_greedy_search_misses() -> None:
    found = []
    for seed in range(12):
        problems = [problem(seed)]
        before, after, _ = swapped([Reading.of(p) for p in problems], eliminate(problems, 7)[0][:3])
        found.append(after < before * 0.999)
    assert any(found)


def test_a_fitted_norm_gives_what_the_original_gave_on_average() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(200, 4)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"0": [0, 2, 3, 5, 7]})
    small = fxprune.rewrite(model, plan)
    wanted = model[:2](x)[:, [0, 2, 3, 5, 7]]
    before = (small[:2](x) - wanted).square().mean(0)
    assert fit_norms(model, small, plan, [x[:100], x[100:]]) == 1
    given = small[:2](x)
    assert torch.allclose(given.mean(0), wanted.mean(0), atol=1e-4)
    assert bool(((given - wanted).square().mean(0) <= before + 1e-6).all())


@pytest.mark.parametrize("image", [False, True])
def test_a_norm_that_counts_constant_channels_gives_what_it_gave_with_them(image: bool) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Conv2d(4, 8, 1) if image else nn.Linear(4, 8)
    norm: nn.Module = LayerNorm2d(8) if image else nn.LayerNorm(8)
    last: nn.Module = nn.Conv2d(8, 3, 1) if image else nn.Linear(8, 3)
    kept, gone = [0, 2, 3, 5, 7], [1, 4, 6]
    with torch.no_grad():
        layer.weight[gone] = 0  # type: ignore[index]
        nn.init.normal_(norm.weight)  # type: ignore[arg-type]
    model, x = nn.Sequential(layer, norm, last), torch.randn(50, 4, 3, 3) if image else torch.randn(50, 4)
    plan = fxprune.find_groups(fxprune.trace(model, x)).plan({"0": kept})
    small = fxprune.rewrite(model, plan)
    with_moments(model, small, plan, [x])
    torch.testing.assert_close(small[:2](x), model[:2](x)[:, kept], rtol=1e-4, atol=1e-5)
