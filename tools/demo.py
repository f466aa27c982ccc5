"""One real job from end to end: make a trained ResNet-20 as small as 1 % of validation accuracy allows.

tools/demo                         # digits, bundled with scikit-learn
tools/demo --data fashion-mnist    # if its files are there
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxprune
from zoo.augment import shift
from zoo.checkpoints import Metadata
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.networks import build
from zoo.splits import Samples, Splits
from zoo.train import accuracy, fit
from zoo.train_recipe import WEIGHTS

CHECKPOINTS = {"digits": "digits-resnet20", "fashion-mnist": "fashion-resnet20"}
# Epochs, images and threads of each fine-tuning: what keeps the search within a few minutes on two cores.
TUNING = {"digits": (20, 1_077, 1), "fashion-mnist": (1, 12_000, 2)}

Found = fxprune.search.Search[nn.Module, fxprune.search.Probe]


def main(
    data: Annotated[str, typer.Option(help=f"One of {', '.join(CHECKPOINTS)}.")] = "digits",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data's files.")] = None,
    tolerance: Annotated[float, typer.Option(help="Validation accuracy that may be lost.")] = 0.01,
    epochs: Annotated[int | None, typer.Option(help="Fine-tuning of each candidate; 0 for none.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where plan and weights go; default runs/demo-DATA.")] = None,
    seed: Annotated[int, typer.Option(help="Of fine-tuning.")] = 0,
) -> None:
    """Score by weight permutation, set widths by cumulative contribution, bisect with fine-tuning, save and reload."""
    console = Console()
    if data not in CHECKPOINTS:
        raise typer.BadParameter(f"{data} is not one of {', '.join(CHECKPOINTS)}", param_hint="--data")
    try:
        model, metadata = load_checkpoint(WEIGHTS / f"{CHECKPOINTS[data]}.safetensors")
        splits = load_data(data, data_root, seed=metadata.seed)
    except ZooError as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(2) from None
    console.print(f"[bold]{CHECKPOINTS[data]}[/] on {data}: {len(splits.train)} training images")
    start = time.perf_counter()
    found, groups = search(model, splits, data, tolerance, epochs, seed)
    console.print(history(found))
    console.print(before_and_after(model, found, groups, splits))
    folder = out or Path("runs") / f"demo-{data}"
    save(found, folder)
    same = reload(metadata, found, folder, splits.test.images[:64])
    console.print(f"saved to {folder}; reloaded into a fresh model: outputs {'equal' if same else 'DIFFER'}")
    console.print(f"{time.perf_counter() - start:.0f} seconds")
    raise typer.Exit(0 if same else 1)


def search(
    model: nn.Module, splits: Splits, data: str, tolerance: float, epochs: int | None, seed: int
) -> tuple[Found, fxprune.Groups]:
    """Bisect the contribution rate to the smallest model within the tolerance."""
    tuning_epochs, images, threads = TUNING[data]
    torch.set_num_threads(threads)
    rows = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))[:images]
    part = splits.train[rows]
    groups = fxprune.find_groups(fxprune.trace(model, splits.train.images[:1]))
    scorer, images = fxprune.scorers.WeightPermutation(), part.images[:1_024].split(256)
    count = tuning_epochs if epochs is None else epochs

    def tune(small: nn.Module) -> None:
        if count:
            fit(small, part, epochs=count, lr=0.03, augment=shift(1), seed=seed, progress=False)

    def evaluate(candidate: nn.Module) -> float:
        return accuracy(candidate, splits.val)

    bisection = fxprune.search.Bisection(tolerance)
    return bisection(model, groups, evaluate, scorer=scorer, data=images, tune=tune), groups


def history(found: Found) -> Table:
    table = Table(title=f"bisection (validation accuracy of the original: {found.baseline:.2%})", header_style="bold")
    for column in ("contribution rate", "MACs", "parameters", "validation", "accepted"):
        table.add_column(column, justify="right")
    for p in found.history:
        cells = (f"{p.rate:.3f}", f"{p.cost.macs:,}", f"{p.cost.parameters:,}", f"{p.score:.2%}")
        table.add_row(*cells, "yes" if p.accepted else "no")
    return table


def before_and_after(model: nn.Module, found: Found, groups: fxprune.Groups, splits: Splits) -> Table:
    """Accuracy on the test set, measured once; MACs and parameters; latency."""
    costs = fxprune.cost(groups), fxprune.cost(groups, found.plan)
    slow, fast = latencies(model, found.model, splits.test)
    table = Table(title="before and after", header_style="bold")
    for column in ("", "before", "after", "left"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("test accuracy", *(f"{accuracy(m, splits.test):.2%}" for m in (model, found.model)), "")
    for name in ("macs", "parameters"):
        a, b = (getattr(c, name) for c in costs)
        table.add_row("MACs" if name == "macs" else name, f"{a:,}", f"{b:,}", f"{b / a:.1%}")
    table.add_row("latency, 64 images, 1 thread", f"{slow:.1f} ms", f"{fast:.1f} ms", f"{fast / slow:.1%}")
    return table


def latencies(before: nn.Module, after: nn.Module, split: Samples) -> tuple[float, float]:
    """Median milliseconds a forward on one thread, both models in turn, so that a busy machine slows both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slow, fast = fxprune.latency.by_turns([before, after], split.images[:64], 15)
    torch.set_num_threads(threads)
    return 1e3 * statistics.median(slow), 1e3 * statistics.median(fast)


def save(found: Found, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found.plan.save(folder / "plan.json")
    state = {name: t.contiguous() for name, t in found.model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")


def reload(metadata: Metadata, found: Found, folder: Path, images: Tensor) -> bool:
    """Whether a fresh network, cut by the saved plan and loaded with the saved weights, gives the same outputs."""
    fresh = build(metadata.network, metadata.arguments)
    small = fxprune.rewrite(fresh, fxprune.Plan.load(folder / "plan.json"))
    small.load_state_dict(load_file(folder / "weights.safetensors"))
    with torch.inference_mode():
        return torch.equal(small.eval()(images), found.model.eval()(images))


if __name__ == "__main__":
    typer.run(main)
