"""Execute a recipe: build, train, measure on validation and, once, on test."""

import subprocess
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from zoo.augment import shift
from zoo.checkpoints import Metadata
from zoo.data import load
from zoo.footprints import Device, own_randomness, seed_generators
from zoo.networks import build
from zoo.recipes import Recipe
from zoo.train import accuracy, fit

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that come with the zoo."""


def cook(
    recipe: Recipe,
    root: Path | None = None,
    state: Path | None = None,
    *,
    device: Device = None,
    mixed_precision: bool | None = None,
    progress: bool = True,
) -> tuple[nn.Module, Metadata]:
    """Train ``recipe``; returns the trained network and what a checkpoint should say of it.

    ``root`` is that of ``zoo.data.load``, the others are those of ``zoo.train.fit``.
    """
    commit, splits = _commit(), load(recipe.data, root, recipe.settings.seed)
    model = fresh(recipe)
    fit(
        model,
        splits.train,
        val=splits.val,
        augment=shift(recipe.shift, recipe.flip),
        device=device,
        mixed_precision=mixed_precision,
        progress=progress,
        state=state,
        **asdict(recipe.settings),
    )
    val, test = (accuracy(model, split, device=device) for split in (splits.val, splits.test))
    return model, _describe(recipe, val, test, commit, mixed_precision)


def fresh(recipe: Recipe) -> nn.Module:
    """The network of ``recipe`` with the weights that its training starts from, on the CPU."""
    cpu = torch.device("cpu")
    with own_randomness(cpu):
        seed_generators(cpu, recipe.settings.seed)
        return build(recipe.network, recipe.arguments)


def _describe(recipe: Recipe, val: float, test: float, commit: str | None, mixed: bool | None) -> Metadata:
    augment = {"shift": recipe.shift, "flip": recipe.flip}
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return Metadata(
        network=recipe.network,
        arguments=recipe.arguments,
        data=recipe.data,
        seed=recipe.settings.seed,
        recipe=recipe.name,
        epochs=recipe.settings.epochs,
        val_accuracy=val,
        test_accuracy=test,
        training={**asdict(recipe.settings), **augment, **machine, "mixed_precision": mixed},
        commit=commit,
    )


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=WEIGHTS.parent, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
