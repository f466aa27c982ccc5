"""Cutting tensors: small, large, in blocks, in every layout and type; against NumPy."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from fxprune.rewriting.rewrite import cut

SHAPES = [(6,), (6, 10), (40, 30), (40, 30, 3, 3), (40, 30, 1, 1), (7, 5, 2, 3, 2)]


def some(n: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(n, max(1, n // 3), replace=False))


@pytest.mark.parametrize("block", [1, 64, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1), (1, 0)])
def test_cut_keeps_what_it_should(
    block: int, dtype: torch.dtype, shape: tuple[int, ...], dims: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[cut.__module__], "_BLOCK", block)
    tensor = torch.randint(-100, 100, shape).to(dtype)
    cuts = {d: some(shape[d], d) for d in dims if d < len(shape)}
    expected = tensor.float().numpy()[np.ix_(*(cuts.get(d, np.arange(n)) for d, n in enumerate(shape)))]
    result = cut(tensor, cuts)
    assert result.dtype == dtype
    assert result.is_contiguous() or not cuts
    assert np.array_equal(result.float().numpy(), expected)


@pytest.mark.parametrize("last", [torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("block", [64, 2**20])
def test_cut_keeps_the_memory_format(block: int, last: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[cut.__module__], "_BLOCK", block)
    kernel = [3] * (2 if last is torch.channels_last else 3)
    tensor = torch.rand(12, 8, *kernel).contiguous(memory_format=last)
    result = cut(tensor, {0: some(12, 0), 1: some(8, 1)})
    assert result.is_contiguous(memory_format=last)
    assert not result.is_contiguous()
    assert torch.equal(result, tensor[some(12, 0)][:, some(8, 1)])
