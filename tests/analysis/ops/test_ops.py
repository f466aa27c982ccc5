"""Every rule has a case: a small net in which PyTorch emits the op behind a convolution, and the oracle holds.

A case is a function of a module (for parameters of its own) and of a positive feature map of shape (n, 8, 6, 6); what
it returns is flattened and read by a linear layer. Most ops leave the eight channels free; for the others a part of the
reason is given.
"""

from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from oracle import (
    ROUNDING,
    check_outputs,
    check_round_trip,
    check_training,
    parameter_count,
    random_plan,
    without_mixed,
)
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import fxprune
from fxprune.analysis.ops import OPS

aten = torch.ops.aten
Run = Callable[[Any, Tensor], Any]


def unary(name: str) -> Run:
    return lambda m, x: getattr(aten, name)(x)


def scaled(name: str) -> Run:
    """Rounding and signs: values on both sides of several integers."""
    return lambda m, x: getattr(aten, name)(10 * x - 3)


def binary(name: str) -> Run:
    return lambda m, x: getattr(aten, name)(x, m.s.sigmoid())


def logical(name: str) -> Run:
    return lambda m, x: getattr(aten, name)(x > 0.5, m.s > 0)


def noise(name: str, *args: Any) -> Run:
    """Random numbers count for nothing here: the two models draw different ones."""
    return lambda m, x: x + 0 * getattr(aten, name)(x.clone(), *args)


def constant(make: Callable[[Tensor], Tensor]) -> Run:
    """A tensor that the model's code makes from the sizes of another."""
    return lambda m, x: x * make(x)


def one(x: Tensor) -> Tensor:
    return x.flatten(2)


def three(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, 3))


def grid(x: Tensor, n: int) -> Tensor:
    """Sampling positions: the middle of the map, twice along each dim."""
    return torch.zeros(x.shape[0], *[2] * n, n, dtype=x.dtype, device=x.device)


def places(x: Tensor) -> Tensor:
    """Three positions, the same in all channels."""
    return torch.tensor([5, 0, 3]).expand(x.shape[0], x.shape[1], 3)


def classes(x: Tensor) -> Tensor:
    """A class for each number: the first one."""
    return torch.zeros_like(x, dtype=torch.long)


def rows(x: Tensor) -> Tensor:
    """(n, 8) features."""
    return x.mean((2, 3))


def scattered(x: Tensor) -> Tensor:
    """Some places get the channels of others."""
    mask = (torch.arange(6) > 2).view(6, 1).expand_as(x)
    return x.masked_scatter(mask, x.flip(2))


def written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, torch.tensor([0, 2]), torch.tensor([1, 3])] = x[:, :, 0, :2]
    return y


POSITIONS = "positions"
VALUES = "depends on values"
CLASSES = "classes of a loss"
INDEX = "index"

