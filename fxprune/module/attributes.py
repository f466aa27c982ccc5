"""Attributes: what modules know of their widths, beside their tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

from fxprune.module.literals import NoGraphError, computed_sizes, is_computed, is_literal, literals, with_literals

M = TypeVar("M", bound=nn.Module)


def mend(model: M, attributes: Mapping[str, Mapping[str, int]]) -> M:
    """Set the modules' widths: those that are given, and those that follow from tensor shapes.

    Returns:
        The model; a `torch.fx.GraphModule` in its place if its own forward held a literal to mend.
    """
    for path, values in attributes.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            if not is_literal(name):
                setattr(module, name, (value,) if isinstance(getattr(module, name), tuple) else value)
    _follow_tensors(model)
    # Inner modules first: a module's graph refers to them by name.
    for path in sorted(attributes, key=lambda p: -p.count(".") - bool(p)):
        new = {name: value for name, value in attributes[path].items() if is_literal(name)}
        if new:
            model = _exchanged(model, path, with_literals(model.get_submodule(path), new))
    return model


def int_of(module: nn.Module, name: str) -> int | None:
    """The int that an attribute holds, alone or in a tuple of one (`normalized_shape`); no property is run."""
    value = _own(module, name)
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return value if type(value) is int else None


def can_become(module: nn.Module, name: str, new: int) -> bool:
    """Whether a module has an int attribute, or a literal in its code, of this name that can shrink to `new`.

    A layer of PyTorch's needs at least one channel, where other code may pad by nothing.
    """
    try:
        if is_computed(name):
            return any(name in sizes for sizes in computed_sizes(module).values())
        old = literals(module).get(name) if is_literal(name) else int_of(module, name)
    except NoGraphError:
        return False
    lowest = 1 if isinstance(module, _LAYERS) and not is_literal(name) else 0
    return type(old) is int and lowest <= new <= old


def _own(module: nn.Module, name: str) -> Any:
    """What is stored under a name in a module or its class, unless PyTorch keeps its books under it."""
    return None if name in vars(nn.Module) else inspect.getattr_static(module, name, None)


def _exchanged(model: M, path: str, new: nn.Module) -> M:
    """`new` in all places of the module at `path`."""
    old = model.get_submodule(path)
    if old is model:
        return new  # type: ignore[return-value]
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
    return model


def _follow_tensors(model: nn.Module) -> None:
    for module in model.modules():
        for kind, widths in _WIDTHS.items():
            if isinstance(module, kind):
                for name, value in widths(module):
                    if getattr(module, name, None) != value:
                        setattr(module, name, value)


Widths = Iterator[tuple[str, Any]]


def _shape(m: Any) -> tuple[int, ...]:
    """The shape of a layer's weight, () without one; what a weight is computed from before each forward comes first."""
    # torch.nn.utils.spectral_norm and weight_norm leave the weight of the last forward behind.
    source = next((m._parameters[k] for k in ("weight_orig", "weight_v") if k in m._parameters), m.weight)
    return () if source is None else tuple(source.shape)


def _convolution(m: Any) -> Widths:
    a, b = _shape(m)[0], _shape(m)[1] * m.groups
    yield from zip(
        ("in_channels", "out_channels") if m.transposed else ("out_channels", "in_channels"), (a, b), strict=True
    )


def _linear(m: Any) -> Widths:
    yield from zip(("out_features", "in_features"), _shape(m), strict=True)


def _statistics(m: Any) -> Widths:
    known = _shape(m) or (() if m.running_mean is None else m.running_mean.shape)
    if known:
        yield "num_features", known[0]


def _normalized(m: Any) -> Widths:
    if _shape(m):
        yield "normalized_shape", _shape(m)


def _group_norm(m: Any) -> Widths:
    if _shape(m):
        yield "num_channels", _shape(m)[0]


def _embedding(m: Any) -> Widths:
    yield from zip(("num_embeddings", "embedding_dim"), _shape(m), strict=True)


# What PyTorch's own modules know of their widths, as a function of their tensors.
_WIDTHS: dict[type, Callable[[Any], Widths]] = {
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _statistics,
    nn.LayerNorm: _normalized,
    nn.RMSNorm: _normalized,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: lambda m: iter([("num_parameters", _shape(m)[0])]),
    nn.RNNBase: lambda m: iter([("input_size", m.weight_ih_l0.shape[1])]),
}
_LAYERS = (*_WIDTHS, nn.MultiheadAttention)
