"""Quick answers on meta tensors against what PyTorch makes of real ones: shapes, types and strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.tracing import meta_kernels

aten = torch.ops.aten


def image(*shape: int) -> Tensor:
    return torch.rand(shape)


def turned(*shape: int) -> Tensor:
    """A tensor whose dims lie in another order."""
    return torch.rand(shape[::-1]).permute(*reversed(range(len(shape))))


def sliced(*shape: int) -> Tensor:
    """A tensor with gaps, as the query of a joint projection."""
    return torch.rand(*shape[:-1], 3 * shape[-1])[..., : shape[-1]]


def last(*shape: int) -> Tensor:
    return torch.rand(shape).contiguous(memory_format=torch.channels_last)


LAYOUTS = [image, turned, sliced, last]
A, B = (2, 4, 6, 8), (2, 4, 1, 1)
ELEMENTWISE: dict[Any, tuple[Any, ...]] = {
    **dict.fromkeys(meta_kernels._SAME_FLOAT, ()),
    **dict.fromkeys(meta_kernels._IN_PLACE, ()),
    aten.relu.default: (),
    aten.neg.default: (),
    aten.clamp.default: (None, 0.5),
    aten.clamp_min.default: (0.5,),
    aten._softmax.default: (-1, False),
    aten._safe_softmax.default: (-1,),
    aten.eq.Scalar: (0,),
    aten.ne.Scalar: (0,),
    aten.mul.Scalar: (2,),
    aten.mul.Tensor: (2.5,),
    aten.add.Tensor: (1,),
    aten.add_.Tensor: (1,),
    aten.clone.default: (),
}
BINARY = [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.add_.Tensor, aten.mul_.Tensor]
POOL = ([3, 3], [2, 2], [1, 1])


def cases() -> Any:
    """Calls that are answered at once, by name."""
    for layout in LAYOUTS:
        for op, args in ELEMENTWISE.items():
            yield op, (layout(*A), *args), {}
        for op in BINARY:
            yield op, (layout(*A), layout(*A)), {}
        yield aten.masked_fill.Scalar, (layout(*A), layout(*A) > 0.5, -1.0), {}
        yield aten.clone.default, (layout(*A),), {"memory_format": torch.contiguous_format}
        yield aten.fake_quantize_per_tensor_affine_cachemask.default, (layout(*A), 0.1, 2, -128, 127), {}
        scales = torch.full((A[1],), 0.1), torch.full((A[1],), 2, dtype=torch.int32)
        yield aten.fake_quantize_per_channel_affine_cachemask.default, (layout(*A), *scales, 1, -128, 127), {}
        one = torch.full((1,), 0.1), torch.zeros(1, dtype=torch.int32)
        switches = torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        which = (one[0], one[1], torch.ones(1), -128, 127)
        yield aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default, (layout(*A), *which), {}
        helped = (layout(*A), *switches, torch.zeros(1), torch.ones(1), *one, 0.01, -128, 127, 0)
        yield aten._fused_moving_avg_obs_fq_helper.default, helped, {}
        yield aten.linalg_vector_norm.default, (layout(*A), 2.0, [-1], True), {}
        yield aten.new_zeros.default, (layout(*A), [3, 5]), {}
        yield aten.bmm.default, (layout(3, 4, 5) if layout is not last else image(3, 4, 5), image(3, 5, 7)), {}
    for op in BINARY:
        yield op, (image(*A), image(*B)), {}
        yield op, (image(*A), image(4, 6, 1)), {}
        yield op, (last(*A), image(4, 1, 1)), {}
    for op in BINARY[:4]:
        yield op, (image(8), turned(*A)), {}
        yield op, (image(*B), image(*A)), {}
        yield op, (image(3, 1, 5), image(2, 1, 4, 1)), {}
    for layout in (image, last):
        x, w = layout(2, 6, 9, 12), image(8, 6, 3, 3)
        yield aten.convolution.default, (x, w, image(8), [2], [1], [1], False, [0], 1), {}
        yield aten.convolution.default, (x, image(12, 2, 3, 1), None, [1, 2], [1, 0], [2, 1], False, [0, 0], 3), {}
        yield aten.native_batch_norm.default, (x, *(image(6) for _ in range(4)), False, 0.1, 1e-5), {}
        for ceil in (False, True):
            yield aten.max_pool2d_with_indices.default, (x, *POOL, [1, 1], ceil), {}
            for interpolate in (aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default):
                yield interpolate, (x, [9, 5], ceil), {}
            yield aten.grid_sampler_2d.default, (x, torch.rand(x.shape[0], 5, 3, 2), 0, 0, ceil), {}
            yield aten.avg_pool2d.default, (x, *POOL, ceil), {}
            yield aten.avg_pool2d.default, (layout(1, 4, 7, 7), [2, 2], [3, 3], [1, 1], ceil), {}
        yield aten.max_pool2d_with_indices.default, (x, [2, 2]), {}
        for op in (aten.mean.dim, aten.sum.dim_IntList):
            yield op, (x, [2, 3]), {}
            yield op, (x, [-1, -2], True), {}
        yield aten.cat.default, ([x, layout(2, 3, 9, 12)], 1), {}
    yield aten.roll.default, (image(*A), [1], [2]), {}
    yield aten.native_layer_norm.default, (image(2, 5, 6), [6], image(6), image(6), 1e-5), {}
    yield aten.mm.default, (image(3, 4), image(4, 5)), {}
    yield aten.addmm.default, (image(5), image(3, 4), image(5, 4).t()), {}
    if hasattr(aten, "_grouped_mm"):
        yield aten._grouped_mm.default, (image(6, 16), image(2, 16, 32), torch.tensor([2, 6], dtype=torch.int32)), {}
    yield aten.index.Tensor, (image(9, 4), [torch.arange(6)]), {}
    yield aten.index.Tensor, (image(9, 4), [torch.arange(6).view(2, 3)]), {}
    yield aten.convolution.default, (image(2, 3, 8), image(4, 3, 3), None, [1], [0], [1], False, [0], 1), {}


CASES = list(cases())


def seen(value: Any) -> list[Any]:
    """Shape, type and strides of each tensor; the strides of dims of size 1 say nothing."""
    return [
        (tuple(t.shape), t.dtype, [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1])
        for t in tree_leaves(value)
        if isinstance(t, Tensor)
    ]


def meta(value: Any) -> Any:
    def one(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

    return tree_map(one, value)


@pytest.mark.parametrize(("op", "args", "kwargs"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_answers_are_what_pytorch_makes(op: Any, args: Any, kwargs: Any) -> None:
    if "_grouped_mm" in str(op) and torch.__version__ < TorchVersion("2.9"):
        pytest.skip("PyTorch has no kernel for the CPU")
    answered = meta_kernels.ANSWERS[op](*meta(args), **kwargs)
    assert answered is not None, "left to PyTorch"
    assert seen(answered) == seen(op(*args, **kwargs))


@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences_read_their_lengths(batch_first: bool) -> None:
    """The lengths are real, and so are the sizes that are made of them."""
    x, lengths = image(5, 3, 4) if not batch_first else image(3, 5, 4), torch.tensor([5, 2, 2])
    data, sizes = meta_kernels.ANSWERS[aten._pack_padded_sequence.default](meta(x), lengths, batch_first)
    expected, real_sizes = aten._pack_padded_sequence.default(x, lengths, batch_first)
    assert data.is_meta
    assert seen(data) == seen(expected)
    assert sizes.tolist() == real_sizes.tolist() == [3, 3, 1, 1, 1]


def test_every_answer_has_a_case() -> None:
    asked = {op for op, *_ in CASES} | meta_kernels.MIXED
    assert set(meta_kernels.ANSWERS) - asked == {aten.empty.memory_format}


LEFT = [
    (aten.add.Tensor, (image(2, 3), torch.rand(2, 3).double())),
    (aten.mul.Tensor, (torch.arange(3), 0.5)),
    (aten.mul.Tensor, (image(2, 3), 1j)),
    (aten.div.Tensor, (image(2, 3), 1j)),
    (aten.linalg_vector_norm.default, (image(2, 3).to(torch.complex64), 2, [1])),
    (aten.div.Tensor, (torch.arange(3), 2)),
    (aten.sigmoid.default, (torch.arange(3),)),
    (aten.mean.dim, (image(2, 3), [2])),
    (aten.masked_fill.Scalar, (image(3), torch.rand(2, 3) > 0.5, 0.0)),
    (aten.convolution.default, (image(1, 3, 2, 2), image(4, 3, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
    (aten.index.Tensor, (image(9, 4), [torch.rand(9) > 0.5])),
    (aten.roll.default, (turned(*A), [1], [2])),
    (aten.add.Tensor, (turned(*A), image(4, 6, 1))),
]


@pytest.mark.parametrize(("op", "args"), LEFT, ids=[f"{i}-{c[0]}" for i, c in enumerate(LEFT)])
def test_unusual_calls_are_left_to_pytorch(op: Any, args: Any) -> None:
    assert meta_kernels.ANSWERS[op](*meta(args)) is None
