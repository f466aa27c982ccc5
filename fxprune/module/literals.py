"""Literals: the numbers in the code of a module's `forward`, found and replaced in its torch.fx graph.

A literal is named after the call that it is an argument of, as in `pad[1][4]`: in the module's graph, the node `pad`,
its second argument, the fifth entry. Square brackets tell it from an attribute. A size that the code computes from
others (`x.view(n, c // heads)`) can be replaced by a literal as well: `size(view[2])`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn


class NoGraphError(Exception):
    """The module's forward cannot be written as a graph; the text says why."""


def is_literal(name: str) -> bool:
    """Whether a name is a literal's (or a computed size's), not an attribute's."""
    return "[" in name


def is_computed(name: str) -> bool:
    """Whether a name is a computed size's."""
    return name.startswith("size(")


def literals(module: nn.Module) -> dict[str, int]:
    """The int literals in a module's own forward, submodules' not included, in execution order.

    Raises:
        NoGraphError: it has control flow, optional arguments, or code that depends on the training mode.

    >>> class Flatten(nn.Module):
    ...     def forward(self, x):
    ...         return x.view(-1, 64 * 7 * 7)
    >>> literals(Flatten())
    {'view[1]': -1, 'view[2]': 3136}
    """
    return {name: value for node in _graph(module).nodes for name, value in _of(node)}


def computed_sizes(module: nn.Module) -> dict[str, dict[str, int]]:
    """The sizes that the reshapes in a module's own forward ask for, call by call; 0 for one that the code computes.

    Raises:
        NoGraphError: as for `literals`.

    >>> class Halves(nn.Module):
    ...     def forward(self, x):
    ...         return x.reshape(-1, x.shape[1] // 2, 2)
    >>> computed_sizes(Halves())
    {'reshape': {'reshape[1]': -1, 'size(reshape[2])': 0, 'reshape[3]': 2}}
    """
    return {node.name: dict(_sizes(node)) for node in _graph(module).nodes if node.target in _RESHAPES}


def with_literals(module: nn.Module, values: Mapping[str, int]) -> fx.GraphModule:
    """The module as a `torch.fx.GraphModule` with other literals; parameters, buffers and submodules are shared.

    Raises:
        NoGraphError: as for `literals`.
        KeyError: a literal that the module does not have.
    """
    graph = _graph(module)
    unknown = values.keys() - {name for node in graph.nodes for name, _ in (*_of(node), *_sizes(node))}
    if unknown:
        raise KeyError(min(unknown))
    for node in graph.nodes:
        node.args = tuple(_replaced(a, f"{node.name}[{i}]", values) for i, a in enumerate(node.args))
        node.kwargs = {k: _replaced(a, f"{node.name}[{k}]", values) for k, a in node.kwargs.items()}
    graph._tracer_cls = None  # pickled with the module, and then needed where fxprune is not installed
    made = fx.GraphModule(module, graph, type(module).__name__)
    kept = {k: v for k, v in module.__dict__.items() if k in _STATE or k not in made.__dict__}
    made.__dict__.update(kept)
    return made


# What the new module takes over as it is: tensors, submodules, hooks and mode.
_STATE = frozenset(nn.Module().__dict__)


class _Shallow(fx.Tracer):
    def is_leaf_module(self, *_: Any) -> bool:
        return True


def _graph(module: nn.Module) -> fx.Graph:
    """The module's forward as a graph of its own calls, the same one in both modes."""
    if "forward" in module.__dict__:
        raise NoGraphError("forward was set on the instance")
    optional = [p.name for p in inspect.signature(module.forward).parameters.values() if _optional(p)]
    if optional:
        raise NoGraphError(f"forward has the optional argument {optional[0]}")
    was = module.training
    graphs = []
    try:
        for training in (True, False):
            module.training = training
            graphs.append(_Shallow().trace(module))
    except Exception as error:
        raise NoGraphError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}") from error
    finally:
        module.training = was
    if str(graphs[0]) != str(graphs[1]):
        raise NoGraphError("forward depends on the training mode")
    _check_complete(module, graphs[0])
    return graphs[0]


def _optional(p: inspect.Parameter) -> bool:
    return p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)


def _check_complete(module: nn.Module, graph: fx.Graph) -> None:
    """What the graph does not use, copies of a GraphModule lose."""
    used = [str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")]
    state = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    lost = [name for name in state if not any(name == u or name.startswith(u + ".") for u in used)]
    if lost:
        raise NoGraphError(f"forward does not use {lost[0]}")


def _of(node: fx.Node) -> Iterator[tuple[str, int]]:
    for i, a in enumerate(node.args):
        yield from _ints(a, f"{node.name}[{i}]")
    for k, a in node.kwargs.items():
        yield from _ints(a, f"{node.name}[{k}]")


_RESHAPES = ("view", "reshape", "expand", torch.reshape)


def _sizes(node: fx.Node) -> Iterator[tuple[str, int]]:
    """What a reshape asks for: ints under their names, and computed sizes as 0."""
    if node.target in _RESHAPES:
        sequence = len(node.args) == 2 and isinstance(node.args[1], list | tuple)
        start = f"{node.name}[1]" if sequence else node.name
        sizes: Any = node.args[1] if sequence else node.args[1:]
        for i, size in enumerate(sizes, start=0 if sequence else 1):
            yield (f"{start}[{i}]", size) if type(size) is int else (f"size({start}[{i}])", 0)


def _ints(value: Any, name: str) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield name, value
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            yield from _ints(v, f"{name}[{i}]")
    elif isinstance(value, slice):
        yield from _ints((value.start, value.stop, value.step), name)


def _replaced(value: Any, name: str, new: Mapping[str, int]) -> Any:
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(_replaced(v, f"{name}[{i}]", new) for i, v in enumerate(value))
    if isinstance(value, slice):
        return slice(*(_replaced(v, f"{name}[{i}]", new) for i, v in enumerate((value.start, value.stop, value.step))))
    if isinstance(value, fx.Node):
        return new.get(f"size({name})", value)
    return new.get(name, value) if type(value) is int else value
