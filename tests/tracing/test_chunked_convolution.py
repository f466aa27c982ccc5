"""Convolutions of large batches in parts: the same results as at once."""

import pytest
import torch

from fxprune.tracing import chunked_convolution

CONVOLVE = torch.ops.aten.convolution.default


def arguments(batch: int, transposed: bool) -> tuple[object, ...]:
    x, w = torch.randn(batch, 64, 14, 14), torch.randn(64, 64, 2, 2)
    return x, w, torch.randn(64), [2, 2], [0, 0], [1, 1], transposed, [0, 0], 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3, 100, 101])
def test_results_are_those_of_one_call(batch: int, transposed: bool) -> None:
    args = arguments(batch, transposed)
    torch.testing.assert_close(chunked_convolution.run(CONVOLVE, args, {}), CONVOLVE(*args))


def test_only_large_batches_are_split() -> None:
    assert chunked_convolution._parts(*arguments(100, True)) > 1
    assert chunked_convolution._parts(*arguments(1, True)) == chunked_convolution._parts(*arguments(0, True)) == 1


def test_other_calls_are_left_alone() -> None:
    x = torch.randn(300, 64, 14, 14)
    assert torch.equal(
        chunked_convolution.run(torch.ops.aten.mean.dim, (x, [0]), {"keepdim": True}), x.mean(0, keepdim=True)
    )
