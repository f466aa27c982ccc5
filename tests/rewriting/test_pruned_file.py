"""A pruned model's file: saved, loaded into a fresh model, refused where it is damaged or of another model."""

import importlib
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from processes import python
from torch import Tensor, nn

import fxprune
from fxprune.rewriting.pruned_file import _digest


class Net(nn.Module):
    """Convolutions with a BatchNorm, a shared weight and a half-precision layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.again, self.head = nn.Conv2d(6, 6, 1, bias=False), nn.Linear(6, classes)
        self.twice = self.again

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.bn(self.a(x)).relu())
        return self.head(self.twice(self.again(x)).mean((2, 3)))


X = torch.rand(2, 3, 8, 8)


@pytest.fixture
def result() -> fxprune.Result[Net]:
    torch.manual_seed(0)
    return fxprune.prune(Net(), X, pruning_ratio=0.5)


def same(a: nn.Module, b: nn.Module) -> bool:
    with torch.inference_mode():
        return torch.equal(a.eval()(X), b.eval()(X))


@pytest.mark.parametrize("name", ["folder", "one.safetensors"])
def test_a_result_is_saved_and_loaded(result: fxprune.Result[Net], tmp_path: Path, name: str) -> None:
    result.save(tmp_path / "new" / name)
    small = fxprune.load(tmp_path / "new" / name, Net())
    assert type(small) is Net
    assert small.twice.weight is small.again.weight
    assert same(small, result.model)
    assert same(fxprune.load(tmp_path / "new" / name, Net), result.model)
    files = sorted(p.name for p in (tmp_path / "new").rglob("*.*"))
    assert files == (["model.safetensors", "report.html"] if name == "folder" else ["one.html", "one.safetensors"])


def test_the_report_beside_shows_what_stays(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.save(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "8 → 4 ch" in html
    assert "parameters" in html


def test_weights_in_half_precision_come_back_in_it(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.model.head.to(torch.bfloat16)
    result.save(tmp_path)
    small = fxprune.load(tmp_path, Net)
    assert small.head.weight.dtype == torch.bfloat16
    assert torch.equal(small.head.weight, result.model.head.weight)
    assert small.a.weight.dtype == torch.float32


def test_a_given_model_is_untouched(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.save(tmp_path)
    full = Net()
    before = {name: t.clone() for name, t in full.state_dict().items()}
    fxprune.load(tmp_path, full)
    assert all(torch.equal(t, before[name]) for name, t in full.state_dict().items())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Net(5), "the model has head.bias (5,) instead of (4,), head.weight (5, 6) instead of (4, 6)"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            "the model lacks a.bias, a.weight, again.weight, b.bias and 9 more",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    result: fxprune.Result[Net], tmp_path: Path, make: Callable[[], nn.Module], told: str
) -> None:
    result.save(tmp_path)
    with pytest.raises(fxprune.PlanError, match=re.escape(told)):
        fxprune.load(tmp_path, make)


def test_a_pruned_model_is_not_pruned_again(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.save(tmp_path)
    with pytest.raises(fxprune.PlanError, match=r"a\.bias .*remedy: give the model at full size"):
        fxprune.load(tmp_path, result.model)


def test_a_changed_file_is_refused(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.save(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(fxprune.InputError, match="a checksum that differs"):
        fxprune.load(file, Net)


def test_other_files_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(fxprune.InputError, match="a safetensors file without a plan"):
        fxprune.load(tmp_path / "plain.safetensors", Net)
    with pytest.raises(fxprune.InputError, match="FileNotFoundError"):
        fxprune.load(tmp_path, Net)


@pytest.mark.parametrize(("model", "seen"), [(3, "int"), (lambda: 3, "int"), ("resnet", "str")])
def test_what_is_no_model_is_refused(result: fxprune.Result[Net], tmp_path: Path, model: object, seen: str) -> None:
    result.save(tmp_path)
    with pytest.raises(fxprune.InputError, match=f"not of type Module; seen: {seen}"):
        fxprune.load(tmp_path, model)  # type: ignore[arg-type]


def test_a_state_dict_of_other_names_is_refused_at_once(result: fxprune.Result[Net], tmp_path: Path) -> None:
    """The file could be read by nobody: its names would not be those of the plan."""

    def renamed(_model: nn.Module, state: dict[str, Any], _prefix: str, _: Any) -> dict[str, Any]:
        return {f"net.{name}": value for name, value in state.items()}

    handle = result.model._register_state_dict_hook(renamed)
    with pytest.raises(fxprune.InputError, match=r"a hook .* in Net; seen: it lacks .*; it adds net\."):
        result.save(tmp_path / "small")
    assert not list(tmp_path.rglob("*.safetensors"))
    handle.remove()
    result.model._register_state_dict_hook(lambda _model, state, _prefix, _: {**state, "sum": torch.ones(())})
    with pytest.raises(fxprune.InputError, match=r"seen: it adds sum; remedy: save"):
        result.save(tmp_path / "small")


def test_extra_state_is_not_lost_silently(result: fxprune.Result[Net], tmp_path: Path) -> None:
    class Noted(nn.Identity):
        def get_extra_state(self) -> object:
            return {"step": 3}

        def set_extra_state(self, _: object) -> None: ...

    result.model.note = Noted()
    with pytest.raises(fxprune.InputError, match=r"in note\._extra_state; seen: dict; remedy: save model.state_dict"):
        result.save(tmp_path)
    assert not list(tmp_path.iterdir())


FLAT = """
from torch import nn