# name: run, or (run, reason why the channels stay)
CASES: dict[str, Run | tuple[Run, str]] = {
    **{
        name: unary(name)
        for name in """abs acos asin atan celu cos cosh elu erf erfc exp exp2 expm1 frac gelu hardsigmoid hardswish
        hardtanh leaky_relu log log10 log1p log2 log_sigmoid_forward logit mish nan_to_num neg
        reciprocal relu rsqrt sgn sigmoid silu sin sinh softplus sqrt tan tanh hardshrink softshrink
        isinf isnan logical_not zero alias clone detach asinh atanh deg2rad rad2deg erfinv digamma i0 lgamma sinc
        signbit isposinf isneginf""".split()
    },
    **{name: scaled(name) for name in "ceil floor round trunc sign".split()},
    **{
        name: binary(name)
        for name in """add atan2 copy div eq floor_divide fmod ge gt heaviside le lt maximum minimum mul ne pow
        remainder rsub sub xlogy copysign fmax fmin hypot logaddexp logaddexp2 ldexp""".split()
    },
    **{name: logical(name) for name in "bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor".split()},
    "acosh": lambda m, x: aten.acosh(x + 1),
    "bitwise_not": lambda m, x: aten.bitwise_not(x > 0.5),
    "addcdiv": lambda m, x: aten.addcdiv(x, x, m.s.exp()),
    "addcmul": lambda m, x: aten.addcmul(x, x, m.s),
    "clamp": lambda m, x: x.clamp(0.3, 0.6),
    "clamp_min": lambda m, x: aten.clamp_min(x, 0.4),
    "clamp_max": lambda m, x: aten.clamp_max(x, 0.6),
    "fill": lambda m, x: x * aten.fill(x, 2.0),
    "lerp": lambda m, x: torch.lerp(x, 2 * x, m.s.sigmoid()),
    "masked_fill": lambda m, x: x.masked_fill(m.s > 0, 3.0),
    "_prelu_kernel": lambda m, x: F.prelu(x - 0.5, m.v),
    "rrelu_with_noise": lambda m, x: aten.rrelu_with_noise(x - 0.5, torch.zeros_like(x), training=False),
    "threshold": lambda m, x: F.threshold(x, 0.5, 0.1),
    "where": lambda m, x: torch.where(x > 0.5, x, m.s),
    # Copies, casts and noise
    "bernoulli": noise("bernoulli"),
    "fake_quantize_per_tensor_affine_cachemask": lambda m, x: aten.fake_quantize_per_tensor_affine_cachemask(
        x, 0.01, 3, -128, 127
    )[0],
    "native_dropout": lambda m, x: x + 0 * aten.native_dropout(x, 0.5, True)[0],
    "normal": noise("normal_"),
    "uniform": noise("uniform_"),
    **{name: noise(name) for name in "cauchy exponential log_normal poisson rand_like".split()},
    "geometric": noise("geometric", 0.5),
    "randint_like": lambda m, x: x + 0 * aten.randint_like(x.detach(), 5),
    "randn_like": noise("randn_like"),
    "empty_like": lambda m, x: aten.empty_like(x).copy_(x),
    "full_like": constant(lambda x: torch.full_like(x, 2.0)),
    "ones_like": constant(torch.ones_like),
    "zeros_like": constant(lambda x: torch.zeros_like(x) + 1),
    "_to_copy": lambda m, x: x.to(torch.float16).to(x.dtype),
    "lift_fresh": lambda m, x: x * torch.tensor(2.0, dtype=x.dtype),
    "glu": lambda m, x: F.glu(x, 1),
    # Softmax over positions, not channels
    "_softmax": lambda m, x: one(x).softmax(2),
    "_log_softmax": lambda m, x: one(x).log_softmax(2),
    "_safe_softmax": lambda m, x: aten._safe_softmax(one(x), 2),
    # Contractions
    "convolution": lambda m, x: m.conv(x),
    "mm": lambda m, x: rows(x) @ m.w,
    "bmm": lambda m, x: one(x).transpose(1, 2) @ m.w.expand(x.shape[0], -1, -1),
    "addmm": lambda m, x: torch.addmm(m.b, rows(x), m.w),
    "baddbmm": lambda m, x: torch.baddbmm(m.b, one(x).transpose(1, 2), m.w.expand(x.shape[0], -1, -1)),
    "mv": lambda m, x: (rows(x) @ m.v)[:, None],
    "addmv": lambda m, x: torch.addmv(m.b[:1], rows(x), m.v)[:, None],
    "dot": lambda m, x: rows(x) * torch.dot(m.v, m.v),
    "_trilinear": lambda m, x: F.bilinear(rows(x), 2 * rows(x), (m.v[:, None] * m.v)[None]),
    "_weight_norm_interface": lambda m, x: F.conv2d(x, aten._weight_norm_interface(m.k, m.b[:4].view(4, 1, 1, 1))[0]),
    "vdot": lambda m, x: rows(x) * torch.vdot(m.v, m.v),
    "embedding": lambda m, x: rows(x) * F.embedding(torch.tensor([1]), m.w.t()),
    # Norms
    "native_batch_norm": lambda m, x: m.bn(x),
    "native_layer_norm": lambda m, x: F.layer_norm(x, x.shape[2:]),
    "native_group_norm": lambda m, x: m.gn(x),
    # Reductions
    **{
        name: lambda m, x, name=name: getattr(aten, name)(x, [2, 3])
        for name in ("amax", "amin", "mean", "sum", "logsumexp")
    },
    "nansum": lambda m, x: aten.nansum(x, [3]),
    "any": lambda m, x: (x > 0.5).any(3),
    "all": lambda m, x: (x > 0.5).all(3),
    "_is_all_true": lambda m, x: x * torch._is_all_true(x == x),
    "_is_any_true": lambda m, x: x * torch._is_any_true(x == x),
    "prod": lambda m, x: x.prod(3),
    "count_nonzero": lambda m, x: aten.count_nonzero(x > 0.5, dim=[3]),
    "linalg_vector_norm": lambda m, x: F.normalize(x, dim=2),
    "norm": lambda m, x: aten.norm(x, 2, [2]),
    "var": lambda m, x: x.var((2, 3)),
    "std": lambda m, x: x.std((2, 3)),
    "aminmax": lambda m, x: torch.stack(torch.aminmax(x, dim=3)),
    "std_mean": lambda m, x: torch.std_mean(x, (2, 3))[0],
    "var_mean": lambda m, x: sum(torch.var_mean(x, (2, 3))),
    # Positions along channels
    **{
        name: (lambda m, x, name=name: getattr(aten, name)(x, 1), POSITIONS)
        for name in ("argmax", "argmin", "cumsum", "cumprod")
    },
    **{
        name: (lambda m, x, name=name: getattr(aten, name)(x, 1)[0], POSITIONS)
        for name in ("cummax", "cummin", "sort", "mode", "median", "nanmedian")
    },
    **{
        name: (lambda m, x, name=name: sum(t.to(x) for t in getattr(aten, name)(x, 1)), POSITIONS)
        for name in ("max", "min")
    },
    # Pools, pads, resampling
    "avg_pool2d": lambda m, x: F.avg_pool2d(x, 2),
    "avg_pool3d": lambda m, x: F.avg_pool3d(three(x), 2),
    "_adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, 4),
    "_adaptive_avg_pool3d": lambda m, x: F.adaptive_avg_pool3d(three(x), (1, 2, 4)),
    "max_pool2d_with_indices": lambda m, x: F.max_pool2d(x, 2),
    "max_pool3d_with_indices": lambda m, x: F.max_pool3d(three(x), 2),
    "adaptive_max_pool2d": lambda m, x: F.adaptive_max_pool2d(x, 4),
    "adaptive_max_pool3d": lambda m, x: F.adaptive_max_pool3d(three(x), (1, 2, 4)),
    "fractional_max_pool2d": lambda m, x: F.fractional_max_pool2d(
        x, 2, 3, _random_samples=torch.full((x.shape[0], x.shape[1], 2), 0.5, dtype=x.dtype)
    ),
    "fractional_max_pool3d": lambda m, x: F.fractional_max_pool3d(
        three(x), 1, (1, 2, 4), _random_samples=torch.full((x.shape[0], x.shape[1], 3), 0.5, dtype=x.dtype)
    ),
    "reflection_pad1d": lambda m, x: F.pad(one(x), (1, 2), "reflect"),
    "reflection_pad2d": lambda m, x: F.pad(x, (1, 2, 0, 1), "reflect"),
    "reflection_pad3d": lambda m, x: F.pad(three(x), (1, 1, 1, 0, 1, 0), "reflect"),
    "replication_pad1d": lambda m, x: F.pad(one(x), (1, 2), "replicate"),
    "replication_pad2d": lambda m, x: F.pad(x, (1, 2, 0, 1), "replicate"),
    "replication_pad3d": lambda m, x: F.pad(three(x), (1, 1, 1, 0, 1, 0), "replicate"),
    "upsample_nearest1d": lambda m, x: F.interpolate(one(x), scale_factor=2.0),
    "upsample_nearest2d": lambda m, x: F.interpolate(x, size=(7, 9)),
    "upsample_nearest3d": lambda m, x: F.interpolate(three(x), size=(3, 3, 7)),
    "upsample_linear1d": lambda m, x: F.interpolate(one(x), size=50, mode="linear"),
    "upsample_bilinear2d": lambda m, x: F.interpolate(x, size=(7, 9), mode="bilinear"),
    "upsample_bicubic2d": lambda m, x: F.interpolate(x, size=(7, 9), mode="bicubic"),
    "upsample_trilinear3d": lambda m, x: F.interpolate(three(x), size=(3, 3, 7), mode="trilinear"),
    "_upsample_bilinear2d_aa": lambda m, x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
    "_upsample_bicubic2d_aa": lambda m, x: F.interpolate(x, size=(4, 4), mode="bicubic", antialias=True),
    "_upsample_nearest_exact1d": lambda m, x: F.interpolate(one(x), size=50, mode="nearest-exact"),
    "_upsample_nearest_exact2d": lambda m, x: F.interpolate(x, size=(7, 9), mode="nearest-exact"),
    "_upsample_nearest_exact3d": lambda m, x: F.interpolate(three(x), size=(3, 3, 7), mode="nearest-exact"),
    "affine_grid_generator": lambda m, x: F.grid_sample(
        x, F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False), align_corners=False
    ),
    "grid_sampler_2d": lambda m, x: F.grid_sample(x, grid(x, 2), align_corners=False),
    "grid_sampler_3d": lambda m, x: F.grid_sample(three(x), grid(x, 3), align_corners=False),
    "im2col": lambda m, x: F.unfold(x, 3, stride=2),
    "col2im": lambda m, x: F.fold(F.unfold(x, 3, stride=2) * F.unfold(x, 3, stride=2).sigmoid(), 6, 3, stride=2),
    "unfold": lambda m, x: x.unfold(2, 4, 2).unfold(3, 2, 2),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "torchvision::roi_align": lambda m, x: torchvision.ops.roi_align(x, [x.new_tensor([[0, 0, 4, 4]])] * x.shape[0], 2),
    "torchvision::roi_pool": lambda m, x: torchvision.ops.roi_pool(x, [x.new_tensor([[0, 0, 4, 4]])] * x.shape[0], 2),
    # Shapes
    "view": lambda m, x: x.view(x.shape[0], x.shape[1], -1),
    "_unsafe_view": lambda m, x: one(x).transpose(1, 2) @ m.w,
    "view_copy": lambda m, x: aten.view_copy(x, [x.shape[0], x.shape[1], 36]),
    "_reshape_copy": lambda m, x: aten._reshape_copy(x, [x.shape[0], x.shape[1], 36]),
    "_reshape_alias": lambda m, x: aten._reshape_alias(x, [x.shape[0], x.shape[1], 36], [36 * x.shape[1], 36, 1]),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "transpose": lambda m, x: x.transpose(1, 2),
    "t": lambda m, x: rows(x).t().t(),
    "unsqueeze": lambda m, x: x[:, :, None].unsqueeze(-1),
    "squeeze": lambda m, x: x.mean((2, 3), keepdim=True).squeeze(),
    "expand": lambda m, x: x[:, :, :1].expand_as(x),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "flip": lambda m, x: x.flip(1, 3),
    "roll": (lambda m, x: x.roll(1, 1), "rolled"),
    "cat": lambda m, x: torch.cat([x, -x], 1),
    "stack": lambda m, x: torch.stack([x, -x], 1),
    "constant_pad_nd": lambda m, x: F.pad(x, (1, 1, 0, 2)),
    "as_strided": (lambda m, x: x.as_strided((x.shape[0], 4), (8 * 36, 36)), "strides"),
    # Parts
    "slice": lambda m, x: x[:, :, 1:4, ::2],
    "select": (lambda m, x: x[:, 3], INDEX),
    "unbind": lambda m, x: sum(x.unbind(2)),
    "diagonal": lambda m, x: torch.einsum("nchh->nch", x),
    "diagonal_copy": lambda m, x: rows(x) * torch.diag(m.v.outer(m.v)),
    "diag_embed": lambda m, x: rows(x) @ torch.diag(m.v),
    "masked_scatter": lambda m, x: scattered(x.permute(0, 2, 3, 1)),
    "rot90": lambda m, x: x.rot90(1, (2, 3)) + x.rot90(2, (2, 3)) + x.rot90(-1, (3, 2)),
    "split": lambda m, x: x.split(2, 3)[0],
    "split_with_sizes": lambda m, x: x.split([2, 4], 3)[1],
    "unsafe_split": lambda m, x: x.unsafe_split(2, 3)[0],
    "unsafe_split_with_sizes": lambda m, x: x.unsafe_split_with_sizes([2, 4], 3)[1],
    "index": lambda m, x: x[:, :, torch.tensor([0, 2]), torch.tensor([1, 3])],
    "index_put": lambda m, x: written(x),
    "index_select": lambda m, x: x.index_select(2, torch.tensor([0, 2])),
    # What depends on values
    "_local_scalar_dense": lambda m, x: x * float(torch.ones(()).item()),
    "nonzero": (lambda m, x: x.sum() * 0 + (x > 0).nonzero()[:1].float().sum() + x, VALUES),
    "masked_select": (lambda m, x: x + x.masked_select(x > 0).sum(), VALUES),
    "_unique2": (lambda m, x: x + x.unique().sum(), VALUES),
    "bincount": (lambda m, x: x + (0 * x).long().flatten().bincount().sum() * 0, VALUES),
    "repeat_interleave": (lambda m, x: x + 0 * torch.repeat_interleave((x > 9).long().flatten()).sum(), VALUES),
    "searchsorted": (lambda m, x: torch.searchsorted(torch.tensor([0.0, 0.5], dtype=x.dtype), x), VALUES),
    "bucketize": (lambda m, x: torch.bucketize(x, torch.tensor([0.0, 0.5], dtype=x.dtype)), VALUES),
    "histc": (lambda m, x: x + 0 * torch.histc(x, 3).sum(), VALUES),
    "equal": (lambda m, x: x * (2 if torch.equal(x, x) else 3), VALUES),
    "_cdist_forward": lambda m, x: torch.cdist(one(x).mT, one(x.flip(2)).mT[:, :4], p=1.0),
    "_euclidean_dist": lambda m, x: torch.cdist(one(x).mT, one(x * m.s).mT) / 36,
    "mse_loss": lambda m, x: x * F.mse_loss(x, m.s.expand_as(x)),
    "smooth_l1_loss": lambda m, x: x * F.smooth_l1_loss(x, m.s.expand_as(x), reduction="sum"),
    "huber_loss": lambda m, x: F.huber_loss(x, m.s.expand_as(x), reduction="none"),
    "soft_margin_loss": lambda m, x: F.soft_margin_loss(x, m.s.detach().expand_as(x), reduction="none"),
    "binary_cross_entropy": lambda m, x: F.binary_cross_entropy(x, x.flip(2).detach(), reduction="none"),
    "binary_cross_entropy_with_logits": lambda m, x: F.binary_cross_entropy_with_logits(
        m.s.expand_as(x), x.detach(), reduction="none"
    ),
    "nll_loss_forward": (lambda m, x: x * F.cross_entropy(rows(x), classes(rows(x)[:, 0])), CLASSES),
    "nll_loss2d_forward": (lambda m, x: x * F.cross_entropy(x, classes(x[:, 0]), reduction="none")[:, None], CLASSES),
    "multi_margin_loss": (lambda m, x: x * F.multi_margin_loss(rows(x), classes(rows(x)[:, 0])), CLASSES),
    "multilabel_margin_loss_forward": (
        lambda m, x: x * F.multilabel_margin_loss(rows(x), classes(rows(x))),
        CLASSES,
    ),
    "torchvision::nms": (
        lambda m, x: x + 0 * torchvision.ops.nms(torch.ones(x.shape[1], 4, dtype=x.dtype), rows(x).sum(0), 0.5).sum(),
        VALUES,
    ),
    # Places that values tell
    "gather": lambda m, x: one(x).gather(2, places(x)),
    "scatter": lambda m, x: one(x).scatter(2, places(x), one(2 * x)[..., :3]),
    "scatter_add": lambda m, x: one(x).scatter_add(2, places(x), one(2 * x)[..., :3]),
    "scatter_reduce": lambda m, x: one(x).scatter_reduce(2, places(x), one(2 * x)[..., :3], "sum"),
    "index_fill": lambda m, x: one(x).index_fill(2, torch.tensor([1]), 0.0),
    "index_add": lambda m, x: one(x).index_add(2, torch.tensor([4, 2]), one(x)[..., :2]),
    "index_copy": lambda m, x: one(x).index_copy(2, torch.tensor([4, 2]), one(x)[..., :2]),
    "index_reduce": lambda m, x: one(x).index_reduce(2, torch.tensor([4, 2]), one(x)[..., :2], "amax"),
    "topk": lambda m, x: one(x).topk(3, 2)[0],
    "_embedding_bag": lambda m, x: rows(x) * F.embedding_bag(torch.tensor([[1, 2]]), m.w.t()),
    "max_unpool2d": lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "max_unpool3d": lambda m, x: F.max_unpool3d(*F.max_pool3d(three(x), (1, 1, 2), return_indices=True), (1, 1, 2)),
    "torchvision::deform_conv2d": lambda m, x: torchvision.ops.deform_conv2d(
        x, torch.full((x.shape[0], 2, 6, 6), 0.3, dtype=x.dtype), m.k
    ),
    # Complex numbers
    "_fft_r2c": lambda m, x: torch.fft.rfft(x).abs(),
    "_fft_c2c": lambda m, x: torch.fft.fft2(torch.complex(x, x)).abs(),
    "_fft_c2r": lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "complex": lambda m, x: torch.complex(x, m.s.expand_as(x)).abs(),
    "polar": lambda m, x: torch.polar(x, x).abs(),
    "angle": lambda m, x: torch.complex(x, x + 1).angle(),
    "view_as_real": lambda m, x: torch.view_as_real(torch.complex(x, 2 * x)),
    "view_as_complex": lambda m, x: torch.view_as_complex(torch.stack([x, 2 * x], -1)).abs(),
    "_conj": lambda m, x: torch.view_as_real(torch.complex(x, 2 * x).conj().resolve_conj()),
    # Tensors made from sizes
    "kthvalue": lambda m, x: x.kthvalue(2, 3)[0],
    "logcumsumexp": lambda m, x: x.logcumsumexp(3),
    "empty_permuted": constant(lambda x: torch.empty_permuted(x.shape, (0, 1, 2, 3), dtype=x.dtype).fill_(2)),
    "new_empty_strided": constant(lambda x: x.new_empty_strided(x.shape, x.stride()).fill_(2)),
    "fft_fftfreq": (constant(lambda x: torch.fft.fftfreq(x.shape[1])[:, None, None]), POSITIONS[:8]),
    "fft_rfftfreq": (constant(lambda x: torch.fft.rfftfreq(2 * x.shape[1] - 1)[:, None, None]), POSITIONS[:8]),
    "range": (constant(lambda x: aten.range(1, x.shape[1])[:, None, None]), POSITIONS[:8]),
    **{
        f"{name}_window": (
            constant(lambda x, name=name: getattr(torch, f"{name}_window")(x.shape[1])[:, None, None]),
            POSITIONS[:8],
        )
        for name in ("bartlett", "blackman", "hamming", "hann", "kaiser")
    },
    "empty": constant(lambda x: torch.empty(x.shape, dtype=x.dtype, device=x.device).fill_(2)),
    "empty_strided": constant(
        lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).fill_(2)
    ),
    "full": constant(lambda x: torch.full(x.shape, 2.0, dtype=x.dtype, device=x.device)),
    "ones": constant(lambda x: torch.ones(x.shape, dtype=x.dtype, device=x.device)),
    "zeros": constant(lambda x: torch.zeros(x.shape, dtype=x.dtype, device=x.device) + 2),
    "rand": constant(lambda x: 0 * torch.rand(x.shape, dtype=x.dtype, device=x.device) + 2),
    "randn": constant(lambda x: 0 * torch.randn(x.shape, dtype=x.dtype, device=x.device) + 2),
    "new_empty": constant(lambda x: x.new_empty(x.shape).fill_(2)),
    "new_full": constant(lambda x: x.new_full(x.shape, 2.0)),
    "new_ones": constant(lambda x: x.new_ones(x.shape)),
    "new_zeros": constant(lambda x: x.new_zeros(x.shape) + 2),
    "scalar_tensor": constant(lambda x: torch.scalar_tensor(2.0, dtype=x.dtype)),
    "arange": (constant(lambda x: torch.arange(x.shape[1], dtype=x.dtype)[:, None, None]), POSITIONS[:8]),
    "linspace": (constant(lambda x: torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None, None]), POSITIONS[:8]),
    "logspace": (constant(lambda x: torch.logspace(0, 1, x.shape[1], dtype=x.dtype)[:, None, None]), POSITIONS[:8]),
    "eye": (lambda m, x: rows(x) @ torch.eye(x.shape[1], dtype=x.dtype), POSITIONS[:8]),
    "tril": (lambda m, x: rows(x) @ (m.v[:, None] * m.v).tril(), POSITIONS[:8]),
    "triu": (lambda m, x: rows(x) @ (m.v[:, None] * m.v).triu(), POSITIONS[:8]),
    "tril_indices": lambda m, x: x[:, :, torch.tril_indices(2, 2)[0], 0],
    "triu_indices": lambda m, x: x[:, :, torch.triu_indices(2, 2)[0], 0],
    "randperm": (constant(lambda x: 0 * torch.randperm(x.shape[1])[:, None, None] + 2), POSITIONS[:8]),
    "randint": (constant(lambda x: 0 * torch.randint(0, 9, (x.shape[1], 1, 1)) + 2), POSITIONS[:8]),
}

