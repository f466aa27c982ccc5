"""The program that measures how far inputs are from those of training."""

import pytest
import typer
from benchmarks.shifts import column, main

from fxprune.statistics.shift import LARGE


def test_inputs_of_its_own_kind_are_near_and_others_far(capsys: pytest.CaptureFixture[str]) -> None:
    far = column("digits-resnet20", 0)
    assert max(far[kind] for kind in far if " of " in kind) < LARGE
    assert all(far[kind] > LARGE for kind in ("inverted", "half as bright", "in bytes (x · 255)"))


def test_it_shows_a_table_and_knows_its_networks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.BadParameter, match="no network is called 'nothing'"):
        main(["nothing"])
    main(["digits-resnet20"], 0)
    shown = capsys.readouterr().out
    assert "digits-resnet20" in shown
    assert "turned by up to 30 degrees" in shown
