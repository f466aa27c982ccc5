"""Draw the pictures of the docs' concepts: PYTHONPATH=.:tools python tools/docs_pictures.py"""

from __future__ import annotations

from pathlib import Path

import digits
import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import fxprune
from fxprune.planners import Budget, Uniform

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
    mpl.rcParams["svg.hashsalt"] = "fxprune"  # the same picture each time
    for name, figure in (("slot", slot()), ("budget", budget()), ("repair", repair())):
        figure.savefig(ASSETS / f"{name}.svg", metadata={"Date": None})


def slot(channel: int = 2) -> Figure:
    """Where one channel lies in the tensors of the net in `concepts.md`."""
    parts = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    groups = fxprune.find_groups(fxprune.trace(nn.Sequential(*parts), torch.zeros(1, 3, 8, 8)))
    slots = groups["0"].slots
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    for axes, s in zip(figure.subplots(1, len(slots), width_ratios=[27, 2, 32]), slots, strict=True):
        stored = groups.graph.tensors[s.tensor]
        marked = torch.zeros(stored.shape).movedim(s.dim, 0).reshape(s.length, -1)
        marked[s.positions[s.channels == channel]] = 1
        axes.pcolormesh(
            marked if s.dim == 0 else marked.T, cmap="Blues", vmin=0, vmax=1.4, edgecolors="lightgrey", linewidth=0.3
        )
        axes.invert_yaxis()
        axes.set(title=f"{s.tensor}, dim {s.dim}\n{s.role}", xticks=[], yticks=[])
        axes.title.set_fontsize(9)
    figure.suptitle(f"Three slots of a group, and where its channel {channel} lies", fontsize="medium")
    return figure


def budget() -> Figure:
    """What each group of the digits ResNet-20 keeps, for every budget."""
    model = digits.network().eval()
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 1, 8, 8)))
    scores = fxprune.scorers.L2Norm()(model, groups)
    keeps = [k / 20 for k in range(2, 21)]
    kept = [Budget(k)(groups, scores).kept_counts() for k in keeps]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for g in groups:
        axes.plot([100 * k for k in keeps], [100 * counts[g.name] / g.size for counts in kept], label=g.name)
    axes.set(xlabel="budget: MACs that may stay, %", ylabel="channels that stay, %")
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def repair() -> Figure:
    """How far the pruned ResNet-20's outputs are from the original's, on images that the repair has not seen."""
    model, example = digits.network().eval(), torch.zeros(1, 1, 8, 8)
    data, norm = [x for x, _ in digits.train()[:2]], fxprune.scorers.L2Norm()
    images = torch.cat([x for x, _ in digits.test()])
    ratios = (0.25, 0.5, 0.75)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    with torch.no_grad():
        expected = model(images)
        for label, repaired in (("cut alone", False), ("cut and repaired", True)):
            errors = []
            for ratio in ratios:
                planner = Uniform(ratio)
                small = fxprune.prune(model, example, planner=planner, scorer=norm, data=data, repair=repaired).model
                errors.append(float((small(images) - expected).norm() / expected.norm()))
            axes.plot([100 * r for r in ratios], errors, marker="o", label=label)
    axes.set(xlabel="channels of every group that are gone, %", ylabel="relative error of the outputs", ylim=(0, None))
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
