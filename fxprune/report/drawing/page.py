"""One HTML file with the picture, the groups' members, and what is fixed and why. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from xml.etree import ElementTree as ET

from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Plan
from fxprune.report.data import GroupRow, Pruned, fixed_rows, group_rows, parts_of
from fxprune.report.drawing.flow import flow
from fxprune.report.drawing.page_parts import SCRIPT, STYLE
from fxprune.report.drawing.picture import draw
from fxprune.report.drawing.svg import clean

MARK = '<meta name="generator" content="fxprune">'  # in the beginning, so that only such files are replaced
_EXAMPLES = 6


def page(subject: Groups | Pruned, title: str = "") -> str:
    """The report as a web page: point at a box for its members and neighbours, click to hold it; sort and filter.

    Args:
        subject: what `fxprune.find_groups` or `fxprune.prune` returns; of a result, the page also shows what stays.
        title: the heading; the model's class name if empty.

    Raises:
        InputError: `subject` is neither.
    """
    groups, plan = parts_of(subject)
    name = title or type(groups.graph.model).__name__
    drawn = flow(groups)
    svg = draw(groups, drawn, name, plan)
    keys = {n.name: n.key for n in drawn.nodes.values() if n.kind == "group"}
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8">{MARK}<title>Channel groups of {_text(name)}</title>',
        f"<style>{STYLE}</style></head><body>",
        '<div class="view"><div class="drawing">',
        ET.tostring(svg, encoding="unicode", short_empty_elements=True),
        "</div><aside><h3>Point at a box</h3><p>Its members and its neighbours are shown. ",
        "Click to hold it, click again or press Escape to let go.</p></aside></div>",
        f"<pre>{_text(subject.report)}</pre>" if not isinstance(subject, Groups) else "",
        *_unknown(groups),
        *_group_table(groups, keys, plan),
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


def _group_table(groups: Groups, keys: dict[str, str], plan: Plan | None) -> Iterator[str]:
    names = ["#", "group", "channels", *(["stay"] if plan else []), "members", "parameters", "MACs", "notes"]
    yield f"<h2>{len(groups)} prunable groups</h2>"
    yield "<p>Click a row for its members. "
    yield "MACs: the part of all MACs that the group's channels take part in; the parts overlap.</p>"
    yield '<input id="filter" type="search" placeholder="filter by name, member or role" aria-label="filter">'
    yield '<table id="groups"><thead><tr>'
    for name in names:
        kind = "" if name in ("group", "members", "notes") else "number"
        yield f'<th class="{kind}"><button type="button">{name}</button></th>'
    yield "</tr></thead>"
    for i, row in enumerate(group_rows(groups, plan)):
        yield f'<tbody class="group" data-key="{_text(keys[row.group.name])}">'
        yield _row(i, row)
        yield f'<tr class="members" hidden><td></td><td colspan="{len(names) - 1}">{_members(row)}</td></tr></tbody>'
    yield "</table>"


def _row(i: int, row: GroupRow) -> str:
    bar = f'<span class="share" style="width:{80 * row.share:.0f}px"></span>'
    stay = [] if row.kept is None else [_number(row.kept, f"{row.kept}")]
    cells = [
        _number(i, f"{i + 1}"),
        f"<td><b>{_text(row.group.name)}</b></td>",
        _number(row.group.size, f"{row.group.size}"),
        *stay,
        f"<td>{_text(row.members)}</td>",
        _number(row.parameters, f"{row.parameters:,}"),
        _number(row.share, f"{bar}{row.share:.1%}"),
        f"<td>{'<br>'.join(map(_text, row.notes))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: float, shown: str) -> str:
    return f'<td class="number" data-value="{value}">{shown}</td>'


def _members(row: GroupRow) -> str:
    """Of each member tensor, dim, role, and how many indices a channel owns there."""
    group = row.group
    cells = ((f"<code>{_text(s.tensor)}</code>", s.dim, s.role, len(s.positions) // group.size) for s in group.slots)
    return _table(("member", "dim", "role", "indices a channel"), cells)


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
