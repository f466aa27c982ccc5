"""Pruning an adapted network: what the search may see, that it goes on, and what the command shows."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_fashion, write_images
from torch import nn
from typer.testing import CliRunner
from zoo_toys import weights

import fxprune
from fxprune.scorers import Informative
from fxprune.search import LayerByLayer
from zoo.__main__ import app
from zoo.adaptation.domains import Domains
from zoo.adaptation.execute import load_domains
from zoo.adaptation.pcp import Judge, Search, drawn, material, progressively, pseudo_labelled, uniformly
from zoo.adaptation.prune import WHOLE, Contender, Job, compare
from zoo.checkpoints import load
from zoo.cli.prune_adapting import markdown
from zoo.errors import ZooError
from zoo.recipe import Adaptation
from zoo.recipes import ADAPTATIONS
from zoo.rows import Row, Rows
from zoo.run import Run
from zoo.settings import Settings
from zoo.train import accuracy

QUIET = Run(progress=False)
SMALL = Search(images=32, judged=40, step=0.5, top=0.7)


def recipe() -> Adaptation:
    """ResNet-8 of width 4 on 8 x 8 digits: seconds."""
    known = ADAPTATIONS["fashion-to-fashion-m"]
    settings = replace(known.settings, epochs=1)
    arguments = {**known.arguments, "width": 4}
    return replace(known, source="digits", target="digits-m", images=128, settings=settings, arguments=arguments)


def job(folder: Path, **changes: Any) -> Job:
    return Job(recipe(), folder, **{"search": SMALL, "epochs": 1, "images": 64, "run": QUIET, **changes})


@pytest.fixture(scope="module")
def domains() -> Domains:
    return load_domains(recipe(), QUIET, 0)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    ).eval()  # fmt: skip


def unlabelled(domains: Domains) -> Domains:
    """The same images; each label of the target, wherever it is, is of no class."""
    return Domains(domains.source, domains.target.map(lambda part: part.with_labels(torch.full((len(part),), -7))))


# What the search sees


def test_pseudo_labels_are_the_frozen_networks_and_labels_are_not_read(model: nn.Module, domains: Domains) -> None:
    target = unlabelled(domains).target.train
    before = weights(model)
    found = pseudo_labelled(model.train(), target, batch_size=50)
    assert model.training
    assert torch.equal(weights(model), before)
    assert torch.equal(found.labels, model.eval()(target.images).argmax(1))
    assert accuracy(model, found) == 1.0
    with pytest.raises(ZooError, match="the pseudo-labelled split is empty"):
        pseudo_labelled(model, target[:0])


def test_statistics_take_half_of_each_domain_and_attempts_the_mean_of_both(model: nn.Module, domains: Domains) -> None:
    data, judge = material(model, domains, SMALL, seed=3)
    together = torch.cat(data)
    assert together.shape == (32, 3, 8, 8)
    assert torch.equal(together[:16], drawn(domains.source.train, 16, 3).images)
    assert torch.equal(together[16:], drawn(domains.target.train, 36, 3).images[:16])
    known, guessed = judge.splits
    assert torch.equal(known.images, drawn(domains.source.val, 20, 3).images)
    assert torch.equal(known.labels, drawn(domains.source.val, 20, 3).labels)
    assert torch.equal(guessed.images, drawn(domains.target.train, 36, 3).images[16:])
    assert torch.equal(guessed.labels, model(guessed.images).argmax(1))
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    assert judge(other) == pytest.approx((accuracy(other, known) + accuracy(other, guessed)) / 2)


def images_of(*parts: Any) -> set[bytes]:
    return {image.numpy().tobytes() for part in parts for image in part.images}


@pytest.mark.parametrize(
    ("switches", "target_statistics", "judged"),
    [
        ({}, 16, (20, 20)),
        ({"target": False}, 0, (40,)),
        ({"pseudo_labels": False}, 16, (40,)),
        ({"informative": False}, 16, (20, 20)),
        ({"target": False, "informative": False}, 0, (40,)),
    ],
)
def test_an_ablation_sees_less_and_as_many_images(
    model: nn.Module, domains: Domains, switches: dict[str, bool], target_statistics: int, judged: tuple[int, ...]
) -> None:
    data, judge = material(model, domains, replace(SMALL, **switches), seed=0)  # type: ignore[arg-type]
    target = images_of(domains.target.train)
    assert sum(image.numpy().tobytes() in target for image in torch.cat(data)) == target_statistics
    assert len(torch.cat(data)) == 32
    assert tuple(map(len, judge.splits)) == judged
    assert images_of(*judge.splits).isdisjoint({image.numpy().tobytes() for image in torch.cat(data)})
    held_out = images_of(domains.source.test, domains.target.test, domains.target.val)
    assert held_out.isdisjoint(images_of(*judge.splits) | {image.numpy().tobytes() for image in torch.cat(data)})


def test_image_files_are_seen_as_they_are_measured(model: nn.Module, tmp_path: Path) -> None:
    """Training images of Office-31 are larger, to crop from: the search sees their middle."""
    for domain in ("amazon", "dslr", "webcam"):
        write_images(tmp_path / domain / "images", {"bike": 10, "mug": 10})
    office = load_domains(ADAPTATIONS["office-amazon-webcam-resnet50"], Run(tmp_path), 0)
    data, judge = material(model, office, replace(SMALL, images=6, judged=4), seed=0)
    target = drawn(office.target.train, 5, 0).images
    assert target.shape[2:] == (256, 256)
    assert torch.equal(torch.cat(data)[3:], target[:3, :, 16:240, 16:240])
    assert [part.images.shape[1:] for part in judge.splits] == [(3, 224, 224)] * 2


def test_switches_reach_the_planner() -> None:
    search = Search()
    planner = search.planner([2, 4], seed=5, progress=False)
    assert (planner.keep, planner.on_the_way, planner.seed) == (0.25, (0.5,), 5)
    assert search.where == Informative(10)
    assert planner.method == LayerByLayer(Informative(10), seed=5)
    assert Search(informative=False).where == 10


def test_labels_of_the_target_decide_nothing(model: nn.Module, domains: Domains, tmp_path: Path) -> None:
    found = [
        progressively(model, d, SMALL, [2.0], tmp_path / name, progress=False)[2.0]
        for name, d in (("known", domains), ("unknown", unlabelled(domains)))
    ]
    assert found[0].plan.kept_counts() == found[1].plan.kept_counts()
    assert torch.equal(weights(found[0].model), weights(found[1].model))


def test_too_few_images_are_an_error(model: nn.Module, domains: Domains) -> None:
    with pytest.raises(ZooError, match="600 images are wanted where there are 360; ask for fewer"):
        material(model, domains, Search(images=32, judged=600, pseudo_labels=False), 0)
    with pytest.raises(ValueError, match="images and judged must be at least 2, got 1 and 600"):
        Search(images=1)


# What comes out


def test_one_search_meets_all_reductions(model: nn.Module, domains: Domains, tmp_path: Path) -> None:
    cuts = progressively(model, domains, SMALL, [2.0, 4.0], tmp_path, progress=False)
    groups = fxprune.find_groups(fxprune.trace(model, domains.source.train.images[:1]))
    full = fxprune.cost(groups).macs
    for reduction, cut in cuts.items():
        macs = fxprune.cost(groups, cut.plan).macs
        assert macs <= full / reduction
        assert fxprune.cost(fxprune.find_groups(fxprune.trace(cut.model, domains.source.train.images[:1]))).macs == macs
    assert fxprune.cost(groups, cuts[2.0].plan).macs > full / 4


@pytest.mark.filterwarnings("ignore:the allowed widths leave")  # of so small a network
def test_uniform_removes_the_same_part_of_every_group(model: nn.Module, domains: Domains) -> None:
    cuts = uniformly(model, domains, [2.0, 4.0])
    groups = fxprune.find_groups(fxprune.trace(model, domains.source.train.images[:1]))
    for reduction, cut in cuts.items():
        assert fxprune.cost(groups, cut.plan).macs <= fxprune.cost(groups).macs / reduction
        norms = model[0].weight.abs().sum((1, 2, 3))
        kept = cut.plan.groups["0"].kept
        assert sorted(kept) == sorted(norms.argsort(descending=True)[: len(kept)].tolist())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, compare(job(folder), contenders(*UNALIKE), [1.5, 2.0], [0])


NAMES = (
    "PCP for adaptation + DANN",
    "PCP, source only + DANN",
    "PCP without pseudo-labels + DANN",
    "PCP without informative positions + DANN",
    "plain PCP + DANN",
    "plain PCP + source training",
    "uniform L1 + DANN",
)
UNALIKE = (NAMES[0], NAMES[-1])
"""The others know less than the first, and are pruned as it is."""


def contenders(*names: str) -> list[Contender]:
    known = {c.name: c for c in Job(recipe(), Path(), SMALL).contenders()}
    assert tuple(known) == NAMES
    return [known[name] for name in names]


def test_contenders_are_pruned_tuned_and_measured(done: tuple[Path, list[Row]], domains: Domains) -> None:
    folder, rows = done
    names = UNALIKE
    assert [row.key for row in rows] == [(WHOLE, 0, 1.0), *((n, 0, r) for n in names for r in (1.5, 2.0))]
    assert all(row.part <= 1 / row.reduction for row in rows)
    model, claimed = load(folder / "pcp-for-adaptation-dann-2x-0.safetensors")
    row = next(r for r in rows if r.key == (names[0], 0, 2.0))
    assert accuracy(model, domains.target.test) == row.target == claimed.test_accuracy
    assert accuracy(model, domains.source.test) == row.source
    # The domain head is neither kept nor counted.
    assert sum(p.numel() for p in model.parameters()) == row.parameters
    assert not any("domain" in name for name in model.state_dict())


def test_contenders_that_know_less_are_pruned_tuned_and_measured(done: tuple[Path, list[Row]], tmp_path: Path) -> None:
    start_with_the_full_network(done[0], tmp_path)
    names = NAMES[1:-1]
    rows = compare(job(tmp_path), contenders(*names), [1.5, 2.0], [0])
    assert [row.key for row in rows] == [(WHOLE, 0, 1.0), *((n, 0, r) for n in names for r in (1.5, 2.0))]
    assert all(row.part <= 1 / row.reduction for row in rows)
    # plain PCP is one search, fine-tuned in two ways
    first, second = ([r for r in rows if r.contender == f"plain PCP + {how}"] for how in ("DANN", "source training"))
    assert [(r.macs, r.target_before) for r in first] == [(r.macs, r.target_before) for r in second]


def start_with_the_full_network(done: Path, folder: Path) -> None:
    name = f"{recipe().name}-0.safetensors"
    (folder / name).write_bytes((done / name).read_bytes())


def test_training_begins_with_what_the_search_has_found(
    done: tuple[Path, list[Row]], domains: Domains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode batch norms take the statistics of the batch, and yet the network computes the same."""
    start_with_the_full_network(done[0], tmp_path)
    x = torch.cat([drawn(part.train, 64, 0).images for part in (domains.source, domains.target)])
    far: list[float] = []

    def looks(small: nn.Module, *_: Any, **__: Any) -> None:
        outputs = [copy.deepcopy(small).train(mode)(x).detach() for mode in (False, True)]
        far.append(float((outputs[1] - outputs[0]).norm() / outputs[0].norm()))

    monkeypatch.setattr("zoo.adaptation.prune.adapt", looks)
    compare(job(tmp_path), contenders(NAMES[0]), [2.0], [0])
    assert far[0] < 1e-3