# PyTorch has no derivative of these, and these cases cut the graph.
UNTRAINABLE = {"copy", "floor_divide", "heaviside"}
if torch.__version__ < TorchVersion("2.13"):  # 2.11 has none, 2.13 has one
    UNTRAINABLE |= {"aminmax"}

# Releases before these may take the ops apart before they are recorded, as 2.9 does.
RECORDED_SINCE = {"ldexp": TorchVersion("2.11")}

# Rules without a case.
WITHOUT_CASE = {
    # Composite ops: PyTorch takes them apart before they are recorded. The entries serve other versions and backends.
    *"__and__ __or__ square true_divide contiguous dropout lift lift_fresh_copy to reshape linear".split(),
    *"rms_norm softmax log_softmax relu6 prelu isfinite argsort".split(),
    *"unsafe_chunk item is_nonzero cdist one_hot meshgrid avg_pool1d max_pool1d max_pool2d max_pool3d".split(),
    *"max_pool1d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d".split(),
    "_nested_tensor_from_mask_left_aligned",  # an encoder's, in test_attention
    # BatchNorm as other backends and newer exports call it; native_batch_norm is the same rule.
    *"_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update".split(),
    *"_batch_norm_no_update cudnn_batch_norm miopen_batch_norm".split(),
    # Kernels that the CPU does not have: there the op appears as its parts.
    *"_fused_rms_norm native_channel_shuffle".split(),
    # Only in backward passes.
    "glu_jvp",
    # Ops with tests of their own, for they need other inputs than a feature map.
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "fake_quantize_per_channel_affine_cachemask",
    "_fused_moving_avg_obs_fq_helper",
    *"_grouped_mm mkldnn_rnn_layer _pack_padded_sequence".split(),
    # Met on tensors whose sign or conjugate is pending; and lookups that only inference makes.
    *"_conj_physical _neg_view resolve_conj resolve_neg _embedding_bag_forward_only".split(),
}


