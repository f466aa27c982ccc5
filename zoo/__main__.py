"""``python -m zoo``: train the networks of the zoo, list them, check their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from zoo.checkpoints import describe, load, save
from zoo.cook import WEIGHTS, cook, fresh
from zoo.data import load as load_data
from zoo.errors import ZooError
from zoo.recipes import RECIPES, Recipe
from zoo.train import accuracy

app = typer.Typer(help="Small trained networks to prune.", no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="Recipe; 'python -m zoo list' shows them.", show_default=False)]
Root = Annotated[Path | None, typer.Option("--data-root", help="Folder of the files.", show_default=False)]
Device = Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")]

TOLERANCE = 0.002
"""Difference in accuracy that another processor may make."""


@app.command()
def train(
    name: Name,
    data_root: Root = None,
    device: Device = "cpu",
    threads: Threads = None,
    mixed_precision: Annotated[
        bool | None, typer.Option(help="Compute in bfloat16 where possible.", show_default="on cuda")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME.safetensors.")] = WEIGHTS,
) -> None:
    """Train a recipe and write its weights.

    Run again after an interruption, it goes on from the last finished epoch (kept in NAME.state).
    """
    with _one_line_errors():
        recipe, state = _recipe(name), out / f"{name}.state"
        _use(threads)
        model, metadata = cook(recipe, data_root, state, device=device, mixed_precision=mixed_precision)
        save(out / f"{name}.safetensors", model, metadata)
        state.unlink()
    typer.echo(f"{name}: val {100 * metadata.val_accuracy:.2f} %, test {100 * metadata.test_accuracy:.2f} %")


@app.command()
def check(name: Name, data_root: Root = None, device: Device = "cpu", threads: Threads = None) -> None:
    """Measure weights again and compare with what they claim."""
    with _one_line_errors():
        _use(threads)
        model, claimed = load(WEIGHTS / f"{_recipe(name).name}.safetensors")
        splits = load_data(claimed.data, data_root, claimed.seed)
        _compare("val", accuracy(model, splits.val, device=device), claimed.val_accuracy)
        _compare("test", accuracy(model, splits.test, device=device), claimed.test_accuracy)


@app.command("list")
def list_() -> None:
    """Show the recipes and what their weights reach."""
    first = Column("recipe", overflow="fold")
    table = Table(first, "data", "parameters", "epochs", "val", "test", box=None)
    with _one_line_errors():
        for recipe in RECIPES.values():
            table.add_row(*_row(recipe))
    Console().print(table)


def _row(recipe: Recipe) -> tuple[str, ...]:
    parameters = sum(parameter.numel() for parameter in fresh(recipe).parameters())
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


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ZooError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def _use(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ZooError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
