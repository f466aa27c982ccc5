"""The table of docs/support.md: what every suite of `coverage.py` gave, from the rows under zoo/results.

python tools/suites_table.py    # writes it into docs/support.md
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from coverage_checks import DEVIATION, Row, failures, measured, passed
from suites import Name

_ROOT = Path(__file__).parents[1]
_PAGE = _ROOT / "docs" / "support.md"
_START, _END = "<!-- suites -->\n", "<!-- end of suites -->"
SMALL = 0.40
# What a reason in a row says, by a part of it, for readers of the table.
_REASONS = {
    "the model's code holds this width": "the model's code computes with a width in a way that nothing explains",
    "the model's code goes by this width": "the model's code branches on a width",
    "values of aten.arange": "a table that is computed from positions is added to the stream",
    "constant held by the model's code": "a table that is neither parameter nor buffer is added to the stream",
    "Fourier transform": "a Fourier transform runs over the channels",
    "not used by the recorded forward": "parameters that the forward in evaluation mode does not read",
    "may shrink": "a reshape whose every factor is held",
    "another factor of the grid": "a reshape whose every factor is held",
    "addressed by an index tensor": "channels are addressed by an index",
    "one index is taken": "channels are addressed by an index",
    "embedding are addressed by value": "rows of embeddings, which stand for words",
    "dropped by the recorded forward": "the stream is computed and not returned, and another forward may return it",
    "put another tensor in its place": "a buffer that the code may replace is added to the stream",
    "spatial": "weights over places of an image or a sequence",
    "sliced with a step": "channels are sliced with a step",
    "reshapes tie": "reshapes tie all channels to one another",
}
_REST = "inputs and outputs: the stream is an input or output of the model, or the last layer is most of the model"


def rows_of(suite: str) -> list[Row]:
    """The rows that are kept of a suite; none if it was not run."""
    file = _ROOT / "zoo" / "results" / ("coverage.json" if suite == "torchvision" else f"coverage-{suite}.json")
    return json.loads(file.read_text()) if file.exists() else []  # type: ignore[no-any-return]


def table() -> str:
    """Markdown: a row for each suite, then what failed, and what stays above 0.40 and why."""
    suites = {name.value: rows for name in Name if (rows := rows_of(name.value))}
    lines = [
        "| suite | version | models | left out | run | exact | params left | ≤ 0.40 | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(name, rows) for name, rows in suites.items()),
        "",
        "What does not pass all checks:",
        "",
        *(_bulleted(f for name, rows in suites.items() for f in _failed(name, rows))),
        "",
        f"What keeps more than {SMALL:.2f} of its parameters, by the reason that holds most:",
        "",
        *(_bulleted(h for name, rows in suites.items() for h in _held(name, rows))),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, rows: list[Row]) -> str:
    tried = [r for r in rows if "skipped" not in r]
    ok = [r for r in tried if measured(r)]
    compared = [r for r in ok if r["verify"] is not None]
    left = sorted(r["parameters"] for r in ok)
    package = rows[0].get("run", {}).get("package", name).split()[-1]
    cells = [
        name,
        package if package != name else "",
        str(len(tried)),
        str(len(rows) - len(tried)),
        f"{sum(map(passed, tried))}",
        f"{sum(r['verify'] <= DEVIATION for r in compared)}/{len(compared)}",
        f"{left[len(left) // 2]:.2f}",
        f"{100 * sum(p <= SMALL for p in left) / len(left):.0f} %",
        f"{sum(r['seconds'] for r in rows) / 60:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _failed(name: str, rows: list[Row]) -> list[str]:
    bad = [r for r in rows if "skipped" not in r and not passed(r)]
    return [f"{name}: {r['model']}: {(r.get('error') or '; '.join(failures(r))).splitlines()[0][:160]}" for r in bad]


def _held(name: str, rows: list[Row]) -> list[str]:
    high = [r for r in rows if measured(r) and r["parameters"] > SMALL]
    kinds: dict[str, list[str]] = {}
    for r in sorted(high, key=lambda r: r["model"]):
        kinds.setdefault(_reason(r), []).append(f"{r['model']} {r['parameters']:.2f}")
    return [f"{name}: {kind}: {', '.join(models)}" for kind, models in sorted(kinds.items())]


def _reason(row: Row) -> str:
    """The kind of reason that holds most elements of parameters."""
    counts: Counter[str] = Counter()
    for reason, count in row["fixed"].items():
        counts[next((text for part, text in _REASONS.items() if part in reason), _REST)] += count
    return max(counts, key=counts.__getitem__, default=_REST)


def _bulleted(lines: object) -> list[str]:
    return [f"- {line}" for line in lines] or ["- nothing"]  # type: ignore[attr-defined]


def main() -> None:
    before, rest = _PAGE.read_text().split(_START)
    _PAGE.write_text(before + _START + table() + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
