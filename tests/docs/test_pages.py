"""The code of the docs runs, block after block, as a reader would run it."""

import re
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


def test_there_are_pages() -> None:
    assert {"quickstart.md", "concepts.md", "recipes/fine-tuning.md"} <= set(map(name, PAGES))
