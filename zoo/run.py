"""Where and how a recipe runs: options that should change results by rounding only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.footprints import Device


@dataclass(frozen=True)
class Run:
    """How to execute a recipe.

    Args:
        root: folder of the data's files, as of ``zoo.data.load``.
        download: fetch missing files.
        device: where to compute; None is the CPU.
        mixed_precision: as of ``zoo.train.fit``.
        progress: show a line an epoch.
        state: file that holds the unfinished training, None for none.
        log: folder of a TensorBoard log, None for none.
    """

    root: Path | None = None
    download: bool = False
    device: Device = None
    mixed_precision: bool | None = None
    progress: bool = True
    state: Path | None = None
    log: Path | None = None

    def training(self) -> dict[str, Any]:
        """Keyword arguments for ``zoo.train.fit`` and ``zoo.adaptation.adapt.adapt``."""
        names = ("device", "mixed_precision", "progress", "state", "log")
        return {name: getattr(self, name) for name in names}
