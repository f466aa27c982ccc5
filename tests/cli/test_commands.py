"""The command `fxprune`: what it prints, writes and refuses."""

import errno
import json
import math
import pickle
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner, Result

import fxprune
from fxprune.cli import data, engines, models
from fxprune.cli.answer import CommandError
from fxprune.cli.app import app
from fxprune.cli.compare import peak
from fxprune.cli.options import ModelOptions
from fxprune.cli.quality import accuracy, quality, valued
from fxprune.module.batches import batches

NETS = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes=3, width=16):
            super().__init__()
            self.a, self.bn, self.b = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 8, 1)
            self.head = nn.Linear(8, classes)
        def forward(self, x):
            print("the model talks")
            return self.head(self.b(self.bn(self.a(x)).relu()).mean((2, 3)))

    class Quiet(Net):
        def forward(self, x):
            return self.head(self.b(self.bn(self.a(x)).relu()).mean((2, 3)))

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 2)
        def forward(self, x, y): return self.c(self.a(x) + self.b(y))

    batches = [torch.rand(4, 3, 12, 12) for _ in range(3)]
    def labelled(): return [(x, torch.zeros(4, dtype=torch.long)) for x in batches]
    class Writes(Quiet):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x.mul_(2)) + self.calls

    def ninth(): return [(x, torch.full((4,), 9)) for x in batches]
    number = 3
    def pair(model): return 0.9, 0.1
    def fails(model): raise RuntimeError("no quality today")
"""
SHAPE = ["--input-shape", "2,3,12,12"]


@pytest.fixture(autouse=True, scope="module")
def _one_registry() -> Iterator[None]:
    """PyTorch's exporter collects hundreds of functions for each file that it writes; here it does so once."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):  # it is private, and may move
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file of networks and folders of images, as the working directory."""
    (tmp_path / "cli_nets.py").write_text(textwrap.dedent(NETS))
    rng = np.random.default_rng(0)
    for i in range(6):
        for folder in ("flat", f"classes/{'abc'[i % 3]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 14, 3), dtype=np.uint8)).save(tmp_path / folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("cli_nets", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> Any:
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout)


def saved(here: Path, weights: bool = True) -> fxprune.Result[nn.Module]:
    """`Net` pruned and saved by the library, as a user would."""
    sys.path.insert(0, str(here))
    from cli_nets import Quiet

    torch.manual_seed(1)
    net = Quiet().eval()
    torch.save(net.state_dict(), "weights.pt")
    result = fxprune.prune(net, torch.rand(2, 3, 12, 12), 0.5)
    note = {"model": "cli_nets.py:Quiet", "weights": "weights.pt", "input_shape": ["2,3,12,12"]}
    result.save("small", {"command_line": json.dumps(note)} if weights else {})
    return result


def test_help_and_version() -> None:
    assert "Exit codes: 0 fine; 1 a check failed" in " ".join(run("--help").stdout.split())
    assert run("--version").stdout.startswith("fxprune ")
    assert "--input-shape" in run("inspect", "--help").stdout


def test_help_says_which_models_a_command_takes() -> None:
    for name in ("inspect", "prune", "search", "verify", "latency", "export", "compare"):
        told = " ".join(run(name, "--help").stdout.split())
        assert "prune --out" in told
        assert ("torchvision:NAME" in told.partition("Options")[0]) == (name not in ("verify", "compare"))


def test_inspect_shows_groups(here: Path) -> None:
    found = run("inspect", "cli_nets.py:Net", *SHAPE, "--members", "--svg", "a.svg", "--html", "a.html")
    assert found.exit_code == 0
    for text in ("2 prunable groups", "model input", "bn.running_var", "ops without a rule: none"):
        assert text in found.stdout
    assert "the model talks" in found.stderr
    assert "the model talks" not in found.stdout
    assert {p.name for p in here.glob("a.*")} == {"a.svg", "a.html"}


def test_json_is_all_that_is_printed(here: Path) -> None:
    told = answer("inspect", "cli_nets:Net", *SHAPE, "--model-arg", "width=24", "--ignored", "head")
    assert [(g["name"], g["size"]) for g in told["groups"]] == [("a", 24)]


def test_several_inputs(here: Path) -> None:
    told = answer("inspect", "cli_nets.py:Two", "--input-shape", "1,4", "--input-shape", "1,6")
    assert [g["name"] for g in told["groups"]] == ["a"]


def test_models_of_libraries_come_with_their_inputs() -> None:
    assert answer("inspect", "torchvision:squeezenet1_1")["macs"] == 349_151_936
    assert answer("inspect", "timm:test_resnet")["macs"] > 0


def test_a_transformers_folder(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    told = answer("inspect", f"transformers:{tmp_path}", "--pretrained")
    assert told["model"] == "ViTForImageClassification"
    assert 64 in [g["size"] for g in told["groups"]]


def test_an_exported_program(here: Path) -> None:
    result = saved(here)
    torch.export.save(torch.export.export(result.model, (torch.rand(2, 3, 12, 12),)), "net.pt2")
    assert [g["size"] for g in answer("inspect", "net.pt2")["groups"]] == [8, 4]


def test_verify(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(here)
    assert answer("verify", "small")["passed"]
    monkeypatch.setattr(fxprune, "verify", lambda *_: 1e-5)
    failed = run("verify", "small", "--tolerance", "1e-6", "--json")
    assert (failed.exit_code, json.loads(failed.stdout)["passed"]) == (1, False)


def test_a_file_that_names_no_original(here: Path) -> None:
    saved(here, weights=False)
    assert "does not say of which model it is; give --original" in run("verify", "small").stderr
    assert answer("verify", "small", "--original", "cli_nets.py:Quiet", *SHAPE)["passed"]
    assert "not a pruned model" in run("verify", "cli_nets.py:Net").stderr


def test_latency_predicts_original_and_pruned(here: Path) -> None:
    saved(here)
    told = answer("latency", "small", "--table", "times.json", "--rounds", "1")
    assert set(told["seconds"]) == {"original", "pruned"}
    assert all(value > 0 for value in told["seconds"].values())


def test_latency_where_models_are_served(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's name reaches what measures, in `latency` and in `prune`, and the multiple that it likes."""
    asked: list[Any] = []
    measure = fxprune.latency.measure

    def measured(groups: Any, path: Any = None, *, engine: Any, **options: Any) -> Any:
        asked.append(engine)
        return measure(groups, here, rounds=1, progress=False)

    def channels(groups: Any, *, engine: Any, progress: bool) -> Any:
        asked.append(engine)
        return lambda counts: 1e-3 * counts.get("a", 16)

    def best(engine: Any, device: Any, dtype: torch.dtype) -> int:
        assert dtype is torch.float32
        asked.append(("multiple", engine))
        return 8

    monkeypatch.setattr(fxprune.latency, "measure", measured)
    monkeypatch.setattr("fxprune.planners.measures.measure", channels)
    monkeypatch.setattr("fxprune.planners.measures.part_in_engine", lambda groups, counts, engine: counts["a"] / 16)
    monkeypatch.setattr("fxprune.planners.goals.best_multiple", best)
    model = ("cli_nets.py:Quiet", *SHAPE)
    assert run("latency", *model, "--engine", "compile").exit_code == 0
    assert run("latency", *model).exit_code == 0
    told = answer("prune", *model, "--latency", "0.5", "--engine", "onnx", "--round-to", "auto")
    assert told["groups"]["a"]["kept"] == 8
    onnx = fxprune.latency.onnx_runtime
    assert asked == [fxprune.latency.compiled, None, ("multiple", onnx), onnx]


