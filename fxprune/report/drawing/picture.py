"""The picture of the groups: who feeds whom, how many channels they have, and where the arithmetic is. Plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

from fxprune.analysis.groups import Groups
from fxprune.costs.macs import cost
from fxprune.plan.plan import Plan
from fxprune.report.data import GroupRow, Pruned, group_rows, parts_of
from fxprune.report.drawing import svg
from fxprune.report.drawing.flow import Edge, Flow, Node, flow
from fxprune.report.drawing.layout import Box, Line, Point, Size, layout
from fxprune.report.drawing.legend import ColourScale, draw_legend

MARK = 'data-generator="fxprune"'  # in the beginning, so that only such files are replaced
_ROW = 980.0  # boxes in a row take no more than this
_NARROWEST = 700.0  # of the drawing, for the legend's sake
_MARGIN = 20.0
_LETTERS = 18  # of a line in a box
_PORT = 0.3
_BAR = 4.0
_JOINT = 8.0
_FLAT = ("input", "output")
_STYLE = """
.edge { fill: none; stroke: #7b8794; stroke-width: 1.3 }
.both { stroke: #2b6cb0 }
.back { stroke: #2b6cb0; stroke-dasharray: 5 3 }
.box rect { stroke: #59626d; stroke-width: 1 }
.box.kept rect, .box.fixed rect { stroke: #90989f; stroke-dasharray: 3 2; fill: #eceff1 }
.box.input rect, .box.output rect { fill: #3b4252; stroke: none }
.box.input text, .box.output text { fill: #fff }
.name { font-weight: bold }
"""


@dataclass(frozen=True)
class _Card:
    """What a box shows."""

    node: Node
    lines: tuple[str, ...]
    figures: str
    tooltip: str
    row: GroupRow | None


def picture(subject: Groups | Pruned, title: str = "") -> str:
    """The graph of groups as an SVG document; of a result, also what was removed.

    A box is a group: its colour tells the share of the model's MACs, the bar its number of channels, of which the dark
    part stays. An arrow leads from a group to those whose channels are made from it. Channels that must stay are grey.

    Args:
        subject: what `fxprune.find_groups` or `fxprune.prune` returns.
        title: the heading; the model's class name if empty.

    Raises:
        InputError: `subject` is neither.
    """
    groups, plan = parts_of(subject)
    return ET.tostring(draw(groups, flow(groups), title, plan), encoding="unicode")


def draw(groups: Groups, drawn: Flow, title: str = "", plan: Plan | None = None) -> ET.Element:
    """The same as an element tree, for putting into a page; `drawn` is the groups' flow."""
    rows = {r.group.name: r for r in group_rows(groups, plan)}
    cards = {k: _card(n, rows.get(n.name)) for k, n in drawn.nodes.items() if n.kind != "joint"}
    widest, share = max((g.size for g in groups), default=1), max([0.1, *(r.share for r in rows.values())])
    scale = ColourScale(widest, share, pruned=plan is not None)
    lines = {_line(e): e for e in drawn.edges}
    found = layout(_sizes(drawn, cards), list(lines), _ROW, _PORT)

    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": svg.FONT, "role": "img"})
    root.set("data-generator", "fxprune")
    svg.element(root, "style", _STYLE)
    _arrowheads(root)
    width = max(found.width, _NARROWEST)
    paper = svg.element(root, "rect", fill="#fff", class_="paper")
    top = _heading(root, groups, title or type(groups.graph.model).__name__, plan)
    legend = svg.element(root, "g", transform=f"translate({_MARGIN:.0f} {top:.0f})", class_="legend")
    top += draw_legend(legend, drawn, scale, width) + 20

    shift = Point(_MARGIN + (width - found.width) / 2, top)
    for line, points in found.ways.items():
        _draw_edge(root, lines[line], [Point(p.x + shift.x, p.y + shift.y) for p in points], drawn)
    for k, box in found.boxes.items():
        moved = Box(box.x + shift.x, box.top + shift.y, box.width, box.height)
        _draw_box(root, cards[k], moved, scale) if k in cards else _draw_joint(root, k, moved)
    height = top + found.height + _MARGIN
    for part in (root, paper):
        part.set("width", f"{width + 2 * _MARGIN:.0f}")
        part.set("height", f"{height:.0f}")
    root.set("viewBox", f"0 0 {width + 2 * _MARGIN:.0f} {height:.0f}")
    return root


def _card(node: Node, row: GroupRow | None) -> _Card:
    if node.kind in _FLAT:
        return _Card(node, (node.name,), "", node.name, None)
    if node.kind == "fixed":
        return _Card(node, tuple(svg.folded(node.name, _LETTERS, " ")), "fixed channels", f"fixed\n{node.note}", None)
    lines = tuple(svg.folded(node.name, _LETTERS, "."))
    loop = " ↻" if node.loops else ""
    facts = [node.name, f"{node.size} channels"]
    if row is None:
        tooltip = "\n".join([*facts, f"all must stay: {node.note}"])
        return _Card(node, lines, f"{node.size} ch, must stay{loop}", tooltip, None)
    facts += [] if row.kept is None else [f"{row.kept} of them stay"]
    facts += [f"{row.share:.1%} of the MACs", f"{row.parameters:,} parameters", row.members]
    tooltip = "\n".join([*facts, *row.notes, *map(str, (*row.group.producers, *row.group.consumers)[:12])])
    width = f"{node.size}" if row.kept is None else f"{node.size} → {row.kept}"
    return _Card(node, lines, f"{width} ch · {row.share:.1%}{loop}", tooltip, row)


def _sizes(drawn: Flow, cards: Mapping[str, _Card]) -> dict[str, Size]:
    """All boxes are equally wide and, but for the boundaries, equally high."""
    width = max((svg.longest([*c.lines, c.figures]) for c in cards.values()), default=0.0) + 18
    high = max((len(c.lines) for c in cards.values()), default=1)
    box, flat = Size(width, svg.LINE_HEIGHT * (high + 1) + _BAR + 10), Size(width, svg.LINE_HEIGHT + 10)
    joint = Size(_JOINT, _JOINT, small=True)
    return {k: joint if n.kind == "joint" else flat if n.kind in _FLAT else box for k, n in drawn.nodes.items()}


def _line(edge: Edge) -> Line:
    """Edges that lead back are laid out upside down, apart from the others."""
    if edge.back:
        return Line(edge.target, edge.source, "back")
    return Line(edge.source, edge.target, "back" if edge.both else "")


def _arrowheads(root: ET.Element) -> None:
    places = svg.element(root, "defs")
    for name, shape, tip, colour in (
        ("tip", "M0 0 L8 3.5 L0 7 Z", 8, "#7b8794"),
        ("tip-back", "M0 0 L8 3.5 L0 7 Z", 8, "#2b6cb0"),
        ("tail", "M8 0 L0 3.5 L8 7 Z", 0, "#2b6cb0"),
    ):
        size = {"markerWidth": "8", "markerHeight": "7", "refX": str(tip), "refY": "3.5"}
        marker = ET.SubElement(
            places, "marker", {"id": name, "orient": "auto", "markerUnits": "userSpaceOnUse", **size}
        )
        svg.element(marker, "path", d=shape, fill=colour)


def _heading(root: ET.Element, groups: Groups, title: str, plan: Plan | None) -> float:
    """Title and figures; returns where they end."""
    after = f" → {cost(groups, plan)}" if plan else ""
    whole = f"{cost(groups)}{after}"
    text = f"Channel groups of {title}"
    svg.element(root, "title", text)
    svg.label(root, _MARGIN, 34, text, size=18, font_weight="bold", fill="#222")
    figures = f"{len(groups)} groups with {sum(g.size for g in groups):,} channels; {whole}."
    svg.label(root, _MARGIN, 56, figures, fill="#444")
    meaning = "A box is a group: each of its channels is kept or removed as one, in every tensor that it runs through."
    svg.label(root, _MARGIN, 72, meaning, fill="#444")
    return 86.0


def _draw_edge(root: ET.Element, edge: Edge, points: Sequence[Point], drawn: Flow) -> None:
    """Straight down inside rows, curves between them."""
    points = list(reversed(points)) if edge.back else list(points)
    path = f"M{_at(points[0])}"
    for i, (before, here) in enumerate(pairwise(points)):
        if _at(before) == _at(here):  # without a length it would have no direction, and the arrowhead neither
            continue
        middle = (before.y + here.y) / 2
        bend = f" C{before.x:.1f} {middle:.1f} {here.x:.1f} {middle:.1f} {_at(here)}"
        path += f" L{_at(here)}" if i % 2 == 0 else bend
    blue = edge.back or edge.both
    attributes = {
        "class_": "edge" + " back" * edge.back + " both" * edge.both,
        "data_from": edge.source,
        "data_to": edge.target,
    }
    if drawn.nodes[edge.target].kind != "joint":
        attributes["marker_end"] = "url(#tip-back)" if blue else "url(#tip)"
    if edge.both:
        attributes["marker_start"] = "url(#tail)"
    svg.element(root, "path", d=path, **attributes)


def _at(point: Point) -> str:
    return f"{point.x:.1f} {point.y:.1f}"


def _draw_joint(root: ET.Element, key: str, box: Box) -> None:
    svg.element(
        root,
        "circle",
        cx=box.x,
        cy=box.top + box.height / 2,
        r=box.width / 2,
        fill="#5b6570",
        class_="joint",
        data_key=key,
    )


def _draw_box(root: ET.Element, card: _Card, box: Box, scale: ColourScale) -> None:
    node, left = card.node, box.x - box.width / 2
    at = svg.element(root, "g", class_=f"box {node.kind}", data_key=node.key, data_name=node.name)
    svg.element(at, "title", card.tooltip)
    part = card.row.share / scale.share if card.row else 0.0
    fill = {"fill": svg.heat(part)} if card.row else {}
    svg.element(at, "rect", x=left, y=box.top, width=box.width, height=box.height, rx=4, **fill)
    text = [*card.lines, *filter(None, [card.figures])]
    bar = _BAR + 4 if card.row else 0.0
    baseline = box.top + (box.height - bar - svg.LINE_HEIGHT * len(text)) / 2 + svg.TEXT
    for i, line in enumerate(text):
        kind = "name" if i < len(card.lines) else "figures"
        down = baseline + i * svg.LINE_HEIGHT
        element = svg.label(at, box.x, down, line, text_anchor="middle", class_=kind)
        if card.row:
            element.set("fill", "#fff" if part > 0.8 else "#222")
    if card.row:
        kept = node.size if card.row.kept is None else card.row.kept
        _draw_bar(at, (node.size / scale.channels, kept / scale.channels), box, dark=part <= 0.8)


def _draw_bar(at: ET.Element, parts: tuple[float, float], box: Box, dark: bool) -> None:
    """The group's channels, and those that stay, as parts of the widest group's."""
    full, left, y = box.width - 16, box.x - box.width / 2 + 8, box.bottom - _BAR - 4
    back, all_, stay = ("#00000022", "#e5484d", "#3b4252") if dark else ("#ffffff44", "#f4b7b9", "#ffffff")
    lengths = [full, *(max(full * part, 1.0) for part in parts)]
    for length, colour in list(zip(lengths, (back, all_, stay), strict=True))[:: 1 if parts[0] != parts[1] else 2]:
        svg.element(at, "path", d=f"M{left:.1f} {y:.1f} h{length:.1f} v{_BAR} h{-length:.1f} Z", fill=colour)
