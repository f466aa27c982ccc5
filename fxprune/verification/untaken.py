"""Untaken: branches on sizes of the inputs that the example did not take, and that hold numbers of their own.

Nothing is known of what a branch does that has not run (`x[:, : self.width // 2]`, for large images alone). Where it
takes numbers for sizes, these may be widths, which another input would need.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from torch import nn

from fxprune.analysis.widths.words import at_line
from fxprune.module.attributes import int_of
from fxprune.module.constants import tree_of
from fxprune.tracing.functions import SIZED, Takes
from fxprune.tracing.provenance import Computed, Dim, Guard, Site, is_torchs
from fxprune.tracing.trace import Graph


def untaken_branches(graph: Graph) -> tuple[str, ...]:
    """The lines that compare sizes, always with one outcome, where the other would run code that holds sizes.

    Args:
        graph: of the full-size model.
    """
    codes: dict[Any, list[Guard]] = {}
    guards = graph.run.guards if graph.run else ()
    for guard in (g for g in guards if not is_torchs(g.site.code)):  # widths in PyTorch's own modules are known
        codes.setdefault(guard.site.code, []).append(guard)
    found = [at_line(site) for guards in codes.values() for site in _passing_over_sizes(graph, guards)]
    return tuple(dict.fromkeys(found))


def _follows_size(*sources: Any) -> bool:
    """Whether a number is, or was computed from, the length of a tensor's dim."""
    return any(isinstance(s, Dim) or (isinstance(s, Computed) and _follows_size(s.left, s.right)) for s in sources)


def _passing_over_sizes(graph: Graph, guards: Sequence[Guard]) -> Iterator[Site]:
    """Where comparisons of one code have passed over code that takes numbers for sizes."""
    code = guards[0].site.code
    tree, places = tree_of(code), list(code.co_positions())
    if tree is None:
        return
    outcomes: _Outcomes = {}
    sites: dict[_Place, Site] = {}
    for guard in guards:
        line, _, column, _ = places[guard.site.instruction // 2]
        if line is not None and column is not None:
            here = (line - code.co_firstlineno + 1, column)
            outcomes.setdefault(here, {}).setdefault(guard.site.instruction, set()).add(guard.outcome)
            if _follows_size(guard.left, guard.right):
                sites[here] = guard.site
    for node, behind in _choices(tree):
        site = next((sites[here] for t in ast.walk(node.test) if (here := _place(t)) in sites), None)
        known = None if site is None else _decided(node.test, outcomes)
        if site is not None and known is not None:
            module = graph.model.get_submodule(site.module)
            if any(_holds_size(n, module) for s in _other(node, known, behind) for n in ast.walk(s)):
                yield site


_Place: TypeAlias = tuple[int, int]
_Outcomes: TypeAlias = dict[_Place, dict[int, set[bool]]]
"""Of the comparisons at a place, those of a chain each with an instruction of its own: what they came to."""


def _place(node: ast.AST) -> _Place:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _choices(tree: ast.AST) -> Iterator[tuple[ast.If | ast.IfExp, Sequence[ast.AST]]]:
    """Statements and expressions that choose, with the statements behind them."""
    for block in _blocks(tree):
        for i, node in enumerate(block):
            if isinstance(node, ast.If | ast.IfExp):
                yield node, block[i + 1 :]


def _blocks(tree: ast.AST) -> Iterator[Sequence[ast.AST]]:
    """Statements that follow one another, and each expression with a choice in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            yield [node]
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, name, None), list):
                yield block


def _decided(test: ast.expr, outcomes: _Outcomes) -> bool | None:
    """Whether a test held each time, or never, as far as its comparisons tell; else None."""
    match test:
        case ast.Compare():
            seen = outcomes.get(_place(test), {}).values()
            if {False} in seen:
                return False
            return True if len(seen) == len(test.ops) and all(each == {True} for each in seen) else None
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            known = _decided(inner, outcomes)
            return None if known is None else not known
        case ast.BoolOp(op=op, values=values):  # false and ..., true or ...
            decisive = isinstance(op, ast.Or)
            parts = [_decided(value, outcomes) for value in values]
            if decisive in parts:
                return decisive
            return not decisive if all(part is (not decisive) for part in parts) else None
    return None


def _other(node: ast.If | ast.IfExp, held: bool, behind: Sequence[ast.AST]) -> Sequence[ast.AST]:
    """What would have run, had the test had the other outcome."""
    if isinstance(node, ast.IfExp):
        return [node.orelse if held else node.body]
    if not held:
        return node.body
    return node.orelse or (behind if isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break) else ())


def _holds_size(node: ast.AST, module: nn.Module) -> bool:
    """Whether a slice, or a call that takes sizes, gets a number of the code or an attribute that is an int."""
    if isinstance(node, ast.Slice):
        return any(_is_number(bound, module) for bound in (node.lower, node.upper) if bound is not None)
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    takes = SIZED[name].takes if name in SIZED else None
    if takes is None or takes in (Takes.AMOUNTS, Takes.CHUNKS, Takes.IMAGES, Takes.SCALE):
        return False
    return any(_is_number(part, module) for argument in (*node.args, *node.keywords) for part in ast.walk(argument))


def _is_number(node: ast.AST, module: nn.Module) -> bool:
    match node:
        case ast.Constant(value=int(value)):
            return abs(value) > 1
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return (int_of(module, name) or 0) > 1
        case ast.BinOp(left=left, right=right):
            return _is_number(left, module) or _is_number(right, module)
    return False