def test_deviations_of_what_is_not_finite() -> None:
    one, masked = torch.ones(2), torch.tensor([2.0, -math.inf])
    assert engines.deviation([one, one], [one, torch.tensor([1.0, math.nan])]) == math.inf
    assert engines.deviation([one, masked], [one, masked]) == 0
    assert engines.deviation([masked], [torch.tensor([2.5, -math.inf])]) == 0.25
    assert engines.deviation([masked], [torch.tensor([2.0, math.inf])]) == math.inf
    assert engines.deviation([one], [torch.ones(1)]) == math.inf  # not broadcast
    assert engines.deviation([one * 1j], [one * 2j]) == 1
    assert engines.deviation([torch.zeros(0)], [torch.zeros(0)]) == 0


HALF = """
import torch


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).to(torch.bfloat16)
"""


def test_a_model_of_half_precision_is_given_inputs_of_its_own_kind(here: Path) -> None:
    (here / "half.py").write_text(HALF)
    answer("prune", "half.py:small", "--input-shape", "2,6", "--macs", "0.5", "--out", "small")
    assert answer("export", "small", "--pt2", "small.pt2")["passed"]
    assert answer("compare", "small", "--engines", "eager", "--rounds", "2")


@pytest.mark.parametrize("dynamic", [pytest.param([], marks=pytest.mark.slow), ["--dynamic-batch"]])
def test_export_checks_what_it_writes(here: Path, dynamic: list[str]) -> None:
    result = saved(here)
    told = answer("export", "small", "--onnx", "small.onnx", "--pt2", "small.pt2", *dynamic)
    assert told["passed"]
    x = torch.rand(5 if dynamic else 2, 3, 12, 12)
    expected = engines.eager(result.model.eval())(x)
    assert engines.deviation(expected, engines.onnx_runtime(here / "small.onnx")(x)) < 1e-4
    assert engines.deviation(expected, engines.eager(torch.export.load("small.pt2").module())(x)) < 1e-5


@pytest.fixture
def older_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with old releases of PyTorch, whose new exporter fails on BatchNorm with a new onnxscript.

    The older one takes a third of the time, which suits tests of what comes after an export.
    """
    export = torch.onnx.export

    def failing(*args: Any, dynamo: bool, **kwargs: Any) -> Any:
        if dynamo:
            raise AttributeError("'tuple' object has no attribute 'dtype'")
        return export(*args, dynamo=dynamo, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", failing)


@pytest.mark.usefixtures("older_exporter")
@pytest.mark.parametrize("dynamic", [[], ["--dynamic-batch"]])
def test_export_falls_back_on_the_older_exporter(here: Path, dynamic: list[str]) -> None:
    saved(here)
    told = answer("export", "small", "--onnx", "small.onnx", *dynamic)
    assert told["passed"]
    assert (here / "small.onnx").stat().st_size > 0


UNEVEN = """
import torch

def make():
    convolution = torch.nn.Conv2d
    return torch.nn.Sequential(
        convolution(3, 6, 1), convolution(6, 8, 1), convolution(8, 8, 3, groups=8), convolution(8, 7, 1)
    )