def test_what_is_there_is_not_done_again(done: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = done
    monkeypatch.setattr("zoo.adaptation.prune.load_domains", None)
    assert compare(job(folder), contenders(*UNALIKE), [1.5, 2.0], [0]) == rows


def test_a_run_that_was_cut_off_ends_as_if_never_stopped(
    done: tuple[Path, list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within the search, then while the first row is tuned, then in the middle of a line."""
    expected = {row.key: row for row in done[1]}
    start_with_the_full_network(done[0], tmp_path)
    chosen, asked = contenders(NAMES[0]), []

    def stops(self: Judge, m: nn.Module, original: Any = Judge.__call__) -> float:
        asked.append(1)
        if len(asked) == 6:
            raise RuntimeError("killed")
        return original(self, m)

    monkeypatch.setattr(Judge, "__call__", stops)
    with pytest.raises(RuntimeError, match="killed"):
        compare(job(tmp_path), chosen, [1.5, 2.0], [0])
    with monkeypatch.context() as patched:
        patched.setattr("zoo.adaptation.prune.adapt", None)
        with pytest.raises(TypeError):
            compare(job(tmp_path), chosen, [1.5, 2.0], [0])
    searched = len(asked)
    compare(job(tmp_path), chosen, [1.5, 2.0], [0])
    assert len(asked) == searched  # the journal of the search answers
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text()[:-30])
    rows = compare(job(tmp_path), chosen, [1.5, 2.0], [0])
    assert [replace(row, commit=None) for row in rows] == [replace(expected[row.key], commit=None) for row in rows]
    assert len(path.read_text().splitlines()) == 3


def test_a_folder_of_another_job_is_refused(done: tuple[Path, list[Row]]) -> None:
    folder, _ = done
    for changes in ({"epochs": 2}, {"search": replace(SMALL, step=0.2)}):
        with pytest.raises(fxprune.InputError, match=r"is of another run in .*; seen: (search|fine-tuning)\."):
            compare(job(folder, **changes), [Contender(None)], [2.0], [0])


def test_a_full_network_of_another_recipe_is_refused(done: tuple[Path, list[Row]], tmp_path: Path) -> None:
    name = f"{recipe().name}-0.safetensors"
    start_with_the_full_network(done[0], tmp_path)
    other = job(tmp_path)
    changed = replace(other, recipe=replace(recipe(), settings=Settings(epochs=3)))
    with pytest.raises(ZooError, match=rf"{re.escape(name)}: is of another recipe; give another folder"):
        compare(changed, [Contender(None)], [2.0], [0])


def test_bad_reductions_and_damaged_rows_are_refused(tmp_path: Path) -> None:
    for wrong in ([], [1.0], [float("inf")]):
        with pytest.raises(ZooError, match="reductions must be above 1, got"):
            compare(job(tmp_path), [Contender(None)], wrong, [0])
    (tmp_path / "rows.jsonl").write_text('{"no": "row"}\n{}\n')
    with pytest.raises(fxprune.InputError, match=r"a damaged line of a journal in .*rows.jsonl:1"):
        Rows(tmp_path, {})


def test_a_launcher_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ZooError, match="prune-adapt is work for one process, and a launcher started several"):
        compare(job(tmp_path), [Contender(None)], [2.0], [0])
    assert not [*tmp_path.iterdir()]


# The command


def test_the_command_shows_a_table_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTATIONS, recipe().name, recipe())  # type: ignore[arg-type]
    numbers = ["--statistics-images", "32", "--judged", "40", "--step", "0.5", "--epochs", "1", "--images", "64"]
    options = [recipe().name, *numbers, "--folder", str(tmp_path), "--reduction", "1.5"]

    def run(*switches: str) -> str:
        result = CliRunner().invoke(app, ["prune-adapt", *options, *switches])
        assert result.exit_code == 0, result.output
        return (tmp_path / "table.md").read_text()

    run("--uniform", "--seeds", "2")
    table = run("--no-pseudo-labels", "--no-informative-positions")
    assert re.search(r"\| uniform L1 \+ DANN, 1.5x \| \S+ % \| \S+ % ± \S+ \|.* 0, 1 \|\n", table)
    assert "| PCP without pseudo-labels and informative positions + DANN, 1.5x |" in table
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(r["contender"], r["seed"]) for r in rows] == [
        (WHOLE, 0), ("uniform L1 + DANN", 0), (WHOLE, 1), ("uniform L1 + DANN", 1),
        ("PCP without pseudo-labels and informative positions + DANN", 0),
    ]  # fmt: skip
    failed = CliRunner().invoke(app, ["prune-adapt", recipe().name, "--folder", str(tmp_path)])
    assert failed.exit_code == 1
    assert "error: " in failed.output
    assert "the directory is of another run" in failed.output


def test_the_table_is_a_mean_and_a_deviation() -> None:
    rows = [Row("a", s, 2.0, 10, 5, 0.5, 0.8, value, 0.7, 0.3) for s, value in enumerate((0.4, 0.5))]
    assert markdown(rows).splitlines()[2] == (
        "| a, 2x | 50.0 % | 80.00 % ± 0.00 | 45.00 % ± 7.07 | 70.00 % ± 0.00 | 30.00 % ± 0.00 | 0, 1 |"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "fashion-mnist"], "digits -> fashion-mnist: the domains have no class in common"),
        (["--target", "cifar-10"], "cifar-10"),
        (["--reduction", "1"], "prune-adapt: reductions must be above 1, got [1.0]; 2 halves the MACs"),
        (["--statistics-images", "1"], "pcp: images and judged must be at least 2, got 1 and 600"),
    ],
    ids=["no overlap", "missing files", "no reduction", "too few images"],
)
def test_bad_data_and_options_are_one_line_and_leave_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setitem(ADAPTATIONS, recipe().name, recipe())  # type: ignore[arg-type]
    write_fashion(tmp_path / "data")
    folders = ["--data-root", str(tmp_path / "data"), "--folder", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["prune-adapt", recipe().name, *folders, *options])
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert message in result.output
    assert not list(tmp_path.rglob("*.safetensors"))
