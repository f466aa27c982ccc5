"""Guess: which attributes or literals may hold a width that the code asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import fx, nn

from fxprune.analysis.labels.dims import Labels, WidthUse
from fxprune.module.literals import NoGraphError, computed_sizes, is_computed, literals

# Ints that may hold the widths together.
Guess = tuple[WidthUse, ...]
# Guesses for what a recorded call asked for, given label arrays of one length.
Guesser = Callable[[nn.Module, fx.Node, Sequence[Labels]], Iterator[Guess]]


def attributes(model: nn.Module, node: fx.Node, wanted: Sequence[Labels]) -> Iterator[Guess]:
    """The attributes nearest to the issuing module that hold the wanted length."""
    return attributes_near(node.meta["module"], model, node, wanted)


def attributes_near(module: str, model: nn.Module, _: fx.Node, wanted: Sequence[Labels]) -> Iterator[Guess]:
    """The attributes nearest to a module that hold the wanted length."""
    for path, name in _holders(model, module, len(wanted[0])):
        yield from ((WidthUse(path, name, labels),) for labels in wanted)


def code(model: nn.Module, node: fx.Node, wanted: Sequence[Labels]) -> Iterator[Guess]:
    """The literals in the issuing module's code that hold the wanted length, call by call.

    A call with as many of them as there are label arrays holds one after another (a pad: before and after).
    """
    path = node.meta["module"]
    try:
        known = literals(model.get_submodule(path))
    except NoGraphError:
        return
    calls: dict[str, list[str]] = {}
    for name, value in known.items():
        if value == len(wanted[0]):
            calls.setdefault(name.partition("[")[0], []).append(name)
    for names in calls.values():
        if len(names) == len(wanted):
            yield tuple(WidthUse(path, name, labels) for name, labels in zip(names, wanted, strict=True))
        else:
            yield from ((WidthUse(path, name, labels),) for name in names for labels in wanted)


def computed(model: nn.Module, node: fx.Node, wanted: Sequence[Labels]) -> Iterator[Guess]:
    """The sizes of the wanted length that the issuing module's code computes for a reshape of the recorded shape."""
    path, shape = node.meta["module"], node.meta["shape"]
    try:
        calls = computed_sizes(model.get_submodule(path))
    except NoGraphError:
        return
    for sizes in calls.values():
        fits = len(sizes) == len(shape) and all(a in (0, -1, n) for a, n in zip(sizes.values(), shape, strict=True))
        for name, n in zip(sizes, shape, strict=False) if fits else ():
            if is_computed(name) and n == len(wanted[0]):
                yield from ((WidthUse(path, name, labels),) for labels in wanted)


def obstacle(model: nn.Module, node: fx.Node) -> str:
    """Why the issuing module's code cannot be rewritten; empty if it can."""
    try:
        literals(model.get_submodule(node.meta["module"]))
    except NoGraphError as error:
        return str(error)
    return ""


def _holders(model: nn.Module, path: str, length: int) -> list[tuple[str, str]]:
    """The attributes nearest to a module that hold a value, as (module, attribute) pairs.

    Looked at are the module's own attributes, then its children's, then those of the modules around it, inside out. The
    children that PyTorch brings along follow their tensors anyway.
    """
    while True:
        found = [*_own(model, path, length)] or [*_childrens(model, path, length)]
        if found or not path:
            return found
        path = path.rpartition(".")[0]


def _own(model: nn.Module, path: str, length: int) -> Iterator[tuple[str, str]]:
    for name, value in vars(model.get_submodule(path)).items():
        if type(value) is int and value == length:
            yield path, name


def _childrens(model: nn.Module, path: str, length: int) -> Iterator[tuple[str, str]]:
    for name, child in model.get_submodule(path).named_children():
        if not type(child).__module__.startswith("torch.nn."):
            yield from _own(model, f"{path}.{name}" if path else name, length)