"""


@pytest.mark.usefixtures("older_exporter")
def test_export_names_convolutions_that_onnx_runtime_takes_long_for(here: Path) -> None:
    (here / "uneven.py").write_text(UNEVEN)
    found = run("export", "uneven.py:make", *SHAPE, "--onnx", "uneven.onnx")
    assert found.exit_code == 0
    assert "3 of 4 convolutions have channels that 4 does not divide" in " ".join(found.stdout.split())
    assert answer("export", "uneven.py:make", *SHAPE, "--onnx", "uneven.onnx")["onnx"]["uneven_convolutions"] == 3
    saved(here)
    assert "uneven_convolutions" not in answer("export", "small", "--onnx", "small.onnx")["onnx"]


def test_an_export_replaces_its_own_kind_alone_and_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(here)
    program = torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(program, "theirs.pt2")
    for name in ("mine.dat", "mine.onnx"):
        (here / name).write_text("import pytorch")
    theirs = (here / "theirs.pt2").read_bytes()
    for option, name in (("--pt2", "mine.dat"), ("--pt2", "theirs.pt2"), ("--onnx", "mine.onnx")):
        found = run("export", "small", option, name)
        assert found.exit_code == 2
        assert f"a file that fxprune did not write would be replaced in {name}" in found.stderr
    assert (here / "mine.dat").read_text() == (here / "mine.onnx").read_text() == "import pytorch"
    assert (here / "theirs.pt2").read_bytes() == theirs
    for _ in range(2):
        assert answer("export", "small", "--pt2", "small.pt2")["passed"]
    before = (here / "small.pt2").read_bytes()
    monkeypatch.setattr("os.fsync", failing)
    assert run("export", "small", "--pt2", "small.pt2").exit_code == 2
    assert (here / "small.pt2").read_bytes() == before
    assert not list(here.glob(".*"))


def failing(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("older_exporter")
def test_export_fails_where_the_file_deviates(here: Path) -> None:
    saved(here)
    found = run("export", "small", "--onnx", "small.onnx", "--tolerance", "0")
    assert found.exit_code == 1
    assert "NOT within" in found.stdout


@pytest.mark.usefixtures("older_exporter")
def test_compare(here: Path) -> None:
    saved(here)
    told = answer("compare", "small", "--data", "classes", "--engines", "eager,onnx", "--rounds", "2")
    figures = told["figures"]
    assert figures["parameters"] == {"original": 16 * 28 + 32 + 8 * 17 + 27, "pruned": 8 * 28 + 16 + 4 * 9 + 15}
    assert 0 <= figures["accuracy, of 6"]["original"] <= 1
    assert 0 <= figures["same answer as the original, of 6"]["pruned"] <= 1
    assert figures["eager, ms"].keys() == figures["onnx, ms"].keys() == {"original", "pruned"}
    assert not told["failures"]


def compared(here: Path, *arguments: str) -> Result:
    return run("compare", *arguments, "--data", "classes", "--engines", "eager", "--rounds", "1")


def test_the_original_that_is_named_is_the_one_that_was_pruned(here: Path) -> None:
    """Its noted weights are dropped for another model alone, and that is told."""
    torch.save(_net(here).state_dict(), "w.pt")
    given = ["cli_nets.py:Quiet", *SHAPE, "--weights", "w.pt", "--pruning-ratio", "0.5", "--out", "small"]
    assert run("prune", *given).exit_code == 0
    noted, named = compared(here, "small"), compared(here, "small", "--original", "cli_nets.py:Quiet")
    assert noted.stderr == named.stderr == ""
    assert [line for line in noted.stdout.splitlines() if "accuracy" in line or "same" in line] == [
        line for line in named.stdout.splitlines() if "accuracy" in line or "same" in line
    ]
    shutil.copy("cli_nets.py", "moved.py")
    moved = compared(here, "small", "--original", "moved.py:Quiet")
    assert "not from moved.py:Quiet: what it notes for --weights, --input-shape is not used" in moved.stderr
    torch.save({k: v + 1 for k, v in torch.load("w.pt").items()}, "w.pt")
    assert "w.pt was written anew since the model was pruned" in run("verify", "small").stderr


def test_random_weights_of_an_original_are_told(here: Path) -> None:
    model = models.load(ModelOptions("torchvision:squeezenet1_1", input_shape=["1,3,32,32"]))
    fxprune.prune(model.model, model.inputs, 0.5, only=["features.3.squeeze"]).save("small")
    found = run("compare", "small", "--original", "torchvision:squeezenet1_1", *SHAPE, "--engines", "eager")
    assert "the original's weights are random" in found.stderr


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_compare_measures_models_that_are_no_classifiers(here: Path) -> None:
    (here / "scores.py").write_text("def width(model): return model.out_channels\n")
    original, pruned = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
    pruned.load_state_dict({"weight": original.weight * 0.75})
    found = quality({"original": original, "pruned": pruned}, [torch.rand(2, 3, 4, 4)] * 3)
    assert found["relative difference of the outputs, of 6"]["pruned"] == pytest.approx(0.25)
    assert valued("scores.py:width", {"original": original, "pruned": pruned}) == {"original": 2, "pruned": 2}
    boxes = [torch.rand(2, 3, 8, 8)]  # as many rows as samples make scores of classes
    assert "same answer as the original, of 2" in quality(dict.fromkeys("ab", Mean()), boxes)
    with pytest.raises(CommandError, match=r"outputs of other shapes .* --evaluate"):
        quality({"original": original, "pruned": nn.Conv2d(3, 1, 1)}, [torch.rand(2, 3, 4, 4)])


def test_numbers_to_be_met_are_no_classes() -> None:
    """A regression has outputs of the form of scores."""
    original, pruned = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    pruned.load_state_dict({"weight": original.weight * 0.75})
    found = quality({"original": original, "pruned": pruned}, [(torch.rand(2, 4), torch.rand(2, 3))] * 3)
    assert found["relative difference of the outputs, of 6"]["pruned"] == pytest.approx(0.25)


@pytest.mark.parametrize(("factor", "distance"), [(0.0, 0.0), (1.0, math.inf)])
def test_outputs_that_are_all_zero_are_measured_as_others(factor: float, distance: float) -> None:
    maps = [nn.Conv2d(3, 2, 1, bias=False) for _ in range(2)]
    for conv, weight in zip(maps, (0.0, factor), strict=True):
        nn.init.constant_(conv.weight, weight)
    found = quality(dict(zip(("original", "pruned"), maps, strict=True)), [torch.rand(2, 3, 4, 4)])
    assert found == {"relative difference of the outputs, of 2": {"pruned": distance}}


def test_a_file_is_judged_by_inputs_and_buffers_of_its_own(here: Path) -> None:
    """The model writes to its input, and counts its calls."""
    found = run("export", "cli_nets.py:Writes", *SHAPE, "--onnx", "w.onnx", "--pt2", "w.pt2")
    assert found.exit_code == 0, found.stdout + found.stderr


def test_a_program_of_inputs_by_place_and_by_name_is_refused(here: Path) -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
            return x + y

    torch.export.save(torch.export.export(Both(), (torch.rand(2, 3),), {"y": torch.rand(2, 3)}), "both.pt2")
    found = run("inspect", "both.pt2")
    assert found.exit_code == 2
    assert "exported with inputs by place and by name" in found.stderr


def test_compare_goes_on_where_an_engine_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(here)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = run("compare", "small", "--data", "flat", "--engines", "onnx", "--rounds", "1")
    assert found.exit_code == 0
    assert "onnx failed: onnxruntime cannot be imported" in found.stdout
    assert "pip install 'fxprune[onnx]'" in found.stdout


def test_peak_memory_counts_what_is_alive() -> None:
    """Weights, and the two activations that are alive together; the input is the caller's."""
    net = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 1, bias=False))
    assert peak(net, torch.rand(100, 1000)) == 4 * (1_001_000 + 2 * 100_000)


