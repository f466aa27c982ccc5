"""Every reason that the analysis can give for a fixed dim stands in the docs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fixed.md").read_text()
_GIVEN = frozenset(["Fixed", "fix", "fix_read", "fix_axes", "fixed_result", "Fix", "FixedDim", "_fix"])


def _text(node: ast.AST) -> str:
    """A string as it stands in the docs: `…` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)  # type: ignore[misc]
    return ""


def _strings(node: ast.AST) -> Iterator[str]:
    """The strings in an expression, without the parts of those that are put together."""
    if _text(node):
        yield _text(node)
        return
    if isinstance(node, ast.Call):  # what is put together elsewhere
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def reasons() -> Iterator[str]:
    for path in (ROOT / "fxprune" / "analysis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in _GIVEN:
                    yield from (t for a in node.args for t in _strings(a))
            elif isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "reason" for t in node.targets):
                yield from _strings(node.value)


def test_every_reason_stands_in_the_docs() -> None:
    found = {t for t in reasons() if len(t.split()) > 1}
    assert len(found) > 35
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    known = [k for row in rows for k in re.findall(r"`([^`]+)`", row)]
    assert sorted(t for t in found if not any(k.replace("…", "") in t.replace("…", "") for k in known)) == []
