"""Choices: where sizes of the inputs, or optional inputs, decide whether layers run, and the example decides one way.

What is cut is right for the way that was seen. Where a layer may be left out (`if cond is not None: x = self.fuse(x)`)
or run again (`while min(x.shape[-2:]) > 8: x = self.down(x)`), its inputs and outputs have to lose the same channels,
which nothing tells.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.analysis.labels.dims import Loose
from fxprune.analysis.widths.forms import Forms
from fxprune.analysis.widths.polynomials import Parts
from fxprune.analysis.widths.words import shown
from fxprune.module.constants import tree_of
from fxprune.module.literals import method_of
from fxprune.tracing.provenance import Computed, Dim
from fxprune.tracing.trace import Graph
from fxprune.verification.untaken import Compared, choices, guards_by_code, leaves


def one_way_choices(groups: Groups) -> tuple[str, ...]:
    """The lines of the model's code that leave out, or repeat, layers with parameters for other inputs.

    Args:
        groups: of the full-size model.
    """
    found = [*_on_sizes(groups), *_on_arguments(groups.graph)]
    return tuple(dict.fromkeys(found))


def _on_sizes(groups: Groups) -> Iterator[str]:
    if not (codes := guards_by_code(groups.graph)):
        return
    forms = Forms(groups.analysis, Parts(groups.analysis), {})
    for guards in codes:
        code = guards[0].site.code
        seen = Compared.of(guards, lambda g: _follows_input(forms, g.left, g.right))
        if seen is None:
            continue
        module = groups.graph.model.get_submodule(guards[0].site.module)
        for node, ways in _choosing(seen):
            if _runs_layers(ways, module, _own(seen.tree)):
                yield shown(code.co_filename, code.co_firstlineno + node.lineno - 1, guards[0].site.module)


def _choosing(seen: Compared) -> Iterator[tuple[ast.If | ast.IfExp | ast.While, Sequence[ast.AST]]]:
    """What chooses by sizes of the inputs, and went one way, with what it may run; loops that did not run twice."""
    for node, behind in choices(seen.tree):
        if seen.site_in(node.test) is not None and seen.decided(node.test) is not None:
            yield node, [*_ways(node), *(behind if leaves(node) else ())]
    for node in ast.walk(seen.tree):
        if isinstance(node, ast.While) and seen.site_in(node.test) is not None and seen.turns(node.test) <= 1:
            yield node, _ways(node)


def _follows_input(forms: Forms, *sources: Any) -> bool:
    """Whether a number comes from the length of a dim that holds no channels that may go."""
    dims = [s for s in sources if isinstance(s, Dim)]
    if any(isinstance(forms.labels_of(d), np.ndarray | Loose) for d in dims):
        return False
    return bool(dims) or any(_follows_input(forms, s.left, s.right) for s in sources if isinstance(s, Computed))


def _on_arguments(graph: Graph) -> Iterator[str]:
    """Where the model's own forward asks for an optional argument that the example gives, or counts with one."""
    forward = method_of(type(graph.model), "forward")
    tree = None if forward is None or "forward" in vars(graph.model) else tree_of(forward.__code__)
    if forward is None or tree is None:
        return
    args, kwargs = graph.inputs
    try:
        bound = inspect.signature(forward).bind(graph.model, *args, **kwargs).arguments
    except (TypeError, ValueError):  # decorators take other arguments
        return
    optional = {p.name: p.default for p in inspect.signature(forward).parameters.values() if p.default is not p.empty}
    given = {n for n, default in optional.items() if isinstance(bound.get(n, default), Tensor) and default is None}
    once = {n for n, default in optional.items() if type(v := bound.get(n, default)) is int and v <= 1}
    for node in ast.walk(tree):
        chosen = isinstance(node, ast.If | ast.IfExp) and _names(node.test) & given
        counted = isinstance(node, ast.For) and _names(node.iter) & once
        if (chosen or counted) and _runs_layers(_ways(node), graph.model, _own(tree)):
            line = forward.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
            yield shown(forward.__code__.co_filename, line, "")


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _ways(node: ast.AST) -> Sequence[ast.AST]:
    """What runs for one outcome and what for the other."""
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    return [*getattr(node, "body", ()), *getattr(node, "orelse", ())]


def _own(tree: Any) -> str:
    """The name by which a method has its module."""
    given = [*tree.args.posonlyargs, *tree.args.args] if isinstance(tree, ast.FunctionDef) else []
    return given[0].arg if given else "self"


def _runs_layers(
    statements: Sequence[ast.AST], module: nn.Module, own: str, known: frozenset[str] = frozenset()
) -> bool:
    """Whether statements of a method call modules with parameters, themselves or in other methods."""
    for node in (n for s in statements for n in ast.walk(s)):
        called = node.func if isinstance(node, ast.Call) else node.iter if isinstance(node, ast.For) else None
        called = node if called is None and node in statements else called  # one of two layers, to be called later
        name = _attribute(called, own)
        held = getattr(module, name, None) if name else None
        if isinstance(held, nn.Module) and next(held.parameters(), None) is not None:
            return True
        method = method_of(type(module), name) if inspect.ismethod(held) and name not in known else None
        tree = None if method is None else tree_of(method.__code__)
        if tree is not None and _runs_layers(tree.body, module, _own(tree), known | {name}):
            return True
    return False


def _attribute(node: ast.AST | None, own: str) -> str:
    """The attribute of the module that an expression begins with; empty if it begins with nothing of it."""
    name = ""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        name = node.attr if isinstance(node, ast.Attribute) else name
        node = node.func if isinstance(node, ast.Call) else node.value
    return name if isinstance(node, ast.Name) and node.id == own else ""
