"""Untaken: branches on sizes of the inputs that the example did not take, and that hold numbers of their own.

Nothing is known of what a branch does that has not run (`x[:, : self.width // 2]`, for large images alone). Where it
takes numbers for sizes, these may be widths, which another input would need.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from fxprune.analysis.widths.words import at_line
from fxprune.module.attributes import int_of
from fxprune.module.constants import tree_of
from fxprune.tracing.functions import SIZED, Takes
from fxprune.tracing.provenance import Computed, Dim, Guard, Site
from fxprune.tracing.trace import Graph


def untaken_branches(graph: Graph) -> tuple[str, ...]:
    """The lines that compare sizes, with one outcome only, where the other would run code that holds sizes.

    Args:
        graph: of the full-size model.
    """
    outcomes: dict[tuple[Any, int], list[Guard]] = {}
    for guard in graph.run.guards if graph.run else ():
        outcomes.setdefault(guard.site[:2], []).append(guard)
    found = [guards[0] for guards in outcomes.values() if len({g.outcome for g in guards}) == 1]
    return tuple(dict.fromkeys(at_line(g.site) for g in found if _follows_size(g.left, g.right) and _is_wide(graph, g)))


def _follows_size(*sources: Any) -> bool:
    """Whether a number is, or was computed from, the length of a tensor's dim."""
    return any(isinstance(s, Dim) or (isinstance(s, Computed) and _follows_size(s.left, s.right)) for s in sources)


def _is_wide(graph: Graph, guard: Guard) -> bool:
    """Whether the code that a comparison has passed over takes numbers for sizes."""
    statements = _passed_over(guard.site, guard.outcome)
    module = graph.model.get_submodule(guard.site.module)
    return any(_holds_size(node, module) for statement in statements for node in ast.walk(statement))


def _passed_over(site: Site, outcome: bool) -> Sequence[ast.AST]:
    """What did not run, as the outcome was this one; nothing where that is not sure."""
    tree, places = tree_of(site.code), list(site.code.co_positions())
    if tree is None:
        return ()
    line, _, column, _ = places[site.instruction // 2]
    if line is None or column is None:
        return ()
    here = (line - site.code.co_firstlineno + 1, column)
    for block in _blocks(tree):
        for i, node in enumerate(block):
            if isinstance(node, ast.If | ast.IfExp) and (known := _decided(node.test, here, outcome)) is not None:
                return _other(node, known, block[i + 1 :])
    return ()


def _blocks(tree: ast.AST) -> Iterator[Sequence[ast.AST]]:
    """Statements that follow one another, and each expression with a choice in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            yield [node]
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, name, None), list):
                yield block


def _decided(test: ast.expr, here: tuple[int, int], outcome: bool) -> bool | None:
    """Whether a test held, where the comparison at a place decides that; else None."""
    match test:
        case ast.Compare() if (test.lineno, test.col_offset) == here:
            return outcome
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            known = _decided(inner, here, outcome)
            return None if known is None else not known
        case ast.BoolOp(op=op, values=values):  # false and ..., true or ...
            decisive = isinstance(op, ast.Or)
            return decisive if any(_decided(value, here, outcome) is decisive for value in values) else None
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
