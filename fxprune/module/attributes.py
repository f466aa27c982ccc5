"""Attributes: what modules know of their widths, beside their tensors."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import CellType, FunctionType
from typing import Any, TypeVar

from torch import Tensor, nn

from fxprune.module.held_tensors import stored_by_forward
from fxprune.module.literal_classes import set_literals
from fxprune.module.literals import Literal, has_literal, is_literal
from fxprune.module.saved_state import cached_names, over_cells
from fxprune.module.tensors import walk

M = TypeVar("M", bound=nn.Module)


def mend(model: M, attributes: Mapping[str, Mapping[str, int]]) -> M:
    """Set the modules' widths: those that are given, and those that follow from tensor shapes.

    Returns:
        The model. Modules whose code holds a width get a subclass of their class, with another number in its code.
    """
    for path, values in attributes.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            if not is_literal(name):
                _set(module, name, value)
        _keep_lengths(module)
        literals = {name: value for name, value in values.items() if is_literal(name)}
        if literals:
            set_literals(module, literals)
    _follow_tensors(model)
    _forget_cached(model)
    return model


def _forget_cached(model: nn.Module) -> None:
    """Drop what cached properties have kept: it was computed for the widths before."""
    for _, module in walk(model):
        for name in cached_names(type(module)) & vars(module).keys():
            del vars(module)[name]


def own_holders(model: nn.Module, attributes: Mapping[str, Mapping[str, int]]) -> None:
    """Give a model copies of the objects that a mend would change (`config.sizes`), as others may hold them as well.

    Modules that shared one share its copy.
    """
    memo: dict[int, Any] = {id(m): m for m in model.modules()}
    memo |= {id(t): t for t in (*model.parameters(), *model.buffers())}
    mended = {(path, name.partition(".")[0]) for path, names in attributes.items() for name in names if "." in name}
    for path, name in mended:
        holder = vars(model.get_submodule(path)).get(name)
        with suppress(TypeError):  # it holds what cannot be copied, and stays shared
            copy.deepcopy(holder, memo)
    for module in model.modules() if mended else ():
        for name, value in list(vars(module).items()):
            if name not in _OWN and id(value) in memo and not isinstance(value, nn.Module | Tensor):
                vars(module)[name] = memo[id(value)]


_OWN = frozenset(vars(nn.Module()))


def _set(module: nn.Module, name: str, value: int) -> None:
    """Set an int, alone, in a tuple, or in what attributes lead to (`config.sizes.0`); others see it as well.

    What a class holds stays as it is: an object of it gets its own.
    """
    first, *way = name.split(".")
    old = inspect.getattr_static(module, first)
    old = old if first in module.__dict__ else copy.copy(old)
    setattr(module, first, _changed(old, way, value))


def _keep_lengths(module: nn.Module) -> None:
    """einops' layers run by `_axes_lengths`, and are copied and pickled by the dict that it was made of."""
    lengths = vars(module).get("_axes_lengths")
    if lengths is not None and type(module).__module__.startswith("einops.layers."):
        vars(module)["axes_lengths"] = dict(lengths)


def _changed(old: Any, way: Sequence[str], value: int) -> Any:
    """What holds a new int at the end of a way: the same object, but for numbers and tuples."""
    if not way:
        return (value,) if isinstance(old, tuple) else value
    first, *rest = way
    if isinstance(old, tuple):
        return tuple(_changed(v, rest, value) if i == int(first) else v for i, v in enumerate(old))
    inner = _item(old, first)
    if isinstance(old, FunctionType):
        return _closed_over(old, first, _changed(inner, rest, value))
    if isinstance(old, list | deque | dict):
        old[_key(old, first)] = _changed(inner, rest, value)
    else:
        held = first in old.__dict__
        old.__dict__[first] = _changed(inner if held else copy.copy(inner), rest, value)
    return old


def _closed_over(function: FunctionType, variable: str, value: Any) -> FunctionType:
    """The same function with another value in its closure: others, and copies of the model, share the old one."""
    named = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    cells = tuple([CellType(value) if name == variable else cell for name, cell in named])
    return over_cells(function, cells)


