"""What the picture's signs mean; only the signs that occur."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from fxprune.report.drawing import svg
from fxprune.report.drawing.flow import Flow

_HEIGHT = 22.0
_SIGN = 74.0


@dataclass(frozen=True)
class ColourScale:
    """The largest values of the picture.

    Attributes:
        channels: of the widest group.
        share: the largest part of the MACs, or 0.1 if that is less.
        pruned: whether the picture shows which channels stay.
    """

    channels: int
    share: float
    pruned: bool = False


def draw_legend(parent: ET.Element, flow: Flow, scale: ColourScale, width: float) -> float:
    """Draw the legend from y = 0, in as many columns as `width` has room for; returns its height."""
    entries = list(_entries(flow, scale))
    column = _SIGN + svg.longest([text for _, text in entries]) + 24
    columns = max(1, int(width // column))
    for i, (sign, text) in enumerate(entries):
        at = svg.element(parent, "g", transform=f"translate({i % columns * column:.0f} {i // columns * _HEIGHT:.0f})")
        _SIGNS[sign](at, scale)
        svg.label(at, _SIGN, 14, text, fill="#444")
    return _HEIGHT * -(-len(entries) // columns)


def _entries(flow: Flow, scale: ColourScale) -> Iterator[tuple[str, str]]:
    kinds = {n.kind for n in flow.nodes.values()}
    if "group" in kinds:
        yield "share", f"share of all MACs that the group takes part in (0 to {scale.share:.0%})"
        yield "channels", f"number of channels (full length: {scale.channels})"
    if "group" in kinds and scale.pruned:
        yield "removed", "of them, the channels that were removed"
    if kinds & {"kept", "fixed"}:
        yield "fixed", "channels that must stay (point at the box for the reason)"
    if any(not e.back and not e.both for e in flow.edges):
        yield "forward", "feeds: its channels are read to compute the other's"
    if any(e.both for e in flow.edges):
        yield "both", "feeds, and the result is added back to it (residual block)"
    if any(e.back for e in flow.edges):
        yield "back", "flows back to an earlier group (residual stream)"
    if any(n.loops for n in flow.nodes.values()):
        yield "loop", "its channels are also read to compute themselves"
    if "joint" in kinds:
        yield "joint", "each group above it feeds each below it (concatenation)"


def _share(at: ET.Element, _: ColourScale) -> None:
    for i in range(20):
        svg.element(at, "rect", x=3 * i, y=4, width=3.4, height=12, fill=svg.heat(i / 19))


def _channels(at: ET.Element, _: ColourScale) -> None:
    svg.element(at, "rect", x=0, y=8, width=60, height=4, fill="#ddd")
    svg.element(at, "rect", x=0, y=8, width=36, height=4, fill="#3b4252")


def _removed(at: ET.Element, _: ColourScale) -> None:
    svg.element(at, "rect", x=0, y=8, width=36, height=4, fill="#3b4252")
    svg.element(at, "rect", x=18, y=8, width=18, height=4, fill="#e5484d")


def _fixed(at: ET.Element, _: ColourScale) -> None:
    svg.element(
        at, "rect", x=14, y=3, width=32, height=14, rx=3, fill="#eceff1", stroke="#90989f", stroke_dasharray="3 2"
    )


def _forward(at: ET.Element, _: ColourScale) -> None:
    svg.element(at, "path", d="M4 10 H58", class_="edge", marker_end="url(#tip)")


def _both(at: ET.Element, _: ColourScale) -> None:
    svg.element(at, "path", d="M4 10 H58", class_="edge both", marker_start="url(#tail)", marker_end="url(#tip-back)")


def _back(at: ET.Element, _: ColourScale) -> None:
    svg.element(at, "path", d="M4 10 H58", class_="edge back", marker_end="url(#tip-back)")


def _joint(at: ET.Element, _: ColourScale) -> None:
    for x in (12, 48):
        svg.element(at, "path", d=f"M{x} 1 C{x} 8 30 4 30 10 C30 16 {x} 12 {x} 19", class_="edge")
    svg.element(at, "circle", cx=30, cy=10, r=4, fill="#5b6570")


def _loop(at: ET.Element, _: ColourScale) -> None:
    svg.label(at, 30, 15, "↻", size=14, text_anchor="middle", fill="#444")


_SIGNS = {
    "share": _share,
    "channels": _channels,
    "removed": _removed,
    "fixed": _fixed,
    "forward": _forward,
    "both": _both,
    "back": _back,
    "joint": _joint,
    "loop": _loop,
}
