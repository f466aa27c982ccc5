"""Zeros: which tensors are zero in masked channels, and which ops therefore tell a masked channel from a removed one.

A masked channel is zero where it is made, and stays zero through most ops; but sigmoid(0) is 0.5. A sum, a norm or a
product of activations that runs over such channels gives another result once they are gone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Fix
from fxprune.analysis.labels.labels import Labelling
from fxprune.analysis.ops.norm import BATCH_NORMS

# f(0) = 0, element by element, in the first argument.
_UNARY = frozenset(
    """
abs alias as_strided asin atan celu ceil clone col2im constant_pad_nd contiguous detach div dropout elu erf expand expm1
flip floor gelu hardshrink hardswish im2col index index_select leaky_relu lift_fresh log1p mish native_dropout
neg permute pixel_shuffle pixel_unshuffle prelu _prelu_kernel relu relu6 repeat reshape roll round rrelu_with_noise
select sgn sign silu sin sinh slice softshrink split split_with_sizes sqrt square squeeze t tan tanh _to_copy transpose
trunc unbind unfold unsafe_split unsqueeze _unsafe_view _reshape_alias view mean sum amax amin linalg_vector_norm
native_channel_shuffle fill_zero zero zeros_like zeros new_zeros
avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices
max_pool3d_with_indices upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d upsample_linear1d
upsample_nearest3d upsample_trilinear3d grid_sampler_2d grid_sampler_3d masked_fill
native_layer_norm native_group_norm
""".split()
).union(BATCH_NORMS)
_ANY = frozenset(["mul", "logical_and", "bitwise_and"])
_ALL = frozenset(["add", "sub", "cat", "stack", "copy", "maximum", "minimum", "lerp", "rsub"])
_PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "mv": (0, 1), "dot": (0, 1)}
_SUMS = frozenset(["sum", "nansum", "linalg_vector_norm", "norm"])


def told_apart(labelling: Labelling) -> Iterator[Fix]:
    """The calls that run over labelled dims whose masked channels are not zero, with the labels concerned."""
    zero: dict[fx.Node, bool] = {}
    for node in labelling.graph.fx.nodes:
        if node.op == "get_attr":
            zero[node] = _has_channels(node, labelling)
        else:
            zero[node] = node.op == "call_function" and _stays_zero(node, zero) and not _shifted(node, labelling)
        if node.op == "call_function" and node.target is not operator.getitem:
            yield from _mixing(node, zero, labelling)


def _has_channels(node: fx.Node, labelling: Labelling) -> bool:
    """Whether a parameter is masked where it has channels; one number for all of them is not."""
    axes: Any = labelling.axes[node]
    return any(isinstance(axes.known(i), np.ndarray) for i in range(len(axes)))


def _name(node: fx.Node) -> str:
    name: str = getattr(node.target, "_opname", "getitem")
    return name if name in _UNARY else name.rstrip("_")


def _stays_zero(node: fx.Node, zero: dict[fx.Node, bool]) -> bool:
    if node.target is operator.getitem:
        return zero[node.args[0]]  # type: ignore[index]
    name, inputs = _name(node), node.all_input_nodes
    if name in _ANY:
        return any(zero[n] for n in inputs)
    if name in _ALL:
        shifted = name in ("add", "sub", "rsub") and any(isinstance(a, float | int) and a != 0 for a in node.args[:2])
        return not shifted and all(zero[n] for n in inputs)
    if name == "convolution":
        return True  # weights and bias are masked
    if name in _PRODUCTS:
        return all(zero[n] for n in inputs) or _by_weight(node, name)
    if name in _RANGES:
        low, high = (b or 0 for b in _RANGES[name](node))
        known = isinstance(low, float | int) and isinstance(high, float | int)  # bounds may also be tensors
        return zero[inputs[0]] and known and low <= 0 <= high
    if name in _FILLS and _argument(node, _FILLS[name], "value") not in (0, False):
        return False
    return name in _UNARY and (not inputs or zero[inputs[0]])


# Layers: which argument is the bias, and which dim of the result it lies along.
_BIASES = {"addmm": (0, -1), "linear": (2, -1), "convolution": (2, 1)}


def _shifted(node: fx.Node, labelling: Labelling) -> bool:
    """Whether a layer adds its bias to all of a labelled dim that is not its own: channels lie beside what it mixes."""
    if (name := _name(node)) not in _BIASES:
        return False
    argument, own = _BIASES[name]
    if _argument(node, argument, "bias", None) is None:
        return False
    axes: Any = labelling.axes[node]
    own %= len(axes)
    return any(isinstance(axes.known(i), np.ndarray) for i in range(len(axes)) if i != own)


def _argument(node: fx.Node, i: int, name: str, default: Any = 0) -> Any:
    return node.args[i] if len(node.args) > i else node.kwargs.get(name, default)


# Which argument is the value that an op puts in.
_FILLS = {"constant_pad_nd": 2, "masked_fill": 2}
# Between which numbers an op keeps what it gets.
_RANGES: dict[str, Callable[[fx.Node], tuple[Any, Any]]] = {
    "hardtanh": lambda n: (_argument(n, 1, "min_val", -1), _argument(n, 2, "max_val", 1)),
    "clamp": lambda n: (_argument(n, 1, "min"), _argument(n, 2, "max")),
    "clamp_min": lambda n: (_argument(n, 1, "min"), 0),
    "clamp_max": lambda n: (0, _argument(n, 1, "max")),
}


# What a linear layer may do to its weight first.
_WEIGHT_MOVES = frozenset("t transpose permute split getitem slice".split())


def _by_weight(node: fx.Node, name: str) -> bool:
    """A linear layer: its columns are the weight's rows, which are masked."""
    second = node.args[_PRODUCTS[name][1]]
    while isinstance(second, fx.Node) and second.op == "call_function" and _name(second) in _WEIGHT_MOVES:
        second = second.args[0]
    return isinstance(second, fx.Node) and second.op == "get_attr"


def _mixing(node: fx.Node, zero: dict[fx.Node, bool], labelling: Labelling) -> Iterator[Fix]:
    name = _name(node)
    if name in _SUMS and not zero[node.args[0]]:  # type: ignore[index]
        yield from _gone(node, labelling)
    elif name in _PRODUCTS:
        factors = [node.args[i] for i in _PRODUCTS[name]]
        if not any(zero[f] for f in factors):  # type: ignore[index]
            axes = labelling.axes[factors[0]]  # type: ignore[index]
            yield from _fixes([axes[len(axes) - 1]], node)


def _gone(node: fx.Node, labelling: Labelling) -> Iterator[Fix]:
    """The dims that a reduction sums over: those whose labels the result lacks."""
    before: Any = labelling.axes[node.args[0]]  # type: ignore[index]
    after: Any = labelling.axes[node]
    left = {id(after.known(i)) for i in range(len(after))}
    yield from _fixes((d for d in before.dims() if id(d) not in left), node)


def _fixes(dims: Iterable[Any], node: fx.Node) -> Iterator[Fix]:
    return (Fix(d, str(node.target), node) for d in dims if isinstance(d, np.ndarray))