def test_tied_weights_count_once(here: Path) -> None:
    net = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.Linear(1000, 1000, bias=False))
    net[1].weight = net[0].weight
    assert peak(net, torch.rand(1, 1000)) == 4 * (1_000_000 + 2 * 1000)


class WithLoss(nn.Module):
    """As classifiers of transformers: labels are an input, and a loss comes before the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        scores = self.head(x)
        return SimpleNamespace(loss=scores.sum(), logits=scores) if labels is not None else scores


def test_labels_among_the_inputs_are_labels(here: Path) -> None:
    net, x, labels = WithLoss(), torch.rand(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    right = float((net(x).argmax(1) == labels).float().mean())
    found = quality({"original": net, "pruned": net}, [{"x": x, "labels": labels}])
    assert found["accuracy, of 8"] == {"original": right, "pruned": right}
    assert float(accuracy(net, [{"x": x, "labels": labels}]).mean()) == right


# Data


def options(text: str, **kwargs: Any) -> data.DataOptions:
    return data.DataOptions(text, **kwargs)


def test_shapes_keep_the_form_and_the_types_that_a_library_states() -> None:
    ids = models.example(["2,7"], {"input_ids": torch.ones(1, 4, dtype=torch.long)})["input_ids"]
    assert (ids.shape, ids.dtype) == ((2, 7), torch.long)
    (image,) = models.example(["3,8,9"], [torch.rand(3, 4, 4)])
    assert (image.shape, image.dtype) == ((3, 8, 9), torch.float32)
    assert models.example(["2,3:int"], None)[0].dtype == torch.long
    with pytest.raises(CommandError, match="not a type of numbers: 'long'; give int or float"):
        models.example(["2,3:long"], None)


def test_a_folder_of_images_for_a_detector(here: Path) -> None:
    loaded = data.Loaded(nn.Identity(), [torch.zeros(3, 9, 12)])
    given = data.load(options("classes", batch_size=4), loaded)
    found = list(batches(nn.Identity(), given))
    assert [(b.size, len(b.inputs[0][0]), b.inputs[0][0][0].shape, b.targets) for b in found] == [
        (4, 4, (3, 9, 12), None),
        (2, 2, (3, 9, 12), None),
    ]


def batches_of(text: str, shape: tuple[int, ...] = (1, 3, 12, 12), **kwargs: Any) -> list[Any]:
    found = data.load(options(text, **kwargs), data.Loaded(nn.Identity(), torch.zeros(shape)))
    assert found is not None
    return list(found)


def test_folders_of_images(here: Path) -> None:
    (images, labels), *rest = batches_of("classes", batch_size=4)
    assert images.shape == (4, 3, 12, 12)
    assert len(rest) == 1
    assert sorted([*labels.tolist(), *rest[0][1].tolist()]) == [0, 0, 1, 1, 2, 2]
    assert [tuple(b.shape) for b in batches_of("flat", (1, 1, 12, 12), samples=5)] == [(5, 1, 12, 12)]


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        ({"config": SimpleNamespace(id2label={0: "c", 1: "b", 2: "a"})}, [2, 1, 0]),
        ({"names": ["x", "a", "b", "c"]}, [1, 2, 3]),
        ({"names": {0: "b", 1: "c"}}, [0, 1, 2]),  # not all of them: in the order of their names
        ({"names": ["a", "b", "c", "a"]}, [0, 1, 2]),  # which a is meant?
        ({"config": SimpleNamespace(id2label={0: "LABEL_0"}), "names": None}, [0, 1, 2]),
    ],
)
def test_classes_have_the_numbers_that_the_model_gives_them(here: Path, names: dict[str, Any], numbers: Any) -> None:
    model = nn.Identity()
    vars(model).update(names)
    found = data.load(options("classes"), data.Loaded(model, torch.zeros(1, 3, 12, 12)))
    assert found is not None
    assert [label for _, labels in found for label in labels.tolist()] == [n for n in numbers for _ in range(2)]


def test_what_is_which_class_is_not_guessed(here: Path) -> None:
    """Three folders, and a model of four classes: by their numbers, its accuracy would be that of other classes."""
    shutil.copytree("classes", "some")
    four = ["--model-arg", "classes=4", *SHAPE]
    told = "the data have 3 folders of classes and the model has 4 classes"
    assert run("prune", "cli_nets.py:Quiet", *four, "--macs", "0.5", "--data", "some", "--out", "small").exit_code == 0
    compared = run("compare", "small", "--data", "some", "--engines", "eager")
    assert compared.exit_code == 0
    assert f"no accuracy: {told}" in " ".join(compared.stderr.split())
    assert "accuracy, of" not in compared.stdout
    assert "same answer as the original, of 6" in compared.stdout
    searched = run("search", "cli_nets.py:Quiet", *four, "--data", "some", "--max-drop", "0.5")
    assert searched.exit_code == 2
    assert told in " ".join(searched.stderr.split())
    (here / "some" / "d").mkdir()
    compared = run("compare", "small", "--data", "some", "--engines", "eager")
    assert "accuracy, of 6" in compared.stdout


def test_hidden_files_and_folders_are_no_images_and_no_classes(here: Path) -> None:
    (here / "classes" / ".checkpoints").mkdir()
    hidden = [here / "flat" / "._1.jpg", here / "classes" / ".checkpoints" / "1.png"]
    for file in hidden:
        file.write_bytes(b"no image")
    try:
        assert sum(len(b) for b in batches_of("flat")) == sum(
            not p.name.startswith(".") for p in (here / "flat").iterdir()
        )
        assert {int(label) for _, labels in batches_of("classes") for label in labels} == {0, 1, 2}
    finally:
        for file in hidden:
            file.unlink()
        (here / "classes" / ".checkpoints").rmdir()


def test_an_image_of_the_right_size_is_only_normalised(here: Path) -> None:
    (image,) = batches_of("flat", (1, 3, 20, 14), samples=1, mean="0,0.5,1", std="1,2,1")[0]
    file = next(f for f in sorted((here / "flat").iterdir()) if _is(f, image))
    assert file


def with_transform(shape: tuple[int, ...], **kwargs: Any) -> torch.Tensor:
    """What a model of a library reads, whose own transform makes 3x224x224."""
    transform = models.load(ModelOptions("torchvision:resnet18")).transform
    given = data.load(options("flat", samples=1, **kwargs), data.Loaded(nn.Identity(), torch.zeros(shape), transform))
    assert given is not None
    image: torch.Tensor = next(iter(given))
    return image


def test_options_come_before_the_transform_of_a_library(here: Path) -> None:
    plain = with_transform((1, 3, 224, 224))
    assert plain.shape == (1, 3, 224, 224)
    assert plain.min() < 0
    small, grey = with_transform((1, 3, 64, 64)), with_transform((1, 1, 64, 64))
    assert (small.shape, grey.shape) == ((1, 3, 64, 64), (1, 1, 64, 64))
    assert abs(small.mean() - plain.mean()) < 0.2  # normalised as the library does
    bytes_ = with_transform((1, 3, 224, 224), mean="0", std="1")
    assert bytes_.min() >= 0
    assert bytes_.max() <= 1


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_images_of_sixteen_bits_are_not_clipped(here: Path, ending: str) -> None:
    (here / "deep").mkdir()
    Image.fromarray(np.full((12, 12), 2**15, dtype=np.uint16)).save(here / "deep" / f"a.{ending}")
    (image,) = batches_of("deep", mean="0", std="1")
    assert torch.allclose(image, torch.tensor(0.5), atol=0.01)
    Image.fromarray(np.full((12, 12), 0.5, dtype=np.float32)).save(here / "deep" / "b.tiff")
    with pytest.raises(CommandError, match=r"b.tiff has numbers of floating point, whose range nobody knows"):
        batches_of("deep", mean="0", std="1")


def test_an_image_beside_folders_of_classes_is_refused(here: Path) -> None:
    """It hid all classes."""
    shutil.copy(next((here / "flat").iterdir()), here / "classes" / "preview.png")
    with pytest.raises(CommandError, match=r"holds images and folders of images \(preview.png, and a/"):
        batches_of("classes")


def _is(file: Path, image: torch.Tensor) -> bool:
    pixels = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0) / 255
    expected = (pixels - torch.tensor([0, 0.5, 1])[:, None, None]) / torch.tensor([1, 2, 1])[:, None, None]
    return torch.allclose(image, expected)


def test_objects_of_the_caller(here: Path) -> None:
    assert len(batches_of("cli_nets.py:batches")) == 3
    assert batches_of("cli_nets:labelled")[0][1].tolist() == [0, 0, 0, 0]
    (here / "unpacking.py").write_text("def image(batch): return batch['image'].flip(0), batch['label']\n")
    (here / "dicts.py").write_text("import torch\nbatches = [{'image': torch.arange(3.0), 'label': torch.ones(3)}]\n")
    ((inputs, targets),) = batches_of("dicts.py:batches", unpack="unpacking.py:image")
    assert inputs.tolist() == [2, 1, 0]
    assert targets.tolist() == [1, 1, 1]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "nothing"], "'nothing' names no model; give torchvision:NAME"),
        (["inspect", "torchvision:squeezenet"], "did you mean squeezenet1_"),
        (["inspect", "missing.py:Net"], "cannot import missing.py: no such file"),
        (["inspect", "cli_nets.py:Nett"], "cli_nets.py has no 'Nett'; did you mean Net?"),
        (["inspect", "cli_nets.py:number"], "is not callable; seen: int"),
        (["inspect", "cli_nets.py:Net", "--model-arg", "width"], "not an argument: 'width'; give NAME=VALUE"),
        (["inspect", "cli_nets.py:Net", "--model-arg", "width=8", "--model-arg", "width=9"], "width is given 2 times"),
        (["inspect", "cli_nets.py:Net", "--model-arg", "depth=3"], "unexpected keyword argument 'depth'"),
        (["inspect", "cli_nets.py:Net", "--pretrained"], "is of no library that has weights of its own"),
        (["inspect", "missing.pt2"], "no such file: missing.pt2"),
        (["inspect", "cli_nets.py:Net", "--weights", "missing.pt"], "no such file: missing.pt"),
        (["inspect", "cli_nets.py:Net", "--weights", "two.pt"], "two.pt holds 2 state_dicts, not one; seen: a, b"),
        (["inspect", "cli_nets.py:Net", "--weights", "pickled.pt"], "files that hold more than tensors are not read"),
        (
            ["inspect", "cli_nets.py:Net", "--weights", "pickled.pt"],
            "pickled.pt: it holds torch.nn.modules.linear.Linear;",
        ),
        (["inspect", "cli_nets.py:Net", "--weights", "old.pt"], "cannot read old.pt: it is no file of tensors; files"),
        (["inspect", "cli_nets.py:Net", "--weights", "empty"], "empty is a folder; give the file of weights in it"),
        (["inspect", "ends.py:make"], "importing ends.py raised SystemExit: 0"),
        (["inspect", "later.py:make"], "later.py:make raised SystemExit: 3"),
        (["inspect", "later.py:Ends", *SHAPE], "the model's or data's own code ended the program: SystemExit: 0"),
        (["inspect", "cli_nets.py:Net", "--svg", "a", "--html", "./a"], "--svg and --html name one file; give each"),
        (["inspect", "cli_nets.py:Net", "--html", "empty"], "--html empty is a folder; give the name of a file"),
        (["export", "cli_nets.py:Net", "--onnx", "a", "--pt2", "a"], "--onnx and --pt2 name one file; give each its"),
        (["export", "cli_nets.py:Net", "--onnx", "empty"], "--onnx empty is a folder; give the name of a file"),
        (["export", "cli_nets.py:Net", "--pt2", "empty"], "--pt2 empty is a folder; give the name of a file"),
        (["inspect", "cli_nets.py:Net", "--weights", "other.pt"], "other.pt does not fit the model"),
        (["inspect", "cli_nets.py:Net", *SHAPE, "--device", "nowhere"], "no device nowhere"),
        (["export", "cli_nets.py:Net", *SHAPE], "nothing to write; give --onnx FILE or --pt2 FILE"),
        (["compare", "small", "--engines", "fast"], "no engine 'fast'; give some of eager, compile, onnx"),
        (["compare", "small", "--data", "empty"], "no image in empty; known endings"),
        (["compare", "small", "--data", "nowhere"], "'nowhere' is neither a folder nor module:OBJECT"),
        (["compare", "small", "--data", "cli_nets.py:number"], "is not an iterable of batches; seen: int"),
        (["compare", "small", "--samples", "9"], "--samples has no effect without data; give --data as well"),
        (["compare", "small", "--data", "flat", "--std", "0"], "--std 0: channels are divided by it; give positive"),
        (["compare", "small", "--data", "flat", "--mean", "0.5,0.5"], "2 numbers for 3 channels: '0.5,0.5'; give one"),
        (["compare", "small", "--data", "cli_nets.py:labelled", "--std", "1"], "--std is for folders of images, and c"),
        (["compare", "small", "--unpack", "cli_nets.py:labelled"], "--unpack has no effect without data; give"),
    ],
)
def test_mistakes_are_told_in_a_line(here: Path, arguments: list[str], told: str) -> None:
    (here / "empty").mkdir()
    torch.save({"a": {"x": torch.zeros(1)}, "b": {"x": torch.zeros(1)}}, "two.pt")
    torch.save(nn.Linear(2, 2), "pickled.pt")
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    (here / "old.pt").write_bytes(pickle.dumps(print))
    (here / "ends.py").write_text("import sys\nsys.exit(0)\n")
    (here / "later.py").write_text(ENDS)
    if arguments[0] == "compare":
        saved(here)
    found = run(*arguments)
    assert found.exit_code == 2, found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in found.stderr
    assert "weights_only" not in found.stderr


ENDS = """
import sys
from torch import nn

