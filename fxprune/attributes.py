"""Attributes: what PyTorch's own modules know of their widths, beside their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


def mend(model: nn.Module, attributes: Mapping[str, Mapping[str, int]]) -> None:
    """Set the modules' width attributes: those that the plan gives, and those that follow from tensor shapes."""
    for path, values in attributes.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            setattr(module, name, value)
    for module in model.modules():
        for kind, widths in _WIDTHS.items():
            if isinstance(module, kind):
                for name, value in widths(module):
                    if getattr(module, name, None) != value:
                        setattr(module, name, value)


Widths = Iterator[tuple[str, Any]]


def _convolution(m: Any) -> Widths:
    a, b = m.weight.shape[0], m.weight.shape[1] * m.groups
    yield from zip(
        ("in_channels", "out_channels") if m.transposed else ("out_channels", "in_channels"), (a, b), strict=True
    )


def _linear(m: Any) -> Widths:
    yield from zip(("out_features", "in_features"), m.weight.shape, strict=True)


def _statistics(m: Any) -> Widths:
    known = m.weight if m.weight is not None else m.running_mean
    if known is not None:
        yield "num_features", known.shape[0]


def _normalized(m: Any) -> Widths:
    if m.weight is not None:
        yield "normalized_shape", tuple(m.weight.shape)


def _group_norm(m: Any) -> Widths:
    if m.weight is not None:
        yield "num_channels", m.weight.shape[0]


def _embedding(m: Any) -> Widths:
    yield from zip(("num_embeddings", "embedding_dim"), m.weight.shape, strict=True)


# What PyTorch's own modules know of their widths, as a function of their tensors.
_WIDTHS: dict[type, Callable[[Any], Widths]] = {
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _statistics,
    nn.LayerNorm: _normalized,
    nn.RMSNorm: _normalized,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: lambda m: iter([("num_parameters", m.weight.shape[0])]),
    nn.RNNBase: lambda m: iter([("input_size", m.weight_ih_l0.shape[1])]),
}
