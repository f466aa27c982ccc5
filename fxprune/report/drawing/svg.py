"""Small helpers for SVG: elements, text that fits, colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
TEXT = 11.0
LINE_HEIGHT = 14.0
_CHARACTER = 6.5  # mean width at size TEXT, rather too wide than too narrow
_RAMP = ((255, 250, 240), (253, 212, 158), (252, 141, 89), (200, 40, 30))
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(parent: ET.Element, tag: str, text: str = "", **attributes: object) -> ET.Element:
    """Add an element; `_` in an attribute's name stands for `-`, floats are rounded, text is escaped when written."""
    named = {name.rstrip("_").replace("_", "-"): clean(_number(value)) for name, value in attributes.items()}
    child = ET.SubElement(parent, tag, named)
    child.text = clean(text) or None
    return child


def label(parent: ET.Element, x: float, y: float, text: str, size: float = TEXT, **attributes: object) -> ET.Element:
    """A line of text whose baseline is at y."""
    return element(parent, "text", text, x=x, y=y, font_size=size, **attributes)


def clean(text: str) -> str:
    """Characters that XML cannot hold become question marks."""
    return _NOT_XML.sub("\ufffd", text)


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text_width(text: str, size: float = TEXT) -> float:
    """About how wide `text` is."""
    return len(text) * _CHARACTER * size / TEXT


def heat(part: float) -> str:
    """From pale (0) through orange to red (1).

    >>> heat(0.0), heat(1.0)
    ('#fffaf0', '#c8281e')
    """
    at = min(max(part, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def folded(text: str, limit: int, seams: str, most: int = 3) -> list[str]:
    """`text` in as few lines of at most `limit` characters as possible, broken behind `seams`, of similar lengths.

    Where `most` lines do not suffice, the middle of the long ones is left out.

    >>> folded("layer4.1.conv2", 14, "."), folded("backbone.layer4.1.conv2", 14, ".")
    (['layer4.1.conv2'], ['backbone.', 'layer4.1.conv2'])
    >>> folded("encoder.a_very_long_name_indeed.norm", 12, ".")
    ['encoder.', 'a_ver…ndeed.', 'norm']
    """
    breaks = [m.end() for m in re.finditer(f"[{re.escape(seams)}]", text) if m.end() < len(text)][: 8 * most]
    lines = [text]
    for count in range(min(most, len(breaks) + 1)):
        cuts = ((0, *chosen, len(text)) for chosen in combinations(breaks, count))
        folds = ([text[a:b].strip() for a, b in pairwise(cut)] for cut in cuts)
        lines = min(folds, key=lambda fold: max(map(len, fold)))
        if max(map(len, lines)) <= limit:
            break
    return [_shortened(line, limit) for line in lines]


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 2
    return text[: limit - tail - 1] + "…" + text[-tail:]


def longest(lines: Sequence[str]) -> float:
    """Width of the widest line."""
    return max((text_width(line) for line in lines), default=0.0)
