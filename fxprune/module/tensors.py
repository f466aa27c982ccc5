"""Tensors: a model's parameters and buffers, and the tensors in its plain attributes, by name and in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.module.held_tensors import held_tensors

Place: TypeAlias = tuple[dict[str, Any], str, str, Tensor]
"""Registry, key in it, qualified name, tensor."""

_ASKED = "shape dtype device ndim layout requires_grad grad is_cuda is_meta is_sparse is_leaf"
FACTS = frozenset(
    [
        *(getattr(Tensor, name).__get__ for name in _ASKED.split()),
        *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex),
    ]
)
"""What code asks a tensor without reading its numbers, as a TorchFunctionMode sees it."""


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` without its recursion, in which every module is handed up through all its parents."""
    seen: set[nn.Module] = set()
    ahead: list[tuple[str, nn.Module]] = [("", model)]
    while ahead:
        path, module = ahead.pop()
        if module not in seen:
            seen.add(module)
            yield path, module
            if module._modules:
                prefix = path and f"{path}."
                children = reversed(module._modules.items())
                ahead += [(prefix + name, child) for name, child in children if child is not None]


def _places(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Place]:
    """Where parameters and buffers are kept."""
    for path, module in modules:
        prefix = path and f"{path}."
        registries: list[dict[str, Any]] = [r for r in (module._parameters, module._buffers) if r]
        for registry in registries:
            for key, tensor in registry.items():
                if tensor is not None:
                    yield registry, key, prefix + key, tensor


def _held_places(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[Place]:
    """Where tensors are kept in plain attributes, as `_places`."""
    if held := held_tensors([module for _, module in modules]):
        prefixes = {module: path and f"{path}." for path, module in modules}
        yield from ((vars(module), key, prefixes[module] + key, tensor) for module, key, tensor in held)


def _all_places(model: nn.Module) -> Iterator[Place]:
    modules = list(walk(model))
    yield from _places(modules)
    yield from _held_places(modules)


def held_of(model: nn.Module) -> dict[int, Tensor]:
    """The tensors in plain attributes that can be cut, by `id`."""
    return {id(tensor): tensor for *_, tensor in _held_places(list(walk(model)))}


def swap_held(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    """As `swap_tensors`, for tensors in plain attributes."""
    return _swap(_held_places(list(walk(model))), replace)


def swap_tensors(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    """Put `replace(name, tensor)` in the place of every parameter and buffer; shared ones are replaced once.

    Call it inside `isolated`. Returns the qualified name of each new tensor by its `id`.
    """
    return _swap(_places(walk(model)), replace)


def swap_all(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    """As `swap_tensors`, for all of `tensors_of`."""
    return _swap(_all_places(model), replace)


def _swap(places: Iterable[Place], replace: Callable[[str, Tensor], Tensor]) -> dict[int, str]:
    done: dict[int, Tensor] = {}
    names: dict[int, str] = {}
    for registry, key, name, tensor in places:
        new = done.get(id(tensor))
        if new is None:
            new = done[id(tensor)] = replace(name, tensor)
            names[id(new)] = name
        registry[key] = new
    return names


def tensor_names(model: nn.Module) -> dict[int, str]:
    """The qualified name of every tensor of `tensors_of` by its `id`; shared ones by their first name."""
    names: dict[int, str] = {}
    for _, _, name, tensor in _all_places(model):
        names.setdefault(id(tensor), name)
    return names


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers and `held_tensors` by qualified name, each shared tensor once, under its first name."""
    first: dict[int, tuple[str, Tensor]] = {}
    for _, _, name, tensor in _all_places(model):
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def overlapping(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of tensors that are views of the same memory, each with that of one which it meets there.

    >>> whole = torch.zeros(4, 2)
    >>> overlapping({"whole": whole, "rows": whole[2:], "other": torch.zeros(4)})
    {'rows': 'whole', 'whole': 'rows'}
    """
    found: dict[str, str] = {}
    reached, last = ("", 0), ""  # the device and the end of the memory that was reached there
    for device, start, end, name in sorted(_spans(tensors)):
        if device == reached[0] and start < reached[1]:
            found[name] = last
            found.setdefault(last, name)
        if (device, end) > reached:
            reached, last = (device, end), name
    return found


def in_attributes(model: nn.Module) -> dict[str, Tensor]:
    """The tensors in plain attributes by qualified name, but for parameters and buffers."""
    modules = list(walk(model))
    holders = [(path, m) for path, m in modules if Tensor in map(type, vars(m).values())]
    registered = {id(t) for *_, t in _places(modules)} if holders else ()
    return {
        f"{path}.{key}".lstrip("."): t
        for path, m in holders
        for key, t in vars(m).items()
        if type(t) is Tensor and id(t) not in registered
    }


def _spans(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int, int, str]]:
    """The device of each tensor, the first byte of its memory, the one after its last, and its first name."""
    for name, t in {id(t): (name, t) for name, t in [*tensors.items()][::-1]}.values():
        if t.layout is torch.strided and not t.is_meta and t.numel():
            with suppress(RuntimeError):  # subclasses that hold other tensors have no memory of their own
                yield str(t.device), (start := t.data_ptr()), start + reach(t) * t.element_size(), name


def reach(tensor: Tensor) -> int:
    """How many numbers of the memory lie between a tensor's first and its last, both included."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def check_initialised(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have no shape yet, as lazy layers hold them before the first run.

    Raises:
        InputError: there is one.
    """
    lazy = next((name for name, t in tensors.items() if nn.parameter.is_lazy(t)), None)
    if lazy is not None:
        remedy = "run the model once first"
        raise InputError("the model has uninitialised (lazy) parameters", where=lazy, remedy=remedy)


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Further names of shared parameters and buffers, as in a `state_dict`: {name: first name}."""
    children = [c for _, m in walk(model) for c in m._modules.values() if c is not None]
    places = [id(t) for *_, t in _places(walk(model))]
    if len(set(places)) == len(places) and len({*children, model}) == len(children) + 1:
        return {}  # quickly, for most models share nothing
    first = tensor_names(model)
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in named if first[id(tensor)] != name}
