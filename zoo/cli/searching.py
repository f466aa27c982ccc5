"""``search``: make weights as small as a tolerance allows."""

from pathlib import Path
from typing import Annotated

import torch
import typer

import fxprune
from zoo.checkpoints import save
from zoo.cli.options import Download, Mixed, Name, Root, Threads, chosen, one_line_errors, use
from zoo.cli.tuning import summary
from zoo.processes import is_main, present
from zoo.recipes import RECIPES
from zoo.run import Run
from zoo.search import search as bisect
from zoo.settings import Settings
from zoo.train_recipe import WEIGHTS


def search(
    name: Name,
    tolerance: Annotated[float, typer.Option(help="Validation accuracy that may be lost.")] = 0.01,
    precision: Annotated[float, typer.Option(help="Of the contribution rate: 0.01 takes 7 fine-tunings.")] = 0.01,
    epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = 5,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.02,
    distil: Annotated[float, typer.Option(help="Share of the loss that asks for the original's outputs.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    data_root: Root = None,
    download: Download = False,
    device: Annotated[str | None, typer.Option(help="Where to compute.", show_default="a GPU if there is one")] = None,
    threads: Threads = None,
    mixed_precision: Mixed = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME-searched.safetensors, .json, and the search.")] = Path(
        "runs"
    ),
) -> None:
    """Prune the weights of a recipe by bisection, fine-tuning every candidate, and write weights and plan.

    Run again after an interruption, it goes on from the last finished candidate (kept in NAME-search). Started by
    'accelerate launch' or 'torchrun', all processes fine-tune each candidate together.
    """
    with one_line_errors(fxprune.FxpruneError, ValueError):
        use(threads)
        recipe = chosen(RECIPES, name)
        tuned, _ = bisect(
            WEIGHTS / f"{name}.safetensors",
            Settings(epochs, lr, recipe.settings.batch_size, distil=distil, seed=seed),
            tolerance=tolerance,
            precision=precision,
            change=recipe.change,
            folder=out / f"{name}-search",
            run=Run(data_root, download, _device(device), mixed_precision),
        )
        if is_main():
            save(out / f"{name}-searched.safetensors", tuned.model, tuned.metadata)
            tuned.plan.save(out / f"{name}-searched.json")
            typer.echo(summary(name, tuned))


def _device(wanted: str | None) -> torch.device | str:
    placed = present().place(wanted)
    return placed or ("cuda" if torch.cuda.is_available() else "cpu")
