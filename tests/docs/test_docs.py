"""The pages of docs/ that show programs and their output do what they show."""

import os
import re
import shutil
import subprocess
import sys
import venv
from email import message_from_string
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import fxprune

ROOT = Path(fxprune.__file__).parents[1]
DOCS = ROOT / "docs"


def program(page: str, title: str) -> str:
    """The program below a heading."""
    text = (DOCS / page).read_text().partition(f"\n## {title}\n")[2]
    return re.findall(r"```py\n(.*?)```", text, re.S)[0]


def macs(model: nn.Module, example: torch.Tensor) -> int:
    """Of convolutions and linear layers, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    return counter.get_total_flops() // 2


@pytest.mark.slow
@pytest.mark.parametrize("library", ["fxprune", "Torch-Pruning"])
@pytest.mark.filterwarnings("ignore")
def test_the_same_job(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"loader": [(torch.rand(8, 3, 64, 64), torch.zeros(8)) for _ in range(4)]}
    exec(program("side-by-side.md", library), names)
    small, example = names["small"], names["example"]
    assert isinstance(small, nn.Module)
    assert 0.35 < macs(small, example) / macs(resnet18(), example) <= 0.5
    kept = [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in kept)
    assert (tmp_path / "small.onnx").stat().st_size > 0
    if library == "fxprune":
        assert small.layer4[1].conv1.weight.shape == (512, 512, 3, 3)


@pytest.mark.slow
def test_the_transcript_is_what_the_commands_print() -> None:
    """Except for times, and the digits of deviations that rounding makes."""
    sys.path.insert(0, str(ROOT / "tools"))
    from transcript import transcript

    page = (DOCS / "command-line.md").read_text()
    shown = re.findall(r"```\n\$ (fxprune [^\n]*)\n(.*?)\n```", page, re.S)
    assert [(command, steady(output)) for command, output in shown] == [
        (command, steady(output)) for _, command, output in transcript()
    ]


def test_the_options_of_the_command_are_those_that_it_prints() -> None:
    """Their names, command by command; how help is laid out differs between releases of typer."""
    sys.path.insert(0, str(ROOT / "tools"))
    from command_reference import page

    names = [
        re.findall(r"^## .*|^ +(--[\w-]+)", text, re.M)
        for text in ((DOCS / "command-reference.md").read_text(), page())
    ]
    assert len(names[0]) > 60
    assert names[0] == names[1]


def steady(output: str) -> list[str]:
    lines = [line for line in output.splitlines() if not re.search(r", ms +│", line)]
    return [re.sub(r"deviation.*?\de[-+]\d+", "deviation", line) for line in lines]


@pytest.mark.slow
def test_a_program_for_several_processes(tmp_path: Path) -> None:
    """Started as the page says; one of the two processes tells what came of it."""
    pytest.importorskip("accelerate")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    clean = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = str(DOCS / "recipes" / "several_processes.py")
    done = subprocess.run([*launch, program], check=False, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"2 processes, Result\(Sequential; 2 of 2 groups pruned, .*\), accuracy 0\.9\d+\n", done.stdout)


def test_no_link_of_the_package_s_description_leads_nowhere(tmp_path: Path) -> None:
    """What an index shows of the wheel: links are absolute, and all of the README's text is there."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    make = "from setuptools import build_meta as b; b.prepare_metadata_for_build_wheel('.')"
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True, cwd=tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    told = message_from_string(metadata.read_text(encoding="utf-8"))
    assert told["Description-Content-Type"] == "text/markdown"
    description = told.get_payload()
    assert isinstance(description, str)
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", description))
    wanted = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line[:2] != "!["]
    assert [line for line in description.splitlines() if line] == [line for line in wanted if line]


@pytest.mark.slow
def test_a_wheel_in_a_clean_environment_has_the_command(tmp_path: Path) -> None:
    """With PyTorch and the other dependencies of this environment, but without the repository on the path."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "fxprune", source / "fxprune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fxprune-*.whl")
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    (libraries,) = (p for p in map(Path, sys.path) if p.name == "site-packages" and (p / "torch").exists())
    (inner,) = (tmp_path / "clean").glob("lib/python*/site-packages")
    (inner / "host.pth").write_text(f"{libraries}\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [str(python), "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=clean)
    where = [str(python), "-c", "import fxprune; print(fxprune.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path, env=clean).stdout
    assert str(inner) in found
    command = [str(python.parent / "fxprune"), "prune", "torchvision:resnet18", "--macs", "0.5", "--out", "small"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert " of 12 groups pruned" in done.stdout
    assert (tmp_path / "small" / "model.safetensors").exists()


ROOMS = ["latency", "ops", "planners", "report", "scorers", "search", "sparsity", "testing"]


def test_the_api_pages_list_all_that_is_public() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: fxprune\.(\S+)", pages, re.M))
    rooms = {room: getattr(fxprune, room) for room in ROOMS}
    kinds = type | FunctionType | ModuleType  # and no tables
    inside = {f"{n}.{k}" for n, room in rooms.items() for k in room.__all__ if isinstance(getattr(room, k), kinds)}
    public = {*fxprune.__all__, *inside}
    assert public - {*listed, *ROOMS} == set()
    assert all(name in public or name.startswith(("errors.", "training.")) for name in listed)
