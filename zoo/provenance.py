"""What a checkpoint says of where it was made."""

import subprocess
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).parent


def commit() -> str | None:
    """The git commit of the code, with "-dirty" if files differ from it; None if it is not known."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Threads and version of torch: what a repetition may differ by."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__}