def runs(name: str) -> tuple[Run, str]:
    case = CASES[name]
    return case if isinstance(case, tuple) else (case, "")


def named_in(code: CodeType) -> set[str]:
    """The names that a function and those inside it use."""
    inner = (named_in(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inner)


class Around(nn.Module):
    """A convolution, the op, and a linear layer that reads its result."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.s, self.v = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8))
        self.w, self.b, self.k = (
            nn.Parameter(torch.randn(8, 5)),
            nn.Parameter(torch.randn(5)),
            nn.Parameter(torch.randn(4, 8, 1, 1)),
        )
        layers = {"conv": nn.Conv2d(8, 4, 3), "bn": nn.BatchNorm2d(8), "gn": nn.GroupNorm(4, 8)}
        for name in filter(named_in(run.__code__).__contains__, layers):  # layers that idle are compared in training
            self.add_module(name, layers[name])
        self.head = nn.Linear(self.middle(torch.randn(1, 3, 6, 6)).shape[1], 3)

    def middle(self, x: Tensor) -> Tensor:
        y = self.run(self, self.a(x).sigmoid() * 0.6 + 0.2)
        y = y[0] if isinstance(y, tuple) else y
        return y.reshape(x.shape[0], -1).to(x.dtype)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(x))  # type: ignore[no-any-return]


def build(name: str) -> Around:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Around(runs(name)[0]).eval()


def inputs(batch: int) -> tuple[Tensor]:
    return (torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)


def emitted(graph: fxprune.Graph) -> set[str]:
    """Names of the recorded ops, as the table has them."""
    found = set()
    for node in graph.fx.nodes:
        if hasattr(node.target, "_schema"):
            name = node.target._schema.name.removeprefix("aten::")
            found |= {name, name.rstrip("_")}
    return found


def exists(name: str) -> bool:
    library, _, op = name.rpartition("::")
    return hasattr(getattr(torch.ops, library or "aten"), op)


def test_every_rule_has_a_case() -> None:
    """Names that PyTorch does not have (the table is partly a product of words) need none."""
    assert sorted(n for n in OPS if exists(n) and n not in CASES and n not in WITHOUT_CASE) == []
    assert sorted(n for n in {*CASES, *WITHOUT_CASE} if n not in OPS) == []
    assert sorted(WITHOUT_CASE & set(CASES)) == []


def test_every_rule_is_the_name_of_an_op() -> None:
    """A misspelt name would never be met. Some ops are newer than the oldest PyTorch that is supported."""
    products, newer = ("avg_pool", "max_pool"), ("_fused_rms_norm", "_grouped_mm")
    assert [n for n in OPS if not exists(n) and n not in newer and not any(p in n for p in products)] == []


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    _, reason = runs(name)
    model, x = build(name), inputs(2)
    graph = fxprune.trace(model, x)
    assert name in emitted(graph) or torch.__version__ < RECORDED_SINCE.get(name, TorchVersion("0"))
    groups = fxprune.find_groups(graph)
    assert name not in {op.removeprefix("aten.").partition(".")[0] for op in groups.unknown_ops}
    fixed = [f.reason for f in groups.fixed if (f.tensor, f.dim) == ("a.weight", 0)]
    if reason:
        assert any(reason in why for why in fixed), fixed
    else:
        assert not fixed
    for ratio in (0.3, 0.8) if len(groups) else ():
        examine(name, build(name), groups, ratio)


def examine(name: str, model: nn.Module, groups: fxprune.Groups, ratio: float) -> None:
    """The oracle, but for the MACs: the flop counter does not know all products of this table."""
    plan = random_plan(model, groups, ratio)
    assert fxprune.verify(model, without_mixed(groups, plan), inputs(2)) <= ROUNDING
    small = fxprune.rewrite(model, plan)
    assert parameter_count(small) == fxprune.cost(groups, plan).parameters
    for batch in (1, 3):
        check_outputs(model, small, inputs(batch))
    check_round_trip(lambda: build(name), small, plan, inputs(2))
    if name not in UNTRAINABLE:
        check_training(model, small, inputs(3))


@pytest.mark.parametrize("dim", [None, -1, 2, 1])
@pytest.mark.parametrize(
    "op",
    [torch.sort, torch.mode, partial(torch.kthvalue, k=2), torch.median],
    ids=["sort", "mode", "kthvalue", "median"],
)
def test_a_dim_that_is_not_given_is_the_last(op: Callable[..., Any], dim: int | None) -> None:
    """PyTorch records no argument that has its default; the k of a k-th value is no dim."""
    taken = {} if dim is None and op is not torch.median else {"dim": -1 if dim is None else dim}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            values = op(self.a(x).flatten(2), **taken)[0]  # (batch, 16, 16), or a dim less
            y: Tensor = self.out(values.reshape(len(x), 16, -1).mean(2) if dim != 1 else values)
            return y

    model, x = Net().eval(), torch.randn(2, 3, 4, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == ([] if dim == 1 else [16])
    if len(groups):
        assert fxprune.verify(model, groups.plan({"a": [0, 3, 9]}), x) < ROUNDING


def test_what_squeeze_may_drop_keeps_two() -> None:
    """With a single channel left, a dim more would go; the code may mistake it for the batch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 1)
            self.gate, self.out = nn.Linear(6, 16), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            y = self.b(x).mean((2, 3), keepdim=True).squeeze()
            y = y[None] if y.dim() < 2 else y
            out: Tensor = self.out(x * self.gate(y).sigmoid()[..., None, None])
            return out

    result = fxprune.prune(Net().eval(), torch.randn(1, 3, 8, 8), pruning_ratio=0.9)
    assert result.report.kept["b"] == 2
    assert result.model(torch.randn(3, 3, 8, 8)).shape == (3, 4, 6, 6)


def test_a_rule_is_seen_by_the_next_analysis_of_the_same_graph() -> None:
    """With an entry, an op's channels are free; without, they are fixed; in between, nothing is recorded anew."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softplus(), nn.Conv2d(8, 2, 1))
    graph, spec = fxprune.trace(model, inputs(1)), OPS["softplus"]
    before = fxprune.find_groups(graph)
    fxprune.ops.unregister("softplus")
    try:
        without = fxprune.find_groups(graph)
    finally:
        fxprune.ops.register("aten::softplus", spec)
    assert (len(before), len(without), len(fxprune.find_groups(graph))) == (1, 0, 1)
    assert dict(without.unknown_ops) == {"aten.softplus.default": 1}
    assert fxprune.rewrite(model, before.plan({"0": [1, 2]}))[2].weight.shape == (2, 2, 1, 1)
