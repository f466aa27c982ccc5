"""``tune``: prune weights and fine-tune what is left."""

from pathlib import Path
from typing import Annotated

import typer

import fxprune
from zoo.checkpoints import save
from zoo.cli.options import Device, Download, Log, Mixed, Name, Root, Threads, chosen, one_line_errors, use
from zoo.processes import is_main
from zoo.recipes import RECIPES
from zoo.run import Run
from zoo.settings import Settings
from zoo.train_recipe import WEIGHTS
from zoo.tune import Tuned
from zoo.tune import tune as prune_and_tune


def tune(
    name: Name,
    plan: Annotated[
        Path | None, typer.Option(help="Plan file of fxprune.", show_default="uniform, L2 norm", exists=True)
    ] = None,
    pruning_ratio: Annotated[float, typer.Option(help="Part of every group to remove, without a plan.")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.02,
    distil: Annotated[float, typer.Option(help="Share of the loss that asks for the original's outputs.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of shuffling and augmentation.")] = 0,
    data_root: Root = None,
    download: Download = False,
    device: Device = "cpu",
    threads: Threads = None,
    mixed_precision: Mixed = None,
    log: Log = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME-pruned.safetensors.")] = Path("runs"),
) -> None:
    """Prune the weights of a recipe, fine-tune what is left with the original as its teacher, and write it.

    Run again after an interruption, it goes on from the last finished epoch (kept in NAME-pruned.state).
    """
    with one_line_errors(fxprune.FxpruneError, ValueError):
        use(threads)
        recipe, state = chosen(RECIPES, name), out / f"{name}-pruned.state"
        tuned = prune_and_tune(
            WEIGHTS / f"{name}.safetensors",
            Settings(epochs, lr, recipe.settings.batch_size, distil=distil, seed=seed),
            plan=fxprune.Plan.load(plan) if plan else None,
            pruning_ratio=pruning_ratio,
            augment=recipe.change.augment(),
            run=Run(data_root, download, device, mixed_precision, state=state, log=log),
        )
        if is_main():
            save(out / f"{name}-pruned.safetensors", tuned.model, tuned.metadata)
            state.unlink()
            typer.echo(summary(name, tuned))


def summary(name: str, tuned: Tuned) -> str:
    """One line on what is left, and how good it is."""
    macs = tuned.after.macs / tuned.before.macs
    parameters = tuned.after.parameters / tuned.before.parameters
    scores = tuned.metadata
    return (
        f"{name}: {100 * macs:.1f} % of the MACs and {100 * parameters:.1f} % of the parameters left, "
        f"val {100 * scores.val_accuracy:.2f} %, test {100 * scores.test_accuracy:.2f} %"
    )
