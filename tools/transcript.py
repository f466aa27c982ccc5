"""Write docs/command-line.md: the command on a really trained network, with what it printed.

PYTHONPATH=. python tools/transcript.py > docs/command-line.md
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHAPE = "--input-shape 1,1,8,8"
STEPS = (
    (
        "What can be pruned, and what must stay:",
        f"fxprune inspect digits.py:network {SHAPE}",
    ),
    (
        "Keep a quarter of the arithmetic, in multiples of 4. 1,024 of the training images choose the channels and "
        "repair the layers; their labels are not read:",
        f"fxprune prune digits.py:network {SHAPE} --data digits.py:train --macs 0.25 --round-to 4 --out small",
    ),
    (
        "The plan, proven once more from the file:",
        "fxprune verify small",
    ),
    (
        "`inspect`, `prune` and `search` take `small` as well; what they cut further is saved as a file of the "
        "original again.\n\nOriginal and pruned, on images that neither has seen:",
        "fxprune compare small --data digits.py:test --threads 1",
    ),
    (
        "For use elsewhere, checked against the model:",
        "fxprune export small --onnx small.onnx --pt2 small.pt2 --dynamic-batch",
    ),
)
HEAD = """# The command line

A ResNet-20 that the zoo has trained on the digits of scikit-learn; `tools/digits.py` loads the network and the images.
This page is written by `tools/transcript.py`. A test runs the same commands and compares the figures, except for times.
All options: [Options of the command](command-reference.md).

```
$ pip install 'fxprune[images,onnx]'
```
"""


def main() -> None:
    """Print the page."""
    print(HEAD, end="")
    for text, command, output in transcript():
        print(f"\n{text}\n\n```\n$ {command}\n{output}\n```")


def transcript() -> list[tuple[str, str, str]]:
    """Each step's text, its command, and what the command printed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "digits.py").write_text((ROOT / "tools" / "digits.py").read_text())
        return [(text, command, run(command, Path(folder))) for text, command in STEPS]


def run(command: str, folder: Path) -> str:
    """What a command prints on standard output.

    Raises:
        RuntimeError: it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "110"}
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} exits with {done.returncode}: {done.stderr[-2000:]}")
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


if __name__ == "__main__":
    main()
