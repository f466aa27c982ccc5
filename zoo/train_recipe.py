"""Execute a recipe: build, train, measure on validation and, once, on test."""

from pathlib import Path

import torch
from torch import nn

from zoo.checkpoints import Metadata
from zoo.data import load
from zoo.footprints import own_randomness, seed_generators
from zoo.networks import build
from zoo.provenance import commit, machine
from zoo.recipe import Adaptation, Recipe
from zoo.run import Run
from zoo.train import accuracy, fit

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that come with the zoo."""


def train_recipe(recipe: Recipe, run: Run | None = None) -> tuple[nn.Module, Metadata]:
    """Train ``recipe``; returns the trained network and what a checkpoint should say of it."""
    run = run or Run()
    made_by = commit()  # before the training: files may change meanwhile
    splits = load(recipe.data, run.root, recipe.settings.seed, run.download)
    model = fresh(recipe)
    augment = recipe.change.augment()
    fit(model, splits.train, recipe.settings, val=splits.val, augment=augment, **run.training())
    metadata = Metadata(
        network=recipe.network,
        arguments=recipe.arguments,
        data=recipe.data,
        seed=recipe.settings.seed,
        recipe=recipe.name,
        epochs=recipe.settings.epochs,
        val_accuracy=accuracy(model, splits.val, device=run.device),
        test_accuracy=accuracy(model, splits.test, device=run.device),
        training={**recipe.plain(), **machine(), "mixed_precision": run.mixed_precision},
        commit=made_by,
    )
    return model, metadata


def fresh(recipe: Recipe | Adaptation, seed: int | None = None) -> nn.Module:
    """The network of ``recipe`` with the weights that its training starts from, on the CPU."""
    cpu = torch.device("cpu")
    with own_randomness(cpu):
        seed_generators(cpu, recipe.settings.seed if seed is None else seed)
        return build(recipe.network, recipe.arguments)
