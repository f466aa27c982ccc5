"""The comparison of planners: its journal goes on where it stopped, costs are counted, its report says what holds."""

import copy
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.comparison import Journal
from benchmarks.lab import Lab, Meter, Protocol
from benchmarks.planner_contenders import CONTENDERS, Contender, Found
from benchmarks.planner_report import duel, lines, markdown, plot, show, spread, verdicts
from benchmarks.planners import main, points
from benchmarks.points import PlannerPoint, Result
from rich.console import Console
from torch import nn
from typer import Typer
from typer.testing import CliRunner

import fxprune
from zoo.checkpoints import describe, save
from zoo.networks import build
from zoo.train_recipe import WEIGHTS

POINT = PlannerPoint("net", "PCP", 0.5, 0, 2, 100, 50)
RESULT = Result(0.498, 0.4, 0.6, 0.9, 300, 100, 5.0, 3.0, 100, "abc")
TOY = Protocol(epochs=1, images=96, tests=40, scored=32, calibrated=32, judged=40)


def rows() -> dict[PlannerPoint, Result]:
    """Two networks, three seeds: PCP wins everywhere, the bee colony here and there, the rates never meet."""
    gains = {"PCP": 0.04, "one-shot LASSO": 0.0, "bee colony": 0.01, "uniform L1": 0.01}
    return {
        replace(POINT, network=n, contender=c, left=left, seed=seed): replace(
            RESULT,
            macs=left - 0.002,
            after=0.8 + gain + seed / 1000 + (0.01 * (-1) ** seed if c == "bee colony" else 0.0),
        )
        for n in ("a", "b")
        for left in (0.5, 0.25)
        for c, gain in gains.items()
        for seed in (0, 1, 2, 3)
    }


def test_search_cost_adds_training_and_forward_passes() -> None:
    assert RESULT.epochs == pytest.approx(1 + 3 / 3)


def test_claims_hold_or_do_not() -> None:
    won = duel(rows(), "PCP", "one-shot LASSO", lambda r: r.after)
    assert won is not None
    assert won.mean == pytest.approx(4.0)
    assert won.error == pytest.approx(0.0, abs=1e-9)
    assert won.verdict() == "holds"
    even = duel(rows(), "bee colony", "uniform L1", lambda r: r.after)
    assert even is not None
    assert even.error == pytest.approx(math.sqrt(16 / 12 / 16))
    assert even.verdict() == "not shown"
    lost = duel(rows(), "one-shot LASSO", "PCP", lambda r: r.after)
    assert lost is not None
    assert lost.verdict() == "the reverse holds"
    assert duel(rows(), "contribution rate", "uniform L1", lambda r: r.after) is None
    said = "\n".join(verdicts(rows()))
    assert '"PCP beats one-shot" (PCP against one-shot LASSO), after tuning: holds; +4.00' in said
    assert "contribution rate" not in said


def test_one_seed_shows_nothing() -> None:
    alone = {p: r for p, r in rows().items() if p.seed == 0 and p.network == "a" and p.left == 0.5}
    met = duel(alone, "PCP", "one-shot LASSO", lambda r: r.after)
    assert met is not None
    assert met.verdict() == "not shown"


