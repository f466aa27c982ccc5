"""What a checkpoint says of where it was made."""

import subprocess
from pathlib import Path
from typing import Any

import torch

from zoo.processes import present

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
    """Processes, threads and version of torch: what a repetition may differ by."""
    several = {"processes": present().count} if present().count > 1 else {}
    return {**several, "threads": torch.get_num_threads(), "torch": torch.__version__}
