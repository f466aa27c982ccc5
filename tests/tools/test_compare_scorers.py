"""The comparison of scorers: its journal goes on where it stopped, its report says what the points say."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.comparison import Journal
from benchmarks.points import Measured, ScorerPoint
from benchmarks.scorer_contenders import CONTENDERS
from benchmarks.scorer_report import complete, plot, show, value, verdicts
from benchmarks.scorers import Subject, Task, compare, main
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

import fxprune

POINT = ScorerPoint("net", "L2", 0, "uniform", 0.5, "none", 64, 100)


def test_a_journal_is_read_again(tmp_path: Path) -> None:
    book = Journal(tmp_path / "runs" / "points.jsonl", ScorerPoint, Measured)
    book.add(POINT, Measured(0.5, 0.49, 0.4, 1.5))
    book.add(replace(POINT, treatment="bn"), Measured(0.6))
    assert Journal(book.path, ScorerPoint, Measured).rows == book.rows
    assert len(book.rows) == 2


def test_a_line_that_was_cut_off_is_dropped_and_written_again(tmp_path: Path) -> None:
    book = Journal(tmp_path / "points.jsonl", ScorerPoint, Measured)
    book.add(POINT, Measured(0.5))
    text = book.path.read_text()
    book.path.write_text(text + text[:40])
    again = Journal(book.path, ScorerPoint, Measured)
    assert again.rows == book.rows
    assert book.path.read_text() == text
    book.path.write_text("{}\n" + text)
    with pytest.raises(fxprune.InputError, match=r"damaged line of a journal in .*points.jsonl:1"):
        Journal(book.path, ScorerPoint, Measured)


def rows() -> dict[ScorerPoint, Measured]:
    """Two networks, two scorers, two treatments; "L1" wins bare, "L2" after the fit; one point is missing."""
    accuracies = {("L1", "none"): 0.6, ("L2", "none"): 0.5, ("L1", "ls+bn"): 0.7, ("L2", "ls+bn"): 0.9}
    found = {
        replace(POINT, network=n, scorer=s, treatment=t, less=less, seed=seed): Measured(
            a - less / 10 - seed / 100, 1 - less
        )
        for n in ("a", "b")
        for less in (0.2, 0.5)
        for seed in (0, 1)
        for (s, t), a in accuracies.items()
    }
    part = replace(POINT, network="a", scorer="HRank", less=0.2)
    whole = {ScorerPoint(n, "", 0, "", 0.0, "none", 64, 100): Measured(0.95) for n in ("a", "b")}
    return {**found, part: Measured(0.99), **whole}


def test_seeds_are_averaged_and_winners_named() -> None:
    found = rows()
    assert value(found, network="a", scorer="L1", treatment="none", less=0.2) == pytest.approx(0.575)
    assert complete(found, "uniform") == ["L1", "L2"]
    said = "\n".join(verdicts(found, "uniform"))
    assert "left out of the means: HRank" in said
    assert "uniform, none: best mean accuracy of 2 scorers: L1 56.0, L2 46.0" in said
    assert "uniform, ls+bn: best mean accuracy of 2 scorers: L2 86.0, L1 66.0" in said
    assert "a, uniform: ls+bn beats doing nothing at 8 of 8 points and is worse at 0; mean gain 25.0 points" in said


def test_tables_and_plot_are_drawn(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    show(rows(), console)
    text = console.export_text()
    assert "a, uniform, none: test accuracy (as it is: 95.0)" in text
    assert text.count("HRank") == 2
    assert plot(rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert not plot({}, tmp_path / "none.png")


def run(*arguments: str) -> Any:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments)


def test_bad_names_are_refused_with_what_there_is(tmp_path: Path) -> None:
    journal = f"--journal={tmp_path / 'j.jsonl'}"
    for arguments, text in (
        (["no-such-net"], "no network is called"),
        (["--scorer=nobody"], "no scorer is called"),
        (["--treatment=prayer"], "no treatment is called"),
    ):
        result = run(*arguments, journal)
        assert result.exit_code == 2
        assert text in " ".join(result.output.replace("│", " ").split())


def test_a_part_is_measured_and_not_measured_again(tmp_path: Path) -> None:
    """Three scorers, one of Torch-Pruning's, on a trained network, bare and treated."""
    part = ["digits-resnet20", "--scorer=L2", "--scorer=random", "--scorer=TP FPGM", "--less=0.3", "--images=64"]
    part += ["--tests=40", "--treatment=none", "--treatment=bn", f"--journal={tmp_path / 'j.jsonl'}"]
    first = run(*part, "--seeds=2")
    assert first.exit_code == 0, first.output
    book = Journal(tmp_path / "j.jsonl", ScorerPoint, Measured)
    assert len(book.rows) == 1 + 4 * 2
    assert all(abs(m.macs - 0.7) < 0.01 for p, m in book.rows.items() if p.scorer)
    before = book.path.read_bytes()
    assert run(*part, "--seeds=2").exit_code == 0
    assert book.path.read_bytes() == before
    assert run(*part, "--seeds=2", "--report").exit_code == 0


def test_a_scorer_that_cannot_score_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fxprune

    def fail(*_: Any) -> Any:
        raise fxprune.InputError("no scores today")

    monkeypatch.setitem(CONTENDERS, "broken", replace(CONTENDERS["L2"], make=lambda seed: fail))
    subject = Subject("digits-resnet20", 64, 50)
    points = [ScorerPoint("digits-resnet20", s, 0, "uniform", 0.3, "none", 64, 50) for s in ("broken", "L1")]
    console = Console(record=True, file=io.StringIO())
    book = Journal(tmp_path / "j.jsonl", ScorerPoint, Measured)
    compare(book, [Task(p.network, p.scorer, 0, (p,)) for p in points], {subject.name: subject}, console)
    assert points[0] not in book.rows
    assert points[1] in book.rows
    assert "broken is left out: no scores today" in console.export_text()
