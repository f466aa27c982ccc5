"""Words: numbers of the model's code, and lines of it, for a reader."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import Any

from fxprune.analysis.widths.forms import Labelled, Number
from fxprune.tracing.provenance import Attribute, Computed, Dim, Guard, Site

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "floor": "//"}
_SIGNS |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def in_words(source: Any) -> str:
    """A number or a comparison, as the code wrote it or nearly so."""
    match source:
        case Dim():
            name = source.tensor.node if isinstance(source.tensor.node, str) else source.tensor.node.name
            return f"{name}.shape[{source.axis}]"
        case Attribute():
            return f"{source.module}.{source.name}".lstrip(".")
        case Computed():
            sign = _SIGNS.get(source.operation, source.operation)
            return f"({in_words(source.left)} {sign} {in_words(source.right)})"
        case Guard():
            return f"{in_words(source.left)} {_SIGNS[source.operation]} {in_words(source.right)} is {source.outcome}"
        case Number():
            return str(source.value)
        case Labelled():
            return f"a width of {source.size}"
    return str(source)


def at_line(site: Site) -> str:
    """A place in the model's code."""
    return shown(site.code.co_filename, line_of(site), site.module)


def line_of(site: Site) -> int:
    lines = [line for start, end, line in site.code.co_lines() if start <= site.instruction < end]
    return next((line for line in lines if line is not None), site.code.co_firstlineno)


def shown(file: str, number: int, module: str) -> str:
    source = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number} `{source[:80]}`" + (f" in {module}" if module else "")


def as_text(shape: Any) -> str:
    """A shape, or several."""
    return "×".join(map(str, shape)) if not shape or isinstance(shape[0], int) else ", ".join(map(as_text, shape))


def brief(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
