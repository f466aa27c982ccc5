"""HTML tables for notebooks: escaped, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = "text-align:left;vertical-align:top;overflow-wrap:anywhere"


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]], notes: Iterable[str] = ()) -> str:
    """A table with a heading, and notes below it; every text is escaped and shown whole.

    >>> table("t", ["a"], [["<b>"]])
    '<b>t</b><table><thead><tr><th style="text-align:left;vertical-align:top;overflow-wrap:anywhere">a</th></tr>\
</thead><tbody><tr><td style="text-align:left;vertical-align:top;overflow-wrap:anywhere">&lt;b&gt;</td></tr></tbody>\
</table>'
    """
    header = "".join(f'<th style="{_STYLE}">{escape(str(name))}</th>' for name in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    heading = f"<b>{escape(title)}</b>" if title else ""
    return f"{heading}<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>{below}"


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f'<td style="{_STYLE}">{escape(text).replace(chr(10), "<br>")}</td>'
