"""Untaken: branches on sizes of the inputs that the example did not take, and that hold numbers of their own.

Nothing is known of what a branch does that has not run (`x[:, : self.width // 2]`, for large images alone). Where it
takes numbers for sizes, these may be widths, which another input would need.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    found = [at_line(site) for guards in guards_by_code(graph) for site in _passing_over_sizes(graph, guards)]
    return tuple(dict.fromkeys(found))


def guards_by_code(graph: Graph) -> list[list[Guard]]:
    """The comparisons that each code has made; widths in PyTorch's own modules are known."""
    codes: dict[Any, list[Guard]] = {}
    for guard in graph.run.guards if graph.run else ():
        if not is_torchs(guard.site.code):
            codes.setdefault(guard.site.code, []).append(guard)
    return list(codes.values())


def _follows_size(*sources: Any) -> bool:
    """Whether a number is, or was computed from, the length of a tensor's dim."""
    return any(isinstance(s, Dim) or (isinstance(s, Computed) and _follows_size(s.left, s.right)) for s in sources)


def _passing_over_sizes(graph: Graph, guards: Sequence[Guard]) -> Iterator[Site]:
    """Where comparisons of one code have passed over code that takes numbers for sizes."""
    seen = Compared.of(guards, lambda g: _follows_size(g.left, g.right))
    if seen is None:
        return
    for node, behind in choices(seen.tree):
        site, known = seen.site_in(node.test), seen.decided(node.test)
        if site is not None and known is not None:
            module = graph.model.get_submodule(site.module)
            if any(_holds_size(n, module) for s in _other(node, known, behind) for n in ast.walk(s)):
                yield site


@dataclass(frozen=True)
class Compared:
    """What the comparisons of one code came to.

    Attributes:
        tree: of the code.
        outcomes: at each place, by instruction, all of them.
        sites: of those that count.
        named: what names stand for that the code assigns once.
    """

    tree: ast.AST
    outcomes: _Outcomes
    sites: Mapping[_Place, Site]
    named: Mapping[str, ast.expr]

    @classmethod
    def of(cls, guards: Sequence[Guard], counts: Callable[[Guard], bool]) -> Compared | None:
        """None where the code cannot be read."""
        code = guards[0].site.code
        tree, places = tree_of(code), list(code.co_positions())
        outcomes: _Outcomes = {}
        sites: dict[_Place, Site] = {}
        for guard in guards:
            line, _, column, _ = places[guard.site.instruction // 2]
            compares = dis.opname[code.co_code[guard.site.instruction]] == "COMPARE_OP"  # else `min` does, or `sorted`
            if compares and line is not None and column is not None:
                here = (line - code.co_firstlineno + 1, column)
                outcomes.setdefault(here, {}).setdefault(guard.site.instruction, []).append(guard.outcome)
                if counts(guard):
                    sites[here] = guard.site
        return None if tree is None else cls(tree, outcomes, sites, _assigned_once(tree))

    def site_in(self, test: ast.expr) -> Site | None:
        """The first comparison in a test that counts."""
        inside = ast.walk(_spelt_out(test, self.named))
        return next((self.sites[here] for t in inside if (here := _place(t)) in self.sites), None)

    def turns(self, test: ast.expr) -> float:
        """How often the test of a loop held, for each time that it did not."""
        seen = [o for t in ast.walk(test) for each in self.outcomes.get(_place(t), {}).values() for o in each]
        return seen.count(True) / max(1, seen.count(False))

    def decided(self, test: ast.expr) -> bool | None:
        """Whether a test held each time, or never, as far as its comparisons tell; else None."""
        outcomes = {place: {i: set(o) for i, o in seen.items()} for place, seen in self.outcomes.items()}
        return _decided(_spelt_out(test, self.named), outcomes)


_Place: TypeAlias = tuple[int, int]
_Outcomes: TypeAlias = dict[_Place, dict[int, list[bool]]]
"""Of the comparisons at a place, those of a chain each with an instruction of its own: what they came to."""


def _assigned_once(tree: ast.AST) -> dict[str, ast.expr]:
    """The names that a code assigns in one place, with what it assigns to them."""
    found: dict[str, list[ast.expr | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, []).append(None)
        if isinstance(node, ast.Assign) and [type(t) for t in node.targets] == [ast.Name]:
            found.setdefault(node.targets[0].id, []).append(node.value)  # type: ignore[attr-defined]
    return {name: value for name, (value, *more) in found.items() if value is not None and more == [None]}


def _spelt_out(test: ast.expr, named: Mapping[str, ast.expr]) -> ast.expr:
    """A test with what a name stands for in its place."""
    match test:
        case ast.Name(id=name) if name in named:
            return named[name]
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ast.UnaryOp(ast.Not(), _spelt_out(inner, named))
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(op, [_spelt_out(value, named) for value in values])
    return test


def _place(node: ast.AST) -> _Place:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def choices(tree: ast.AST) -> Iterator[tuple[ast.If | ast.IfExp, Sequence[ast.AST]]]:
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


def _decided(test: ast.expr, outcomes: Mapping[_Place, Mapping[int, set[bool]]]) -> bool | None:
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
            parts = [
                _decided(value, outcomes) for value in values if any(_place(t) in outcomes for t in ast.walk(value))
            ]
            if decisive in parts:
                return decisive
            return not decisive if parts and all(part is (not decisive) for part in parts) else None
    return None


def _other(node: ast.If | ast.IfExp, held: bool, behind: Sequence[ast.AST]) -> Sequence[ast.AST]:
    """What would have run, had the test had the other outcome."""
    if isinstance(node, ast.IfExp):
        return [node.orelse if held else node.body]
    if not held:
        return node.body
    return node.orelse or (behind if leaves(node) else ())


def leaves(node: ast.If | ast.IfExp) -> bool:
    """Whether what stands behind a statement does not run where its test holds."""
    return isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break)


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
