"""Draw the pictures of the docs: python tools/docs_pictures.py"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import fxprune

ASSETS = Path(__file__).parents[1] / "docs" / "assets"


class Residual(nn.Module):
    """A stem, a residual block, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.outer = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x)
        stream = stream + self.outer(self.inner(stream).relu())
        return self.head(stream.relu().mean((2, 3)))


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model, example = Residual().eval(), torch.rand(1, 3, 16, 16)
    groups = fxprune.find_groups(fxprune.trace(model, example))
    (ASSETS / "group.svg").write_text(fxprune.report.picture(groups, "A residual block"))
    result = fxprune.prune(model, example, pruning_ratio={"inner": 0.5, "stem": 0.25})
    (ASSETS / "plan.svg").write_text(fxprune.report.picture(result, "The same block, pruned"))


if __name__ == "__main__":
    main()
