"""The code of the docs runs, block after block, as a reader would run it."""

import re
import sys
import tomllib
from pathlib import Path

import mktestdocs
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "```python" in p.read_text())


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


SLOW = {  # pages that train or import much, each with the libraries that its reader has
    "recipes/fine-tuning.md": [],
    "recipes/huggingface.md": ["transformers"],
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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mktestdocs.check_md_file(page, memory=True)


def test_the_readme_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Its first program on the zoo's trained network, as it stands, and the output below it.

    Another processor may choose other widths and end an image or two away.
    """
    code, shown = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)[0]
    exec(code, {})
    printed, number = capsys.readouterr().out, r"\d[\d.]*(?:e[-+]\d+)?"
    assert re.sub(number, "#", printed) == re.sub(number, "#", shown)
    for text in (printed, shown):
        macs, parameters = (float(n) for n in re.findall(r"\(([\d.]+) %\)", text))
        before, after = (float(n) for n in re.findall(r"([\d.]+)%", text))
        assert 24 < macs <= 25
        assert 10 < parameters < 30
        assert before >= 99
        assert after >= 97


def test_the_readme_counts_what_the_table_of_suites_has() -> None:
    table = (DOCS / "support.md").read_text().split("<!-- suites -->")[1]
    counts = [int(n) for n in re.findall(r"^\| \w+ \| [\d.]+ \| (\d+) \|", table, re.M)]
    words = {12: "twelve", 13: "thirteen", 14: "fourteen"}
    assert f"counts {sum(counts)} networks of {words[len(counts)]} suites" in (DOCS.parent / "README.md").read_text()


@pytest.mark.parametrize("name", "AtBudget NearestOutput fastest LayerByLayer".split())
def test_the_page_of_choices_names(name: str) -> None:
    assert f"`{name}" in (DOCS / "choose.md").read_text().replace("method=", "`")


# What packages are imported as, where that is another name, and what they bring along.
BRINGS = {
    "scikit-learn": ["sklearn"],
    "scikit-image": ["skimage", "PIL"],
    "segmentation-models-pytorch": ["segmentation_models_pytorch", "timm", "torchvision"],
    "ultralytics": ["ultralytics", "torchvision", "PIL", "cv2"],
    "timm": ["timm", "torchvision", "PIL"],
}


def packages(requirement: str, extras: dict[str, list[str]]) -> set[str]:
    """The modules that come with a requirement of `pip install`, fxprune's extras resolved."""
    name, _, asked = re.sub(r"[<>=!~;].*", "", requirement).strip("'\"").rstrip("]").partition("[")
    if name != "fxprune":
        return set(BRINGS.get(name, [name]))
    return {"fxprune", "torch", "numpy"}.union(*(packages(r, extras) for e in asked.split(",") if e for r in extras[e]))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_what_must_be_installed(page: Path) -> None:
    """A reader of one page, in an environment of nothing but what it says."""
    text = page.read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    imported = {
        m.partition(".")[0] for line in re.findall(r"^ *(?:from|import) (.+)", code, re.M) for m in modules(line)
    }
    extras = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = re.findall(r"pip install ([^`\n#]+)", text)
    named = {"fxprune", "torch", "numpy"}.union(*(packages(r, extras) for line in lines for r in line.split()))
    assert imported - named - sys.stdlib_module_names == set()


def modules(line: str) -> list[str]:
    """The modules of an import, without the word."""
    if " import " in line:
        return [line.partition(" import ")[0]]
    return [part.strip().split(" as ")[0] for part in line.partition("#")[0].split(",")]


def test_there_are_pages() -> None:
    assert {"quickstart.md", "concepts.md", "recipes/fine-tuning.md"} <= set(map(name, PAGES))
