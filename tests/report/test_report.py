"""Reports: the JSON, the tables, the picture, the page, and the program that makes them."""

import json
import math
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import inspect_groups
import numpy as np
import pytest
import torch
import torchvision_models as tv
import typer
from processes import forked
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from typer.testing import CliRunner

import fxprune
from fxprune import report
from fxprune.analysis.groups import Groups
from fxprune.report.drawing.flow import Flow, flow
from fxprune.report.drawing.layout import Line, Size, layout

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(\"1\")</script> & 'x'"
TOOL = Path(inspect_groups.__file__)


class Toy(nn.Module):
    """A residual block, a concatenation, and a module with a name that is markup."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.add_module(HOSTILE, nn.Conv2d(8, 5, 1))
        self.side, self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(9, 4, 1), nn.Conv2d(9, 7, 1)
        self.head = nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.back(self.inner(x).relu())
        both = torch.cat([self._modules[HOSTILE](x), self.side(x)], 1)
        both = torch.cat([self.left(both), self.right(both)], 1)
        return self.head(both.mean((2, 3)))


@cache
def groups_of(name: str) -> Groups:
    if name == "toy":
        return fxprune.find_groups(fxprune.trace(Toy(), torch.zeros(1, 3, 8, 8)))
    ignored = ("layer3",) if name == "resnet18, protected" else ()
    name = name.partition(",")[0]
    return fxprune.find_groups(fxprune.trace(tv.build(name), tv.example(name)), ignored)


MODELS = ("toy", "resnet18", "resnet18, protected", "googlenet")
SHAPES = (*MODELS, "resnet50", "densenet121", "shufflenet_v2_x1_0")


# Data and tables


@pytest.mark.parametrize("name", MODELS)
def test_json_tells_the_groups(name: str) -> None:
    groups = groups_of(name)
    data = json.loads(json.dumps(report.as_dict(groups)))
    assert [(g["name"], g["size"]) for g in data["groups"]] == [(g.name, g.size) for g in groups]
    for told, group in zip(data["groups"], groups, strict=True):
        slots = [(s["tensor"], s["dim"], s["role"], s["positions_per_channel"] * group.size) for s in told["slots"]]
        assert slots == [(s.tensor, s.dim, s.role, len(s.positions)) for s in group.slots]
        assert set(told["feeds"]) == set(groups.feeds.successors(group.name))
        assert 0 <= told["macs_share"] <= 1
        assert told["mixed_by"] == group.mixed_by
    assert [set(tie) for tie in data["ties"]] == [set(tie) for tie in groups.ties]
    fixed = [
        (m["tensor"], m["dim"], m["count"], row["reason"], row["where"])
        for row in data["fixed"]
        for m in row["members"]
    ]
    assert sorted(fixed) == sorted((d.tensor, d.dim, d.count, d.reason, d.where) for d in groups.fixed)
    assert data["unknown_ops"] == dict(groups.unknown_ops)
    assert data["parameters"] == sum(p.numel() for p in groups.graph.model.parameters())


def test_parameters_of_a_group_are_those_lost_with_all_its_channels() -> None:
    for row in report.group_rows(groups_of("toy")):
        touched: dict[str, Tensor] = {}
        for s in row.group.slots:
            mark = touched.setdefault(s.tensor, torch.zeros(groups_of("toy").graph.tensors[s.tensor].shape))
            mark.index_fill_(s.dim, torch.as_tensor(s.positions), 1)
        assert row.parameters == sum(int(t.sum()) for t in touched.values())


def test_a_dim_that_two_groups_share_is_told_in_parts() -> None:
    slots = [s for g in report.as_dict(groups_of("toy"))["groups"] for s in g["slots"] if s["tensor"] == "left.weight"]
    assert [(s["dim"], s["length"], s["role"]) for s in slots] == [
        (1, 9, "consumer"),
        (1, 9, "consumer"),
        (0, 4, "producer"),
    ]


class Mixed(nn.Module):
    """A norm over the pruned channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


def test_notes_tell_what_runs_over_a_group() -> None:
    groups = fxprune.find_groups(fxprune.trace(Mixed(), torch.zeros(1, 3)))
    assert groups[0].mixed_by
    assert f"{groups[0].mixed_by} runs over all its channels" in report.group_rows(groups)[0].notes
    assert "runs over all" in _rendered(report.group_table(groups))
    assert "runs over all" in report.picture(groups)
    assert "runs over all" in report.page(groups)


def test_tables_show_hostile_and_bracketed_names_as_they_are() -> None:
    net = nn.Sequential()
    net.add_module("[red]", nn.Linear(3, 4))
    net.add_module("b", nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    text = "".join(
        map(_rendered, (report.group_table(groups), report.members_table(groups[0]), report.fixed_table(groups)))
    )
    assert "[red]" in text
    assert "[red].weight" in text
    assert "model input" in text
    assert "1 producer, 1 consumer, 1 other" in text


def _rendered(table: Table) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


# Flow


@pytest.mark.parametrize("name", SHAPES)
def test_flow_is_the_groups_own_and_joints_change_nothing(name: str) -> None:
    groups, found = groups_of(name), flow(groups_of(name))
    told = {k: n.name for k, n in found.nodes.items() if n.kind == "group"}
    assert sorted(told.values()) == sorted(g.name for g in groups)
    pairs = {(told[a], told[b]) for a, b in found.pairs() if a in told and b in told}
    assert pairs == set(groups.feeds.edges)


def test_joints_save_edges() -> None:
    edges = groups_of("densenet121").feeds.number_of_edges()
    assert len(flow(groups_of("densenet121")).edges) < edges * 0.7


def test_input_and_output_are_where_the_model_has_them() -> None:
    found = flow(groups_of("resnet18"))
    named = {(found.nodes[a].name, found.nodes[b].name) for a, b in found.pairs()}
    assert [b for a, b in sorted(named) if a == "model input"] == ["conv1"]
    assert [a for a, b in sorted(named) if b == "model output"] == ["layer4.0.conv2"]


def test_residual_blocks_go_both_ways_and_protected_groups_stay_in_the_picture() -> None:
    found = flow(groups_of("resnet18, protected"))
    both = {(found.nodes[e.source].name, found.nodes[e.target].name) for e in found.edges if e.both}
    assert ("conv1", "layer1.0.conv1") in both
    kept = {n.name: n for n in found.nodes.values() if n.kind == "kept"}
    assert set(kept) == {
        "layer2.0.conv2",
        "layer3.0.conv1",
        "layer3.0.conv2",
        "layer3.1.conv1",
    }  # layer3 reads the first
    assert "ignored by the caller" in kept["layer3.0.conv2"].note


class Sorted(nn.Module):
    """Channels in the order of their values, so that those before and behind it stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.c, self.d = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x)).sort(1).values))


def test_fixed_channels_between_groups_are_a_node() -> None:
    found = flow(fxprune.find_groups(fxprune.trace(Sorted(), torch.rand(1, 3, 4, 4))))
    fixed = [n for n in found.nodes.values() if n.kind == "fixed"]
    assert fixed
    assert all(n.note and any(n.key in pair for pair in found.pairs()) for n in fixed)


# Layout


def test_rows_hold_no_more_than_they_are_wide() -> None:
    items = {f"n{i}": Size(100, 20) for i in range(23)}
    found = layout(items, [Line("n0", f"n{i}") for i in range(1, 23)], row_width=500)
    rows: dict[float, int] = {}
    for box in found.boxes.values():
        rows[box.top] = rows.get(box.top, 0) + 1
    assert max(rows.values()) == 4


@pytest.mark.parametrize("count", [0, 1])
def test_layout_of_next_to_nothing(count: int) -> None:
    found = layout({f"n{i}": Size(10, 10) for i in range(count)}, [], row_width=100)
    assert (found.width, found.height) == (10.0 * count, 10.0 * count)


# Picture


class Rect(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def _drawing(name: str) -> ET.Element:
    return ET.fromstring(report.picture(groups_of(name), name))


def _rect(box: ET.Element) -> Rect:
    rect = box.find(f"{SVG}rect")
    assert rect is not None
    x, y, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
    return Rect(x, y, x + width, y + height)


def _boxes(svg: ET.Element) -> dict[str, ET.Element]:
    return {g.attrib["data-key"]: g for g in svg.iter(f"{SVG}g") if "data-name" in g.attrib}


def _edges(svg: ET.Element) -> list[ET.Element]:
    return [p for p in svg.iter(f"{SVG}path") if "data-from" in p.attrib]


def _joints(svg: ET.Element) -> dict[str, Rect]:
    found = {}
    for c in svg.iter(f"{SVG}circle"):
        if "data-key" in c.attrib:
            x, y, r = (float(c.attrib[k]) for k in ("cx", "cy", "r"))
            found[c.attrib["data-key"]] = Rect(x - r, y - r, x + r, y + r)
    return found


def _along(path: str) -> Iterator[tuple[float, float]]:
    """Points on a path of moves, lines and cubic curves."""
    at = (math.nan, math.nan)
    for command, numbers in re.findall(r"([MLC])([-\d. ]+)", path):
        values = [float(v) for v in numbers.split()]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command == "M":
            at = points[0]
        control = [at, *points] if command == "C" else [at, at, points[-1], points[-1]]
        for t in (i / 20 for i in range(21)):
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            x, y = (sum(w * p[i] for w, p in zip(weights, control, strict=True)) for i in (0, 1))
            yield x, y
        at = points[-1]


@pytest.mark.parametrize("name", SHAPES)
def test_boxes_do_not_overlap_and_hold_every_group(name: str) -> None:
    svg = _drawing(name)
    boxes = _boxes(svg)
    assert {b.attrib["data-name"] for b in boxes.values()} >= {g.name for g in groups_of(name)}
    rects = {k: _rect(b) for k, b in boxes.items()} | _joints(svg)
    for (k, a), (m, b) in combinations(rects.items(), 2):
        apart = a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top
        assert apart, f"{k} overlaps {m}"
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    assert all(r.left >= 0 and r.top >= 0 and r.right <= width and r.bottom <= height for r in rects.values())


@pytest.mark.parametrize("name", SHAPES)
def test_edges_end_at_their_boxes_and_run_through_no_other(name: str) -> None:
    svg = _drawing(name)
    rects = {k: _rect(b) for k, b in _boxes(svg).items()} | _joints(svg)
    inner = np.array(list(rects.values())) + np.array((1, 1, -1, -1))
    edges = _edges(svg)
    assert len(edges) == len(flow(groups_of(name)).edges)
    for edge in edges:
        points = list(_along(edge.attrib["d"]))
        for end, (x, y) in ((edge.attrib["data-from"], points[0]), (edge.attrib["data-to"], points[-1])):
            r = rects[end]
            assert r.left <= x <= r.right
            assert min(abs(y - r.top), abs(y - r.bottom)) < 0.2
        x, y = np.array(points).T[:, :, None]
        through = ((inner[:, 0] < x) & (x < inner[:, 2]) & (inner[:, 1] < y) & (y < inner[:, 3])).any(0)
        assert not through.any(), [k for k, hit in zip(rects, through, strict=True) if hit]


def test_a_name_that_is_markup_is_text() -> None:
    svg = _drawing("toy")
    assert not list(svg.iter(f"{SVG}script"))
    assert HOSTILE in {b.attrib["data-name"] for b in _boxes(svg).values()}


def test_what_xml_cannot_hold_is_replaced() -> None:
    net = nn.Sequential()
    net.add_module("bad\x00\x1b", nn.Linear(3, 4))
    net.add_module("b", nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    assert "bad\ufffd\ufffd" in "".join(ET.fromstring(report.picture(groups)).itertext())
    assert "\x00" not in report.page(groups)


def test_a_model_without_groups_has_a_picture_and_a_page() -> None:
    groups = fxprune.find_groups(fxprune.trace(nn.Linear(3, 2), torch.zeros(1, 3)))
    ET.fromstring(report.picture(groups))
    assert "0 prunable groups" in report.page(groups)


def test_the_same_model_gives_the_same_picture() -> None:
    again = fxprune.find_groups(fxprune.trace(Toy(), torch.zeros(1, 3, 8, 8)))
    assert report.picture(again) == report.picture(groups_of("toy"))


# Page


class _Page(HTMLParser):
    """Counts tags, checks nesting, and collects what would be loaded."""

    LOADING = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.loaded += [value or "" for name, value in attrs if name in self.LOADING]
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", MODELS)
def test_page_is_whole_and_loads_nothing(name: str) -> None:
    html = report.page(groups_of(name), name)
    found = _Page()
    found.feed(html)
    assert found.open == []
    assert found.loaded == []
    assert found.tags["script"] == 1
    assert re.findall(r"https?://[^\"' ]+", html) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|url\((?!#)", html)
    assert html.count('<tbody class="group"') == len(groups_of(name))


def test_page_escapes_names_and_titles() -> None:
    html = report.page(groups_of("toy"), title="</title><script>1</script>")
    assert "<script>alert" not in html
    assert "<script>1" not in html
    assert "&lt;script&gt;alert" in html


# The program

RUN = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(inspect_groups.main)
    return app


NETS = """
    import torch
    from torch import nn
    from torchvision.models import VisionTransformer
    def small(): return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    def loud():
        print("hello")
        return small()
    def vit(): return VisionTransformer(16, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48).eval()
    def number(): return 7
    def broken(): raise RuntimeError("two\\nlines")
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 2)
        def forward(self, x, y): return self.c(self.a(x) + self.b(y))
    constant = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of networks, as the working directory."""
    (tmp_path / "my_nets.py").write_text(textwrap.dedent(NETS))
    (tmp_path / "my_broken_nets.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_nets", "my_broken_nets"):
        sys.modules.pop(name, None)


def test_program_shows_groups_and_what_is_fixed(app: typer.Typer) -> None:
    found = RUN.invoke(app, ["resnet18", "--members"])
    assert found.exit_code == 0
    for text in ("12 prunable groups", "3 producers, 4 consumers", "35.", "model input", "fc.weight[dim 0] (1000)"):
        assert text in found.stdout
    assert "layer4.1.bn1.running_var" in found.stdout
    assert "ops without a rule: none" in found.stdout


def test_program_writes_files(app: typer.Typer, nets: Path) -> None:
    shape = ["--input-shape", "1,4"]
    (nets / "a.svg").write_text("old")
    found = RUN.invoke(app, ["my_nets:small", *shape, "--svg", "a.svg", "--html", "a.html", "--json", "a.json"])
    assert found.exit_code == 0
    assert ET.parse(nets / "a.svg").getroot().tag == f"{SVG}svg"
    assert json.loads((nets / "a.json").read_text())["groups"][0]["name"] == "0"
    assert "<svg" in (nets / "a.html").read_text()
    assert "wrote a.svg" in found.stderr
    assert sorted(p.suffix for p in nets.iterdir() if p.is_file()) == [".html", ".json", ".py", ".py", ".svg"]


def test_program_pipes_json_and_nothing_else(nets: Path) -> None:
    def program() -> None:
        sys.argv = [str(TOOL), "my_nets:loud", "--input-shape", "1,4", "--json", "-"]
        runpy.run_path(str(TOOL), run_name="__main__")

    found = forked(program)
    assert found.returncode == 0
    assert json.loads(found.stdout)["groups"][0]["size"] == 8
    assert "hello" in found.stderr


def test_program_takes_choices_of_heads(app: typer.Typer, nets: Path) -> None:
    sizes = []
    for choice in ("head_dim", "encoder.layers.*=num_heads"):
        arguments = ["my_nets:vit", "--input-shape", "1,3,16,16", "--heads", choice, "--json", "-"]
        out = RUN.invoke(app, arguments).stdout
        sizes.append({g["name"]: g["size"] for g in json.loads(out)["groups"]})
    assert sizes[0].keys() == sizes[1].keys()
    assert sizes[0] != sizes[1]


def test_program_takes_several_inputs_and_protects(app: typer.Typer, nets: Path) -> None:
    both = ["my_nets:Two", "--input-shape", "1,4", "--input-shape", "1,6", "--json", "-"]
    assert [g["name"] for g in json.loads(RUN.invoke(app, both).stdout)["groups"]] == ["a"]
    kept = json.loads(RUN.invoke(app, [*both, "--ignored", "a"]).stdout)
    assert kept["groups"] == []
    assert any("ignored by the caller" in row["reason"] for row in kept["fixed"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnet81"], "no torchvision model is called 'resnet81'; did you mean"),
        (["resnet81", "--input-shape", "1,3,8,8"], "no torchvision model is called 'resnet81'; did you mean"),
        (["zzz"], "give a torchvision name or module:factory"),
        (["no_such_module:make"], "cannot import no_such_module"),
        (["my_broken_nets:make"], "importing my_broken_nets raised ZeroDivisionError"),
        (["my_nets:smal"], "my_nets has no 'smal'; did you mean small?"),
        (["my_nets:constant"], "my_nets:constant is not callable; seen: int"),
        (["my_nets:number"], "my_nets:number returned no nn.Module; seen: int"),
        (["my_nets:broken"], "my_nets:broken raised RuntimeError: two lines"),
        (["my_nets:small", "--input-shape", "1,x"], "not a shape: '1,x'"),
        (["my_nets:small", "--input-shape", "1,0"], "not a shape: '1,0'"),
        (
            ["my_nets:small", "--input-shape", "9999999,9999999"],
            "too large an input: '9999999,9999999'; give one",
        ),
        (["my_nets:small", "--input-shape", f"1,{10**20}"], "too large an input: '1,100000000000000000000'"),
        (["my_nets:small", "--input-shape", "1,5"], "mat1 and mat2"),
        (["my_nets:small", "--input-shape", "1,4", "--ignored", "nobody"], "nothing has the ignored name"),
        (["my_nets:small", "--input-shape", "1,4", "--heads", "both"], "unknown choice of heads; seen: 'both'"),
        (
            ["my_nets:small", "--input-shape", "1,4", "--heads", "x=num_heads"],
            "no module has the name or pattern; seen: x",
        ),
        (
            ["my_nets:small", "--input-shape", "1,4", "--heads", "num_heads", "--heads", "0=head_dim"],
            "several choices of heads",
        ),
        (
            ["my_nets:small", "--input-shape", "1,4", "--svg", "no/such/folder.svg"],
            "cannot write no/such/folder.svg: FileNotFoundError: No such file or directory",
        ),
        (["my_nets:small", "--input-shape", "1,4", "--json", "."], "cannot write .: "),
    ],
)
def test_program_tells_mistakes_in_a_line(app: typer.Typer, nets: Path, arguments: list[str], told: str) -> None:
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in found.stderr


def test_flow_without_edges() -> None:
    assert Flow({}, ()).pairs() == set()
