"""One HTML file with the picture, the groups' members, and what is fixed and why. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from xml.etree import ElementTree as ET

from fxprune.analysis.groups import Groups
from fxprune.report.data import GroupRow, fixed_rows, group_rows
from fxprune.report.drawing.flow import flow
from fxprune.report.drawing.page_parts import SCRIPT, STYLE
from fxprune.report.drawing.picture import draw
from fxprune.report.drawing.svg import clean

_EXAMPLES = 6


def page(groups: Groups, title: str = "") -> str:
    """The report as a web page: point at a box for its members and neighbours, click to hold it; sort and filter.

    Args:
        groups: from `fxprune.find_groups`.
        title: the heading; the model's class name if empty.
    """
    name = title or type(groups.graph.model).__name__
    drawn = flow(groups)
    svg = draw(groups, drawn, name)
    keys = {n.name: n.key for n in drawn.nodes.values() if n.kind == "group"}
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Channel groups of {_text(name)}</title>',
        f"<style>{STYLE}</style></head><body>",
        '<div class="view"><div class="drawing">',
        ET.tostring(svg, encoding="unicode", short_empty_elements=True),
        "</div><aside><h3>Point at a box</h3><p>Its members and its neighbours are shown. ",
        "Click to hold it, click again or press Escape to let go.</p></aside></div>",
        *_unknown(groups),
        *_group_table(groups, keys),
        *_fixed_table(groups),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts)


def _text(value: object) -> str:
    return escape(clean(str(value)))


def _unknown(groups: Groups) -> Iterator[str]:
    if groups.unknown_ops:
        named = ", ".join(f"<code>{_text(op)}</code> ({n}×)" for op, n in groups.unknown_ops.most_common())
        yield f'<p class="warning">Operations without a rule; all channels that they touch must stay: {named}</p>'


def _group_table(groups: Groups, keys: dict[str, str]) -> Iterator[str]:
    yield f"<h2>{len(groups)} prunable groups</h2>"
    yield "<p>Click a row for its members. "
    yield "MACs: the part of all MACs that the group's channels take part in; the parts overlap.</p>"
    yield '<input id="filter" type="search" placeholder="filter by name, member or role" aria-label="filter">'
    yield '<table id="groups"><thead><tr>'
    for name in ("#", "group", "channels", "members", "parameters", "MACs"):
        kind = "" if name in ("group", "members") else "number"
        yield f'<th class="{kind}"><button type="button">{name}</button></th>'
    yield "</tr></thead>"
    for i, row in enumerate(group_rows(groups)):
        yield f'<tbody class="group" data-key="{_text(keys[row.group.name])}">'
        yield _row(i, row)
        yield f'<tr class="members" hidden><td></td><td colspan="5">{_members(row)}</td></tr></tbody>'
    yield "</table>"


def _row(i: int, row: GroupRow) -> str:
    bar = f'<span class="share" style="width:{80 * row.share:.0f}px"></span>'
    cells = [
        f'<td class="number" data-value="{i}">{i + 1}</td>',
        f"<td><b>{_text(row.group.name)}</b></td>",
        f'<td class="number" data-value="{row.group.size}">{row.group.size}</td>',
        f"<td>{_text(row.members)}</td>",
        f'<td class="number" data-value="{row.parameters}">{row.parameters:,}</td>',
        f'<td class="number" data-value="{row.share}">{bar}{row.share:.1%}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _members(row: GroupRow) -> str:
    """The notes, and of each member tensor, dim, role, and how many indices a channel owns there."""
    group = row.group
    notes = "".join(f"<p>{_text(note)}</p>" for note in row.notes)
    cells = ((f"<code>{_text(s.tensor)}</code>", s.dim, s.role, len(s.positions) // group.size) for s in group.slots)
    return notes + _table(("member", "dim", "role", "indices a channel"), cells)


def _fixed_table(groups: Groups) -> Iterator[str]:
    yield "<h2>What must stay, and why</h2>"
    rows = [
        (_text(r.reason), f"<code>{_text(r.where)}</code>", len(r.dims), "<br>".join(map(_text, r.examples(_EXAMPLES))))
        for r in fixed_rows(groups)
    ]
    yield _table(("reason", "where", "dims", "for instance, with the number of indices"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A plain table; cells are markup already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr></thead><tbody>{body}</tbody></table>"
