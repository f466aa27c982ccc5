"""The smallest network of every family of timm.

python -m suites.timm writes `timm_smallest.json` again, in the folder of this module: it counts all parameters.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import track
from torch import Tensor, nn

from suites import Case

PACKAGE = "timm"
LARGEST = 150_000_000
_TABLE = Path(__file__).with_name("timm_smallest.json")


def names() -> list[str]:
    return list(_smallest())


def case(name: str) -> Case:
    family, count = _smallest()[name]
    config: Any = timm.get_pretrained_cfg(name)
    channels, *size = config.input_size
    larger = [n + 32 for n in size]
    return Case(
        family=family,
        build=partial(_build, name),
        example=partial(_images, channels, size),
        larger=partial(_images, channels, larger, 1),
        skipped=f"{count / 1e6:.0f} M parameters, more than {LARGEST / 1e6:.0f} M" if count > LARGEST else "",
    )


def _build(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False).eval()


def _images(channels: int, size: list[int], batch: int) -> Tensor:
    return torch.rand(batch, channels, *size)


def _smallest() -> dict[str, tuple[str, int]]:
    """{name: (family, parameters)}"""
    table: dict[str, Any] = json.loads(_TABLE.read_text())
    return {name: (family, count) for family, (name, count) in table.items()}


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())


def _counted(family: str) -> dict[str, int]:
    """Parameters of a family's networks, those left out that are for unit tests or cannot be made on meta."""
    counts = {}
    for name in timm.list_models(module=family):
        if not name.startswith("test_"):
            try:
                counts[name] = _parameters(name)
            except Exception as error:
                print(f"{name}: {error}")
    return counts


def main() -> None:
    table = {}
    for family in track(timm.list_modules()):
        counts = _counted(family)
        if counts:
            name = min(counts, key=counts.__getitem__)
            table[family] = [name, counts[name]]
            _TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