def make():
    sys.exit(3)

class Ends(nn.Module):
    def forward(self, x):
        sys.exit(0)
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "cli_nets.py:Net", "--svg", ""], "'--svg': an empty text is no path"),
        (["inspect", "cli_nets.py:Net", "--html", ""], "'--html': an empty text is no path"),
        (["inspect", "cli_nets.py:Net", "--weights", ""], "'--weights': an empty text is no path"),
        (["latency", "cli_nets.py:Net", "--table", ""], "'--table': an empty text is no path"),
        (["verify", "small", "--tolerance", "nan"], "'--tolerance': nan is not at least 0"),
        (["verify", "small", "--tolerance", "-1"], "'--tolerance': -1.0 is not at least 0"),
        (["export", "small", "--onnx", "a", "--tolerance", "nan"], "'--tolerance': nan is not at least 0"),
    ],
)
def test_options_that_make_no_sense(here: Path, arguments: list[str], told: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2, found.stdout
    assert told in found.stderr


def test_the_help_says_when_a_search_measures() -> None:
    assert "--round-to auto" in " ".join(run("search", "--help").stdout.split("--engine")[1].split())[:150]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "cannot import timm" in run("inspect", "timm:any").stderr


def test_weights_of_a_wrapped_model_and_of_a_checkpoint(here: Path) -> None:
    sys.path.insert(0, str(here))
    from cli_nets import Net

    state = {f"module.{name}": t for name, t in Net().state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pt")
    assert answer("inspect", "cli_nets.py:Net", *SHAPE, "--weights", "checkpoint.pt")["groups"]


def test_ctrl_c_exits_with_130(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("saved in runs/x")

    monkeypatch.setattr(fxprune, "trace", interrupted)
    found = run("inspect", "cli_nets.py:Net", *SHAPE)
    assert found.exit_code == 130
    assert "interrupted: saved in runs/x" in found.stderr


# prune and search


def test_prune_saves_what_the_other_commands_read(here: Path) -> None:
    torch.save(_net(here).state_dict(), "w.pt")
    goal = ["--macs", "0.5", "--round-to", "4", "--ignored", "head"]
    told = answer("prune", "cli_nets.py:Quiet", *SHAPE, "--weights", "w.pt", *goal, "--data", "flat", "--out", "small")
    assert told["macs"]["after"] <= 0.5 * told["macs"]["before"]
    assert told["groups"] == {"a": {"size": 16, "kept": 4}} or told["groups"]["a"]["kept"] % 4 == 0
    assert told["saved"] == "small"
    assert told["deviation"] < 1e-9
    assert answer("verify", "small")["passed"]
    full = _net(here)
    full.load_state_dict(torch.load("w.pt"))
    assert fxprune.load("small", full).head.weight.shape == (3, 8)


def test_prune_on_pictures_of_random_shapes(here: Path) -> None:
    plain, random = (
        run("prune", "cli_nets.py:Quiet", *SHAPE, "--macs", "0.5", *more) for more in ([], ["--data", "random"])
    )
    assert "without data" in plain.output
    assert "layers repaired on pictures of random shapes" in " ".join(random.output.split())
    told = run(
        "prune", "cli_nets.py:Quiet", *SHAPE, "--macs", "0.5", "--data", "random", "--unpack", "cli_nets:labelled"
    )
    assert told.exit_code
    assert "--unpack has no effect with --data random" in " ".join(told.output.split())


def _net(here: Path) -> nn.Module:
    sys.path.insert(0, str(here))
    from cli_nets import Quiet

    torch.manual_seed(2)
    return Quiet().eval()


def test_what_was_pruned_is_inspected_pruned_and_searched(here: Path) -> None:
    """The file of what is pruned twice is of the original, so that all other commands take it."""
    first = saved(here)
    assert [(g["name"], g["size"]) for g in answer("inspect", "small")["groups"]] == [("a", 8), ("b", 4)]
    assert "small (cli_nets.py:Quiet, pruned before): 2 prunable groups" in run("inspect", "small").stdout
    told = answer("prune", "small", "--pruning-ratio", "0.5", "--out", "twice")
    assert told["original"] == "cli_nets.py:Quiet"
    assert told["groups"] == {"a": {"size": 8, "kept": 4}, "b": {"size": 4, "kept": 2}}
    assert "small (cli_nets.py:Quiet, pruned before)" in (here / "twice" / "report.html").read_text()
    assert answer("verify", "twice")["passed"]
    full = _net(here)
    full.load_state_dict(torch.load("weights.pt"))
    small = fxprune.load("twice", full)
    kept = first.plan.groups["a"].kept
    assert small.a.weight.shape[0] == 4
    assert all(any(torch.equal(w, full.a.weight[k]) for k in kept) for w in small.a.weight)
    (here / "judge.py").write_text("def wide(model): return 1.0 if model.a.out_channels >= 6 else 0.0\n")
    found = answer("search", "twice/model.safetensors", "--max-drop", "1", "--evaluate", "judge.py:wide", "--out", "s")
    assert found["groups"]["a"]["size"] == 4
    assert answer("verify", "s")["passed"]


SHUFFLED = """
from torch import nn


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1, groups=4)
        self.c, self.out = nn.Conv2d(32, 32, 1, groups=4), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        n, channels, height, width = x.shape
        x = x.view(n, 4, channels // 4, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return self.out(self.c(x))
"""


def test_what_would_be_divided_otherwise_stays(here: Path) -> None:
    """Both cuts are one plan for the original: rows of a shuffle's grid that shrank by the other factor at first."""
    (here / "shuffled.py").write_text(SHUFFLED)
    answer("prune", "shuffled.py:Shuffled", "--input-shape", "1,3,4,4", "--pruning-ratio", "0.5", "--out", "once")
    told = answer("prune", "once", "--pruning-ratio", "0.5", "--out", "more")
    assert "a" in told["groups"]
    assert answer("verify", "more")["passed"]


def test_a_pruned_file_that_names_no_original_is_pruned_with_its_name(here: Path) -> None:
    saved(here, weights=False)
    for start in (["inspect", "small"], ["prune", "small", "--macs", "0.5"]):
        assert "does not say of which model it is; give --original" in run(*start).stderr
        assert answer(*start, "--original", "cli_nets.py:Quiet", *SHAPE)


def test_prune_shows_a_table_and_the_report(here: Path) -> None:
    found = run("prune", "cli_nets.py:Quiet", *SHAPE, "--pruning-ratio", "a=0.5", "--scorer", "L1Norm")
    assert found.exit_code == 0, found.stderr
    assert "1 of 2 groups pruned" in found.stdout
    assert "without data" in found.stdout
    assert "stay" in found.stdout


def test_search_finds_the_smallest_that_is_good_enough(here: Path) -> None:
    (here / "judge.py").write_text("def wide(model): return 1.0 if model.a.out_channels >= 6 else 0.0\n")
    told = answer("search", "cli_nets.py:Quiet", *SHAPE, "--max-drop", "0.5", "--evaluate", "judge.py:wide")
    assert 6 <= told["groups"]["a"]["kept"] < 10
    labelled = ["--data", "cli_nets.py:labelled", "--max-drop", "0.99", "--folder", "runs"]
    assert answer("search", "cli_nets.py:Quiet", *SHAPE, *labelled)["macs"]["after"] > 0
    assert (here / "runs" / "journal.jsonl").read_text().count("fitness") > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prune"], "no goal is given"),
        (["prune", "--macs", "0.5", "--pruning-ratio", "0.5"], "two kinds of goals"),
        (["prune", "--pruning-ratio", "a=0.5", "--pruning-ratio", "a=0"], "several pruning ratios for one pattern: a"),
        (["search", "--max-drop", "0.1", "--resume"], "--resume goes on from a folder; give --folder as well"),
        (["prune", "--pruning-ratio", "half"], "not a pruning ratio"),
        (["prune", "--pruning-ratio", "0.5", "--pruning-ratio", "0.6"], "several pruning ratios need patterns"),
        (
            ["prune", "--macs", "0.5", "--out", "cli_nets.py/small"],
            "a file cannot be read or written in cli_nets.py/small",
        ),
        (["prune", "--macs", "0.5", "--round-to", "some"], "not a multiple: 'some'; give a number, such as 8, or auto"),
        (["prune", "--macs", "0.5", "--round-to", "0"], "round_to must be a positive integer"),
        (["prune", "--macs", "0.5", "--engine", "onnx"], "engine= has nothing to measure; seen: onnx_runtime"),
        (["prune", "--macs", "0.5", "--scorer", "L3Norm"], "no fxprune scorer is called 'L3Norm'; did you mean L"),
        (["search", "--max-drop", "0.1"], "a search needs --data with class folders or labels"),
        (["search", "--max-drop", "0.1", "--data", "flat"], "accuracy needs data with a class number"),
        (["search", "--max-drop", "5", "--data", "classes"], "--max-drop 5 allows for any loss of accuracy; give 0.05"),
        (["search", "--max-drop", "0.1", "--data", "four"], "the data have 4 folders of classes and the model has 3"),
        (["search", "--max-drop", "0.1", "--data", "cli_nets.py:ninth"], "a label is no class of the model"),
        (["search", "--max-drop", "0.1", "--evaluate", "cli_nets.py:pair"], "evaluate gave a tuple"),
        (["search", "--max-drop", "0.1", "--evaluate", "cli_nets.py:fails"], "RuntimeError: no quality today"),
        (["prune", "--macs", "0.5", "--out", "theirs"], "a file that fxprune did not write would be replaced"),
        (["prune", "--macs", "0.5", "--out", "theirs/model.safetensors"], "a file that fxprune did not write"),
    ],
)
def test_mistakes_of_goals(here: Path, arguments: list[str], told: str) -> None:
    for i in range(4):
        (here / f"four/{i}").mkdir(parents=True)
        shutil.copy(f"flat/{i}.png", here / f"four/{i}")
    (here / "theirs").mkdir()
    save_file({"a.weight": torch.ones(2)}, "theirs/model.safetensors")
    found = run(arguments[0], "cli_nets.py:Quiet", *SHAPE, *arguments[1:])
    assert found.exit_code == 2, found.stderr
    assert told in found.stderr.strip().splitlines()[-1]
    assert load_file("theirs/model.safetensors")["a.weight"].tolist() == [1.0, 1.0]


def test_an_empty_path_is_not_the_working_directory(here: Path) -> None:
    """As `--out "$UNSET"` is in a shell."""
    found = run("prune", "cli_nets.py:Quiet", *SHAPE, "--macs", "0.5", "--out", "")
    assert found.exit_code == 2
    assert "an empty text is no path" in found.stderr
    assert not (here / "model.safetensors").exists()


@pytest.mark.parametrize("option", ["--svg", "--html"])
def test_pictures_and_pages_replace_their_own_kind_alone(here: Path, option: str) -> None:
    arguments = ["inspect", "cli_nets.py:Net", *SHAPE, option, "out"]
    for _ in range(2):
        assert run(*arguments).exit_code == 0
    (here / "out").write_text("mine")
    found = run(*arguments)
    assert found.exit_code == 2
    assert "a file that fxprune did not write would be replaced in out" in found.stderr
    assert (here / "out").read_text() == "mine"


def test_a_result_may_replace_a_result(here: Path) -> None:
    for part in ("0.5", "0.7"):
        found = run("prune", "cli_nets.py:Quiet", *SHAPE, "--macs", part, "--out", "small")
        assert found.exit_code == 0, found.stderr
    assert answer("verify", "small")["deviation"] <= 1e-5


def test_what_is_not_kept_is_said(here: Path) -> None:
    found = run("prune", "cli_nets.py:Quiet", *SHAPE, "--macs", "0.5")
    assert "not saved; --out FOLDER keeps the model" in found.stdout
    (here / "judge.py").write_text("def good(model): return 1.0\n")
    found = run("search", "cli_nets.py:Quiet", *SHAPE, "--max-drop", "0.5", "--evaluate", "judge.py:good")
    assert "warning: without --out or --folder nothing of this search is kept" in found.stderr


def test_random_weights_are_told(here: Path) -> None:
    import transformers

    found = run("prune", "torchvision:mnasnet0_5", "--input-shape", "1,3,32,32", "--macs", "0.5")
    assert "warning: the weights are random; --pretrained or --weights FILE reads trained ones" in found.stderr
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
    )
    trained = transformers.ViTForImageClassification(config)
    nn.init.constant_(trained.classifier.bias, 7.0)
    trained.save_pretrained("vit")
    found = run("prune", "transformers:vit", "--macs", "0.5", "--out", "small")
    assert "random" not in found.stderr
    assert load_file("small/model.safetensors")["classifier.bias"].unique().tolist() == [7.0]
    before = (here / "vit/model.safetensors").read_bytes()
    assert run("prune", "transformers:vit", "--macs", "0.5", "--out", "vit").exit_code == 2
    assert (here / "vit/model.safetensors").read_bytes() == before


