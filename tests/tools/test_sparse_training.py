"""The program that measures sparse and soft training: what each way leaves, and that it goes on where it stopped."""

from pathlib import Path

import pytest
import torch
import typer
from benchmarks import sparse_training
from benchmarks.comparison import Journal
from benchmarks.lab import Lab, Protocol
from benchmarks.sparse_training import Point, Row, main, trained, ways

NET = "digits-resnet20"
TOY = Protocol(epochs=1, images=192, tests=60, scored=64, calibrated=64, distil=0.0)


@pytest.fixture
def small_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_training, "Lab", lambda name, seed: Lab(name, TOY, seed))


@pytest.mark.slow
def test_each_way_trains_a_copy_in_its_own_way() -> None:
    lab = Lab(NET, TOY)
    before = {name: t.clone() for name, t in lab.model.state_dict().items()}
    made = {name: trained(lab, way, epochs=1, images=64) for name, way in ways(lab, 0.5).items()}
    assert all(torch.equal(t, before[name]) for name, t in lab.model.state_dict().items())
    weights = {name: torch.cat([p.detach().flatten() for p in model.parameters()]) for name, model in made.items()}
    assert len({tuple(w[:500].tolist()) for w in weights.values()}) == len(made)
    gone = {
        name: sum(int((p.flatten(1) == 0).all(1).sum()) for p in m.parameters() if p.dim() == 4)
        for name, m in made.items()
    }
    assert gone["soft pruning"] > 100  # half of the MACs are zeros
    assert gone["none"] == 0


def test_a_row_is_measured_once(small_lab: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "rows.jsonl"
    options = {"left": [0.5], "way": ["soft*"], "epochs": 1, "images": 64, "seeds": 1, "journal": journal}
    main(NET, **options)
    first = capsys.readouterr().out
    assert "soft pruning" in first
    rows = Journal(journal, Point, Row).rows
    (point, row), *others = rows.items()
    assert not others
    assert point == Point(NET, "soft pruning", 0.5, 1, 0, 64)
    assert 0.495 <= row.macs <= 0.5
    assert row.before > 0.8  # what goes was zero already
    main(NET, **options)
    assert capsys.readouterr().out == first
    assert Journal(journal, Point, Row).rows == rows


def test_a_way_that_there_is_not_is_named(small_lab: None, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no way is called 'hard'"):
        main(NET, way=["hard"], journal=tmp_path / "rows.jsonl")
