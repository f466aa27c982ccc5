"""Run the code of a page of the docs and show what it prints: python tools/page.py recipes/timm.md"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import mktestdocs

DOCS = Path(__file__).parents[1] / "docs"


def main(page: str) -> None:
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # pages write files
        os.environ["XDG_CACHE_HOME"] = folder
        mktestdocs.check_md_file(DOCS / page, memory=True)
    print(f"{time.process_time() - start:.0f} seconds of CPU time")


if __name__ == "__main__":
    main(sys.argv[1])
