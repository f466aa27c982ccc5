"""The program that measures how far inputs are from those of training."""

import pytest
import typer
from benchmarks import shifts

from fxprune.statistics.shift import LARGE


def test_inputs_of_its_own_kind_are_near_and_others_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = shifts.column("digits-resnet20", 0)
    assert max(far[kind] for kind in far if "kind" in kind or "of them" in kind or "turned" in kind) < LARGE
    assert min(far[kind] for kind in ("inverted", "half as bright", "in bytes (x · 255)")) > LARGE
    monkeypatch.setattr(shifts, "column", lambda *_: far)
    shifts.main(["digits-resnet20"], 0)
    shown = capsys.readouterr().out
    assert "digits-resnet20" in shown
    assert f"{far['inverted']:.2f}" in shown


def test_it_knows_its_networks() -> None:
    with pytest.raises(typer.BadParameter, match="no network is called 'nothing'"):
        shifts.main(["nothing"])
