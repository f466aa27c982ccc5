"""The code of the docs runs, block after block, as a reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mktestdocs
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "```python" in p.read_text())


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


SLOW = {  # pages that train, each with the libraries that its reader has
    "recipes/fine-tuning.md": [],
    "recipes/language-models.md": ["transformers"],
    "recipes/latency.md": ["onnxruntime", "onnxscript"],
    "recipes/quantising.md": ["onnxruntime", "onnxscript"],
    "recipes/segmentation-models.md": ["segmentation_models_pytorch"],
    "recipes/timm.md": ["timm"],
    "recipes/torchvision.md": ["onnxruntime", "onnxscript"],
    "recipes/while-training.md": ["lightning", "transformers", "accelerate"],
    "recipes/yolo.md": ["ultralytics", "onnxruntime"],
}


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (name(p) in SLOW)) for p in PAGES], ids=name
)
@pytest.mark.filterwarnings("default")  # a reader's are shown, not raised
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in SLOW.get(name(page), []):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    mktestdocs.check_md_file(page, memory=True)


def test_the_readme_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Its first program on the zoo's trained network, as it stands, and the output below it."""
    code, shown = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)[0]
    exec(code, {})
    assert capsys.readouterr().out == shown


@pytest.mark.slow
def test_the_program_for_several_processes_runs_in_two(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    program = DOCS / "recipes" / "several_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    surroundings = {**os.environ, "PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=surroundings, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 processes, Result(Sequential; ")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name)
def test_links_and_pictures_resolve(page: Path) -> None:
    """To files of the docs; anchors are checked when the site is built."""
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
    assert [link for link in found if "://" not in link and not (page.parent / link).exists()] == []


def test_there_are_pages() -> None:
    assert {"quickstart.md", "concepts.md", "recipes/fine-tuning.md"} <= set(map(name, PAGES))