@pytest.mark.parametrize(("capability", "precision"), [("AVX2", "float32"), ("AVX512", "bfloat16")])
def test_the_precision_of_the_tuning_is_one_that_the_processor_has(
    capability: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert Lab(NET, replace(TOY, mixed_precision=True)).precision == precision
    assert Lab(NET, TOY).precision == "float32"


def test_table_plot_and_what_is_missing(tmp_path: Path) -> None:
    found = rows()
    del found[replace(POINT, network="a", seed=3)]
    assert len(list(lines(found))) == 2 * 2 * 4
    console = Console(width=200, record=True, file=io.StringIO())
    show(found, console)
    text = console.export_text()
    assert "84.15 ± 0.13" in text  # PCP: 0.84, 0.841, 0.842, 0.843
    assert "of fewer than 4 seeds: a, PCP at 0.5: 3" in text
    assert any(line.startswith("farthest from the MACs that were to stay: 0.2 points") for line in spread(found))
    assert not any(line.startswith("tuned on") for line in spread(found))
    other = replace(POINT, network="b", seed=1)
    told = spread({**found, other: replace(found[other], device="cuda", precision="bfloat16")})
    assert any(line.startswith("tuned on several devices or in several precisions") and "b at" in line for line in told)
    text = markdown(found)
    assert text.count("\n| a | ") == 8
    assert "| 84.00, 84.10, 84.20, 84.30 |" in text
    assert text.endswith("Commit: abc\n")
    plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_points_come_a_seed_at_a_time() -> None:
    work = list(points({"net": Lab("net", TOY)}, ["unpruned", "PCP"], (0.5, 0.25), 2))
    assert [(p.seed, p.contender, p.left) for p in work[:3]] == [
        (0, "unpruned", 1.0),
        (0, "PCP", 0.5),
        (0, "PCP", 0.25),
    ]
    assert len(work) == 6


def test_the_meter_counts_images_of_forwards_and_of_training() -> None:
    class Net(nn.Sequential):
        pass

    net = Net(nn.Linear(3, 3), nn.Linear(3, 1)).eval()
    with Meter(Net) as meter:
        net(torch.zeros(5, 3))
        net.train()(torch.zeros(7, 3))
        fxprune.trace(net, torch.zeros(9, 3))
    net(torch.zeros(5, 3))
    assert (meter.seen, meter.trained) == (5, 7)


NET = "digits-resnet8"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo's weights are those of one network, of its ResNet-20's kind and widths with a third of the layers."""
    known = describe(WEIGHTS / "digits-resnet20.safetensors")
    metadata = replace(known, arguments={**known.arguments, "depth": 8})
    folder = tmp_path / "weights"
    folder.mkdir()
    save(folder / f"{NET}.safetensors", build(metadata.network, metadata.arguments), metadata)
    monkeypatch.setattr("benchmarks.lab.WEIGHTS", folder)
    monkeypatch.setattr("benchmarks.planners.WEIGHTS", folder)


@pytest.mark.usefixtures("weights")
def test_tunings_of_a_seed_ask_the_original_once() -> None:
    lab = Lab(NET, replace(TOY, distil=0.5))
    student = copy.deepcopy(lab.model)
    asked: list[int] = []
    with lab.model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0]))):
        once, again = (lab.tuned(student) for _ in range(2))
        assert sum(asked) == TOY.images
        lab.seeded(1).tuned(student)
        assert sum(asked) == 2 * TOY.images
        lab.tune(student)
        assert sum(asked) == 3 * TOY.images
    for tuned in (again, student):
        torch.testing.assert_close(tuned.state_dict(), once.state_dict(), rtol=0, atol=0)


SEARCHES = ("PCP", "bee colony")  # and their variants, which take longer
ALIKE = [n for n, c in CONTENDERS.items() if not c.own and n not in SEARCHES]


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith(SEARCHES)) for n in ALIKE])
def test_contenders_come_near_the_budget_and_leave_the_network_alone(name: str) -> None:
    lab = Lab(NET, TOY)
    before = {k: v.clone() for k, v in lab.model.state_dict().items()}
    found = CONTENDERS[name].make(lab, 0.5)
    part = lab.left(found.model)[0]
    assert part == 1 if found.whole else abs(part - 0.5) < (0.0025 if name.startswith("TP") else 0.02)
    assert all(torch.equal(v, before[k]) for k, v in lab.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PCP", "bee colony", "bisection", "monotone fit"])
def test_searches_come_near_the_budget(name: str) -> None:
    lab = Lab("digits-resnet20", TOY)
    found = CONTENDERS[name].make(lab, 0.5)
    part = lab.left(found.model)[0]
    assert part <= 1 if CONTENDERS[name].own else 0.49 <= part <= 0.5
    assert (found.tuned is not None) == CONTENDERS[name].own


def run(*arguments: str) -> Any:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments)


TOYS = (NET, "--left=0.5", "--epochs=1", "--images=96", "--tests=40")


@pytest.mark.usefixtures("weights")
def test_a_part_is_measured_and_not_measured_again(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    part = [*TOYS, "--contender=uniform L1", "--contender=unpruned", f"--journal={journal}"]
    result = run(*part, "--seeds=1")
    assert result.exit_code == 0, result.output
    first = journal.read_bytes()
    assert run(*part, "--seeds=2").exit_code == 0
    assert journal.read_bytes().startswith(first)
    book = Journal(journal, PlannerPoint, Result)
    assert len(book.rows) == 4
    assert all(r.epoch == 96 and r.trained == 0 and r.seen == 0 for r in book.rows.values())


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
def test_the_report_of_what_is_measured_changes_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    part = [*TOYS, "--contender=uniform L1", "--contender=unpruned", f"--journal={journal}"]
    assert run(*part, "--seeds=2").exit_code == 0
    both = journal.read_bytes()
    assert run(*part, "--seeds=2", "--report").exit_code == 0
    assert journal.read_bytes() == both
    assert f"| {NET} | 50 % | uniform L1 |" in journal.with_suffix(".md").read_text()
    assert journal.with_suffix(".png").exists()


@pytest.mark.usefixtures("weights")
def test_a_search_that_tunes_pays_for_all_but_the_last_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(lab: Lab, _part: float) -> Found:
        lab.tuned(lab.model)
        return Found(lab.model, lab.tuned(lab.model))

    monkeypatch.setitem(CONTENDERS, "twice", Contender(twice, own=True))
    journal = tmp_path / "j.jsonl"
    assert run(*TOYS, "--contender=twice", "--seeds=1", f"--journal={journal}").exit_code == 0
    ((point, result),) = Journal(journal, PlannerPoint, Result).rows.items()
    assert point.left == 1
    assert result.trained == 96


@pytest.mark.usefixtures("weights")
def test_a_contender_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise fxprune.InputError("no plan today")

    monkeypatch.setitem(CONTENDERS, "broken", Contender(fail))
    journal = tmp_path / "j.jsonl"
    result = run(*TOYS, "--contender=broken", "--seeds=1", f"--journal={journal}")
    assert result.exit_code == 0
    assert "holds nothing of this comparison yet" in " ".join(result.output.split())
    assert not journal.exists()


def test_bad_names_are_refused_with_what_there_is(tmp_path: Path) -> None:
    for arguments, text in (
        (["no-such-net"], "no network with weights is called"),
        (["--contender=x"], "no contender"),
    ):
        result = run(*arguments, "--report", f"--journal={tmp_path / 'j.jsonl'}")
        assert result.exit_code == 2
        assert text in " ".join(result.output.replace("│", " ").split())
