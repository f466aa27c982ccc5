"""``train`` a recipe, ``check`` its weights, ``list`` all."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from zoo.checkpoints import describe, load, save
from zoo.cli.options import Device, Download, Log, Mixed, Name, Root, Threads, chosen, one_line_errors, use
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.networks import build
from zoo.processes import is_main
from zoo.recipe import Recipe
from zoo.recipes import ADAPTATIONS, RECIPES
from zoo.run import Run
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS, train_recipe

TOLERANCE = 0.002
"""Difference in accuracy that another processor may make."""


def train(
    name: Name,
    data_root: Root = None,
    download: Download = False,
    device: Device = "cpu",
    threads: Threads = None,
    mixed_precision: Mixed = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    log: Log = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME.safetensors.")] = WEIGHTS,
) -> None:
    """Train a recipe and write its weights.

    Run again after an interruption, it goes on from the last finished epoch (kept in NAME.state).
    """
    with one_line_errors():
        use(threads)
        state = out / f"{name}.state"
        model, metadata = train_recipe(
            _changed(chosen(RECIPES, name), epochs, seed),
            Run(data_root, download, device, mixed_precision, state=state, log=log),
        )
        if is_main():
            save(out / f"{name}.safetensors", model, metadata)
            state.unlink()
            typer.echo(f"{name}: val {100 * metadata.val_accuracy:.2f} %, test {100 * metadata.test_accuracy:.2f} %")


def check(name: Name, data_root: Root = None, device: Device = "cpu", threads: Threads = None) -> None:
    """Measure weights again and compare with what they claim."""
    with one_line_errors():
        use(threads)
        model, claimed = load(WEIGHTS / f"{chosen(RECIPES, name).name}.safetensors")
        splits = load_data(claimed.data, data_root, claimed.seed)
        _compare("val", accuracy(model, splits.val, device=device), claimed.val_accuracy)
        _compare("test", accuracy(model, splits.test, device=device), claimed.test_accuracy)


def list_recipes() -> None:
    """Show the recipes and what their weights reach."""
    table = Table("recipe", "data", "parameters", "epochs", "val", "test", box=None)
    with one_line_errors():
        for recipe in RECIPES.values():
            table.add_row(*_row(recipe))
    pairs = Table("recipe of adaptation", "source", "target", "epochs", box=None)
    for adaptation in ADAPTATIONS.values():
        pairs.add_row(adaptation.name, adaptation.source, adaptation.target, str(adaptation.settings.epochs))
    console = Console()
    console.print(table)
    console.print(pairs)


def _changed(recipe: Recipe, epochs: int | None, seed: int | None) -> Recipe:
    settings = recipe.settings
    epochs, seed = epochs or settings.epochs, settings.seed if seed is None else seed
    return replace(recipe, settings=replace(settings, epochs=epochs, seed=seed))


def _row(recipe: Recipe) -> tuple[str, ...]:
    with torch.device("meta"):  # to be counted, not filled
        parameters = sum(parameter.numel() for parameter in build(recipe.network, recipe.arguments).parameters())
    path = WEIGHTS / f"{recipe.name}.safetensors"
    scores = ("-", "-")
    if path.exists():
        claimed = describe(path)
        scores = (f"{100 * claimed.val_accuracy:.2f} %", f"{100 * claimed.test_accuracy:.2f} %")
    return (recipe.name, recipe.data, f"{parameters:,}", str(recipe.settings.epochs), *scores)


def _compare(part: str, measured: float, claimed: float) -> None:
    typer.echo(f"{part}: {measured:.4f}, claimed {claimed:.4f}")
    if abs(measured - claimed) > TOLERANCE:
        raise ZooError(f"{part} accuracy is not what the weights claim; are data, torch and device the same?")
