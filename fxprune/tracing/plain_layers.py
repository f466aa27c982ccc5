"""The plainest layers of PyTorch: a recorded run need not look at their functions, nor even call the commonest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.module.tensors import walk
from fxprune.tracing.functions import PLAIN_LAYER
from fxprune.tracing.provenance import plain
from fxprune.tracing.recorder import Recorder

aten = torch.ops.aten

# PyTorch's own layers whose functions take no size from anyone's code.
_PLAIN = frozenset(
    (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.ReLU6),
        *(nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    )
)


def spare_plain_layers(model: nn.Module, recorder: Recorder) -> None:
    """Hide the functions that the plainest layers call from `Functions`, which makes each take twice its time.

    The commonest layers, and averages of whole images, are recorded without being run: PyTorch's way from a layer to
    its ATen call takes most of the time of a recording. Call it inside `isolated`, for a run on meta tensors only:
    others may rely on seeing the calls.
    """
    for _, module in walk(model):
        kind = type(module)
        if (kind in _PLAIN or kind in _CALLS) and "forward" not in module.__dict__:
            module.__dict__["forward"] = _unseen(module, _CALLS.get(kind), recorder)


Call = Callable[[Any, Tensor], "tuple[Any, tuple[Any, ...]] | None"]


def _unseen(layer: nn.Module, call: Call | None, recorder: Recorder) -> Callable[..., Any]:
    forward, plainest = layer.forward, type(layer) in _PLAIN
    name = PLAIN_LAYER if plainest else "adaptive_avg_pool2d"

    def run(*args: Any, **kwargs: Any) -> Any:
        recorder.function = name
        with torch._C.DisableTorchFunction():
            made = call(layer, *args) if call and _is_image(args, recorder) and not kwargs else None
            known = made and recorder.recorded(*made)
            if known is not None:
                result = known[0] if type(known) is tuple else known
            elif plainest:
                result = forward(*args, **kwargs)
        recorder.function = ""
        return result if plainest or known is not None else forward(*args, **kwargs)

    return run


def _is_image(args: tuple[Any, ...], recorder: Recorder) -> bool:
    """Whether the only argument is a batch of images that has been recorded, and no gradients are wanted."""
    alone = len(args) == 1 and type(args[0]) is Tensor and args[0].is_meta and args[0].dim() == 4
    return alone and not torch.is_grad_enabled() and recorder.refer_to(args[0]) is not None


def _convolution(layer: nn.Conv2d, x: Tensor) -> tuple[Any, tuple[Any, ...]] | None:
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or weight is None:
        return None
    how = ([*layer.stride], [*layer.padding], [*layer.dilation], False, [0, 0], plain(layer.groups))
    return aten.convolution.default, (x, weight, bias, *how)


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor) -> tuple[Any, tuple[Any, ...]] | None:
    mean, variance = layer._buffers.get("running_mean"), layer._buffers.get("running_var")
    if layer.training or mean is None or variance is None:
        return None
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    how = (False, 0.0 if layer.momentum is None else layer.momentum, layer.eps)
    return aten.native_batch_norm.default, (x, weight, bias, mean, variance, *how)


def _global_average(layer: nn.AdaptiveAvgPool2d, x: Tensor) -> tuple[Any, tuple[Any, ...]] | None:
    """PyTorch computes an average of whole images as a mean."""
    size = layer.output_size
    one = all(plain(n) == 1 for n in (size if isinstance(size, tuple | list) else (size,)))
    return (aten.mean.dim, (x, [-1, -2], True)) if one and x.is_contiguous() else None


def _activation(fresh: Any, in_place: Any) -> Call:
    return lambda layer, x: (in_place if layer.inplace else fresh, (x,))


_CALLS: dict[type, Call] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.AdaptiveAvgPool2d: _global_average,
    nn.ReLU: _activation(aten.relu.default, aten.relu_.default),
    nn.SiLU: _activation(aten.silu.default, aten.silu_.default),
    nn.Hardswish: _activation(aten.hardswish.default, aten.hardswish_.default),
    nn.Hardsigmoid: _activation(aten.hardsigmoid.default, aten.hardsigmoid_.default),
}