def test_a_saved_model_is_found_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(here)
    made = run("prune", "cli_nets.py:Quiet", *SHAPE, "--weights", "weights.pt", "--macs", "0.5", "--out", "again")
    assert made.exit_code == 0, made.stderr
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert answer("verify", "../again")["deviation"] <= 1e-5


def test_json_has_no_numbers_that_json_lacks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxprune.cli.answer import Answer, _print

    _print(Answer({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}), as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, 1.0], "b": {"c": None}}


def test_outputs_that_cannot_be_compared_are_an_error(here: Path) -> None:
    saved(here)
    (here / "bad").mkdir()
    (here / "bad/1.png").write_bytes(b"no image")
    found = run("compare", "small", "--engines", "eager", "--data", "bad", "--rounds", "1")
    assert found.exit_code == 2
    assert "comparing outputs failed: cannot read the image" in found.stdout


def test_a_model_in_place_of_a_factory(here: Path) -> None:
    with (here / "cli_nets.py").open("a") as file:
        file.write("\nmade = Quiet()\n")
    assert [g["size"] for g in answer("inspect", "cli_nets.py:made", *SHAPE)["groups"]] == [16, 8]
    found = run("inspect", "cli_nets.py:made", *SHAPE, "--model-arg", "width=4")
    assert found.exit_code == 2
    assert "is a model already, and takes no arguments; seen: width" in found.stderr


def test_a_wrong_shape_names_the_option(here: Path) -> None:
    found = run("inspect", "cli_nets.py:Quiet", "--input-shape", "1,1,8,8")
    assert found.exit_code == 2
    assert found.stderr.strip().endswith("--input-shape gives the inputs another shape")


def test_a_renamed_function_may_go_on(here: Path) -> None:
    (here / "judge.py").write_text("def wide(model): return 1.0 if model.a.out_channels >= 6 else 0.0\n")
    (here / "other.py").write_text("def wide(model): return 0.0 + (1.0 if model.a.out_channels >= 6 else 0.0)\n")
    saved(here)
    model = ["cli_nets.py:Quiet", *SHAPE, "--weights", "weights.pt"]
    search = ["search", *model, "--max-drop", "0.5", "--folder", "runs", "--evaluate"]
    assert run(*search, "judge.py:wide").exit_code == 0
    found = run(*search, "other.py:wide")
    assert found.exit_code == 2
    assert "if these functions do the same as before" in found.stderr
    assert run(*search, "other.py:wide", "--resume").exit_code == 0
