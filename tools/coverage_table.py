"""The rows of `coverage.py` as tables: one line a model, and one a family in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from coverage_checks import TOO_SLOW, UNKNOWN, WHERE_POSSIBLE, Row, failures, measured, passed
from rich.console import Console
from rich.table import Table

_COLUMNS = (
    "model",
    "family",
    "groups",
    "compared",
    "params left",
    "MACs left",
    "verify",
    "trace ms",
    "groups ms",
    "MB",
    "s",
    "checks",
)


def show(rows: Iterable[Row], suite: str, console: Console) -> None:
    table = Table(title=f"fxprune on {suite}", header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("model", "family", "checks") else "right")
    for r in rows:
        table.add_row(*_cells(r), style="red" if not passed(r) else "")
    console.print(table)


def _cells(r: Row) -> list[str]:
    if not measured(r):
        return [r["model"], r["family"], *[""] * 8, f"{r['seconds']:.0f}", (r.get("error") or r["skipped"])[:60]]
    numbers = [f"{r['parameters']:.2f}", f"{r['macs']:.2f}", _power(r["verify"])]
    speed = [f"{r['trace_ms']:.0f}", f"{r['group_ms']:.0f}", f"{r['analysis_mb']:.0f}", f"{r['seconds']:.0f}"]
    return [r["model"], r["family"], str(r["groups"]), str(r["compared"]), *numbers, *speed, _checks(r)]


def _checks(r: Row) -> str:
    skipped = [f"{c} {TOO_SLOW}" if r.get(c) else f"no {c}" for c in WHERE_POSSIBLE if r.get(c) in UNKNOWN]
    return "; ".join(failures(r)) or ", ".join(["ok", *skipped])


def summary(rows: list[Row]) -> str:
    """A Markdown table by family."""
    lines = [
        "| family | run | params left (worst) | MACs left | stream kept | verify | other size | export | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({r["family"] for r in rows}):
        lines.append(f"| {kind} | {' | '.join(_family([r for r in rows if r['family'] == kind]))} |")
    total, tried = sum(map(passed, rows)), sum("skipped" not in r for r in rows)
    return "\n".join([*lines, f"| **all** | **{total}/{tried}** |{' |' * 7}"])


def _family(mine: list[Row]) -> list[str]:
    """Models that passed all checks, medians, the worst deviation, and how many did what their originals do."""
    ok = [r for r in mine if measured(r)]
    run = f"{sum(map(passed, mine))}/{sum('skipped' not in r for r in mine)}"
    if not ok:
        return [run, *[""] * 7]
    return [
        run,
        f"{_median(r['parameters'] for r in ok):.2f} ({max(r['parameters'] for r in ok):.2f})",
        f"{_median(r['macs'] for r in ok):.2f}",
        f"{_median(r['parameters_kept_stream'] for r in ok):.2f}"
        if any(r["compared"] < r["groups"] for r in ok)
        else "",
        _power(max((r["verify"] for r in ok if r["verify"] is not None), default=None)),
        _ratio(ok, "size"),
        _ratio(ok, "export"),
        f"{_median(r['trace_ms'] + r['group_ms'] for r in ok):.0f}",
    ]


def _ratio(rows: list[Row], check: str) -> str:
    possible = [r for r in rows if r.get(check) not in UNKNOWN]
    return f"{sum(r[check] is True for r in possible)}/{len(possible)}" if possible else ""


def _power(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