class Flat(nn.Module):  # the width stands in the code
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8 * 64, 2)

    def forward(self, x):
        return self.b(self.a(x).relu().view(-1, 512))
"""


def test_a_model_with_mended_code_is_unpickled_without_fxprune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own module must be there, as for every pickled model."""
    (tmp_path / "flat.py").write_text(FLAT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    small = fxprune.prune(importlib.import_module("flat").Flat(), X, pruning_ratio=0.5).model
    torch.save({"model": small, "x": X, "y": small(X)}, tmp_path / "model.pt")
    program = """
        import sys, torch
        sys.modules["fxprune"] = None  # an import of it fails
        saved = torch.load(sys.argv[1], weights_only=False)
        torch.testing.assert_close(saved["model"](saved["x"]), saved["y"])
        assert saved["model"].a.weight.shape[0] == 4
        print("fine")
    """
    done = python(textwrap.dedent(program), tmp_path / "model.pt", folder=tmp_path)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize(
    ("odd", "seen"),
    [
        (torch.eye(3).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(2, dtype=torch.complex128), "torch.complex128"),
    ],
    ids=["sparse", "complex"],
)
def test_a_tensor_that_the_format_has_no_place_for_is_refused(
    result: fxprune.Result[Net], tmp_path: Path, odd: Tensor, seen: str
) -> None:
    result.model.register_buffer("odd", odd)
    with pytest.raises(fxprune.InputError, match=rf"no place .* in odd; seen: .*{seen}.*torch.save"):
        result.save(tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    """A folder of transformers has its weights under the very name."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    result = fxprune.prune(net, torch.zeros(1, 4), 0.5)
    for name, data in (("model.safetensors", safetensors.torch.save(net.state_dict())), ("small.safetensors", b"mine")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(fxprune.InputError, match="a file that fxprune did not write would be replaced"):
            result.save(tmp_path if name == "model.safetensors" else tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    assert not list(tmp_path.glob("*.html"))


def test_a_model_without_numbers_has_no_place_for_weights(tmp_path: Path) -> None:
    make = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    fxprune.prune(make(), torch.zeros(1, 4), 0.5).save(tmp_path)
    with torch.device("meta"), pytest.raises(fxprune.InputError, match=r"no place for the file's weights.*to_empty"):
        fxprune.load(tmp_path, make)


@pytest.mark.parametrize(("name", "page"), [("", "report.html"), ("index.safetensors", "index.html")])
def test_a_page_of_someone_else_is_not_replaced(
    result: fxprune.Result[Net], tmp_path: Path, name: str, page: str
) -> None:
    (tmp_path / page).write_text("<h1>my thesis</h1>")
    with pytest.raises(fxprune.InputError, match=f"a file that fxprune did not write would be replaced in .*{page}"):
        result.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [page]
    assert (tmp_path / page).read_text() == "<h1>my thesis</h1>"
    (tmp_path / page).write_text("")  # as `tempfile` makes them
    for _ in range(2):
        result.save(tmp_path / name)
    assert "channel" in (tmp_path / page).read_text()


FORGED: dict[str, tuple[dict[str, Tensor], bool, str]] = {
    "shape": ({"0.bias": torch.ones(2)}, False, r"0.bias (2,) instead of (4,)"),
    "integers": ({"0.bias": torch.ones(4).long()}, False, "0.bias in torch.int64 where the model has torch.float32"),
    "truths": ({"0.bias": torch.ones(4) > 0}, False, "0.bias in torch.bool where the model has torch.float32"),
    "complex": ({"0.bias": torch.ones(4) * 1j}, False, "0.bias in torch.complex64 where the model has torch.float32"),
    "plan": ({}, True, "0.weight (4, 4) instead of (2, 4), 2.weight (2, 4) instead of (2, 2)"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_file_that_does_not_fit_its_own_plan(name: str, tmp_path: Path) -> None:
    """Its checksum is right, as of one that another program made."""
    tensors, fewer, told = FORGED[name]
    make = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    result, file = fxprune.prune(make(), torch.zeros(1, 4), 0.5), tmp_path / "x.safetensors"
    state, plan = {**result.model.state_dict(), **tensors}, json.loads(result.plan.to_json())
    plan["groups"][0]["kept"] = plan["groups"][0]["kept"][: 2 if fewer else None]
    texts = {"plan": json.dumps(plan)}
    file.write_bytes(safetensors.torch.save(state, {**texts, "sha256": _digest(texts, state)}))
    with pytest.raises(fxprune.PlanError, match="the file is of another model") as raised:
        fxprune.load(file, make)
    assert told in str(raised.value)


def test_a_saved_half_is_loaded_into_a_single(tmp_path: Path) -> None:
    make = lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))  # noqa: E731
    result = fxprune.prune(make().eval(), torch.zeros(2, 4), 0.5)
    fxprune.Result(result.model.half(), result.plan, result.report).save(tmp_path)
    assert fxprune.load(tmp_path, make)[0].weight.dtype == torch.float16


def test_layers_that_are_not_initialised(tmp_path: Path) -> None:
    make = lambda: nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.LazyLinear(4))  # noqa: E731
    net, x = make(), torch.rand(2, 8)
    net(x)
    result = fxprune.prune(net, x, 0.5)
    result.save(tmp_path)
    for call in (lambda: fxprune.load(tmp_path, make), lambda: fxprune.rewrite(make(), result.plan)):
        with pytest.raises(
            fxprune.InputError, match=r"\(lazy\) parameters in 2.weight; remedy: run the model once first"
        ):
            call()


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 20, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(x + self.down(self.up(x).relu()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("only", [["up"], None])
def test_weights_that_are_tied_otherwise_are_refused(tied: bool, only: list[str] | None, tmp_path: Path) -> None:
    """Numbers of one were taken for both."""
    torch.manual_seed(0)
    x = torch.randint(0, 20, (2, 5))
    result = fxprune.prune(Tied(tied).eval(), x, pruning_ratio=0.5, only=only)
    result.save(tmp_path)
    assert torch.equal(fxprune.load(tmp_path, lambda: Tied(tied)).eval()(x), result.model(x))
    if tied:
        with torch.no_grad():
            result.model.out.weight[0] = torch.nan
        result.save(tmp_path)
        assert fxprune.load(tmp_path, lambda: Tied(tied=True)).out.weight[0].isnan().all()
    if tied and only:  # two equal tensors
        result = fxprune.prune(Tied(tied=True).eval(), x, pruning_ratio=0.5, only=only)
        result.save(tmp_path)
        assert torch.equal(fxprune.load(tmp_path, lambda: Tied(tied=False)).eval()(x), result.model(x))
        return
    with pytest.raises(fxprune.PlanError, match="which are two in the model" if tied else "which are one tensor in"):
        fxprune.load(tmp_path, lambda: Tied(not tied))


class Scaled(nn.Module):
    """With a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.register_buffer("scale", torch.ones(1, 8, 1, 1), persistent=False)
        self.register_buffer("table", torch.ones(4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) * self.scale).relu()) * self.table.to(x.dtype)


def test_buffers_that_the_file_does_not_hold_have_their_type(tmp_path: Path) -> None:
    model = Scaled().bfloat16().eval()
    model.table = torch.ones(4, 1, 1)
    x = X.bfloat16()
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    result.save(tmp_path)
    small = fxprune.load(tmp_path, Scaled).eval()
    assert (small.scale.dtype, small.table.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(small(x), result.model(x))


def test_a_new_head_is_saved_as_one_of_its_own_original(result: fxprune.Result[Net], tmp_path: Path) -> None:
    result.model.head = nn.Linear(result.model.head.in_features, 7)
    result.save(tmp_path)
    assert same(fxprune.load(tmp_path, lambda: Net(7)), result.model)
    with pytest.raises(fxprune.PlanError, match=r"head.bias \(4,\) instead of \(7,\)"):
        fxprune.load(tmp_path, Net)
    head = result.model.head
    result.model.head = nn.Sequential(nn.Dropout(), head)
    with pytest.raises(fxprune.InputError, match=r"not as its plan leaves it in head\.weight; seen: no such tensor"):
        result.save(tmp_path)
    result.model.head = nn.Linear(5, 7)
    with pytest.raises(fxprune.InputError, match=r"not as its plan leaves it in head.weight; seen: shape \(7, 5\)"):
        result.save(tmp_path)


@pytest.mark.parametrize("noted", ["[1]", "{", '{"scale": "int8"}', '{"scale": []}', "[" * 100_000])
def test_types_of_buffers_that_are_none(result: fxprune.Result[Net], tmp_path: Path, noted: str) -> None:
    result.save(tmp_path)
    file = tmp_path / "model.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        texts = dict(opened.metadata())
    tensors = safetensors.torch.load_file(file)
    texts = {name: text for name, text in texts.items() if name != "sha256"} | {"buffers": noted}
    safetensors.torch.save_file(tensors, file, texts | {"sha256": _digest(texts, tensors)})
    with pytest.raises(fxprune.InputError, match="types of buffers that are none"):
        fxprune.load(tmp_path, Net)


class Views(nn.Module):
    """A layer whose weight another place of the model holds a view of."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3), nn.Conv2d(12, 8, 3)
        self.out = nn.Conv2d(16 + 8 + 8, 4, 1)
        if how == "buffer":
            self.register_buffer("view", self.b.weight[:8].detach(), persistent=False)
        else:
            self.view = self.b.weight.data[:8] if how == "attribute" else self.b.weight.data[8:].view(8, 12, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.out(torch.cat([self.b(x), self.c(x), nn.functional.conv2d(x, self.view)], 1))


@pytest.mark.parametrize("how", ["buffer", "attribute", "view of a view"])
def test_views_of_a_weight_stay_views(how: str, tmp_path: Path) -> None:
    """What is loaded into a weight is read from its view; if one of them were cut, it would not be."""
    model, x = Views(how).eval(), torch.rand(2, 3, 8, 8)
    result = fxprune.prune(model, x, 0.5)
    assert [g.name for g in result.report.groups] == ["c"]
    assert "a view of memory that another tensor of the model holds, too: view" in str(result.report.groups.why("b"))
    result.save(tmp_path / "small")
    again = fxprune.load(tmp_path / "small", lambda: Views(how)).eval()
    torch.testing.assert_close(again(x), result.model(x))
    with torch.no_grad():
        result.model.b.weight.mul_(2)
    assert not torch.equal(again(x), result.model(x))
    again.load_state_dict(result.model.state_dict())
    torch.testing.assert_close(again(x), result.model(x))


class Lazy(nn.Module):
    """It stores a width when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 4, 1)
        self.width: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        if self.width is None:
            self.width = x.shape[1]
        return self.out(x.reshape(len(x), self.width, -1).softmax(-1).view(x.shape))


@pytest.mark.parametrize("ran", [False, True])
def test_a_width_that_the_first_run_stores(ran: bool, tmp_path: Path) -> None:
    model, x = Lazy().eval(), torch.rand(2, 3, 8, 8)
    if ran:
        model(x)
    result = fxprune.prune(model, x, 0.5)
    result.save(tmp_path / "small")
    again = fxprune.load(tmp_path / "small", Lazy).eval()
    torch.testing.assert_close(again(x), result.model(x))