def _item(holder: Any, key: str) -> Any:
    if isinstance(holder, FunctionType):
        return (holder.__closure__ or ())[holder.__code__.co_freevars.index(key)].cell_contents
    if isinstance(holder, list | deque | tuple | dict):
        return holder[_key(holder, key)]
    return inspect.getattr_static(holder, key)


def _key(holder: Any, key: str) -> Any:
    """The index or key that a name stands for; the keys of a dict are texts or ints."""
    return key if isinstance(holder, dict) and key in holder else int(key)


def int_of(module: nn.Module, name: str) -> int | None:
    """The int that an attribute holds, alone or in a tuple of one (`normalized_shape`), or that its dots lead to; no
    property is run.
    """
    first, *way = name.split(".")
    classes = first in vars(nn.Module) and first not in vars(module)  # a module may hold a width as `half`
    value = None if classes else inspect.getattr_static(module, first, None)
    try:
        for key in way:
            value = _item(value, key)
    except (KeyError, IndexError, ValueError, AttributeError):
        return None
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return value if type(value) is int else None


def can_become(module: nn.Module, name: str, new: int) -> bool:
    """Whether a module has an int attribute, or a literal in its code, of this name that can shrink to `new`.

    A layer of PyTorch's needs at least one channel, where other code may pad by nothing.
    """
    if is_literal(name):
        value = Literal.named(name).value
        return has_literal(module, name) and min(0, value) <= new <= max(0, value)
    if vars(module).get(name, 0) is None:
        return name in stored_by_forward(type(module))  # which a model that has not run has yet to store
    old = int_of(module, name)
    return type(old) is int and (1 if isinstance(module, _LAYERS) else 0) <= new <= old


def tensor_of(module: nn.Module, name: str) -> tuple[str, int] | None:
    """The parameter and the dim of it whose length an attribute of one of PyTorch's own layers is, if any."""
    if isinstance(module, nn.modules.conv._ConvNd):
        plain = {"out_channels": 1, "in_channels": 0} if module.transposed else {"out_channels": 0, "in_channels": 1}
        return ("weight", plain[name]) if module.groups == 1 and name in plain else None
    known = next((dims for kind, dims in _TENSORS.items() if isinstance(module, kind)), {})
    return known.get(name)


# Of which tensor's which dim some attributes of PyTorch's own layers are the length.
_TENSORS: dict[type, dict[str, tuple[str, int]]] = {
    nn.Linear: {"out_features": ("weight", 0), "in_features": ("weight", 1)},
    nn.modules.batchnorm._NormBase: {"num_features": ("weight", 0)},
    nn.GroupNorm: {"num_channels": ("weight", 0)},
    nn.Embedding: {"num_embeddings": ("weight", 0), "embedding_dim": ("weight", 1)},
    nn.RNNBase: {"input_size": ("weight_ih_l0", 1)},
}


def _follow_tensors(model: nn.Module) -> None:
    for module in model.modules():
        for kind, widths in _WIDTHS.items():
            if isinstance(module, kind):
                with _at_rest(module):
                    known = list(widths(module))
                for name, value in known:
                    if getattr(module, name, None) != value:
                        setattr(module, name, value)


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """A weight that is computed can be read: in training mode, spectral norm changes with each look at it."""
    computing = getattr(module, "parametrizations", None)
    modes = [(m, m.training) for m in computing.modules()] if isinstance(computing, nn.Module) else []
    for part, _ in modes:
        part.__dict__["training"] = False
    try:
        yield
    finally:
        for part, training in modes:
            part.__dict__["training"] = training


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


def _recurrent(m: Any) -> Widths:
    """A gate has a row for each hidden channel; a projection replaces what is fed back."""
    yield "input_size", m.weight_ih_l0.shape[1]
    yield "hidden_size", m.weight_hh_l0.shape[0] // {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    if m.proj_size:
        yield "proj_size", m.weight_hh_l0.shape[1]


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
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: lambda m: iter([("input_size", m.weight_ih.shape[1]), ("hidden_size", m.weight_hh.shape[1])]),
}
_LAYERS = (*_WIDTHS, nn.MultiheadAttention)
