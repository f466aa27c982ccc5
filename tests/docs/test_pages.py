"""The code of the docs runs, block after block, as a reader would run it."""

import re
from pathlib import Path

import mktestdocs
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "```python" in p.read_text())


def name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


SLOW = {"recipes/fine-tuning.md"}  # trains eight times


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (name(p) in SLOW)) for p in PAGES], ids=name
)
@pytest.mark.filterwarnings("default")  # a reader's are shown, not raised
def test_the_code_of_a_page_runs(page: Path) -> None:
    mktestdocs.check_md_file(page, memory=True)


def test_the_readme_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Its first program on the zoo's trained network, as it stands, and the output below it."""
    code, shown = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)[0]
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_there_are_pages() -> None:
    assert {"quickstart.md", "concepts.md", "recipes/fine-tuning.md"} <= set(map(name, PAGES))
