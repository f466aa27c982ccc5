"""Execute a recipe of domain adaptation: train with and without the target's images, measure on both domains."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, nn

from zoo.adaptation.adapt import adapt
from zoo.adaptation.domains import Domains, load_pair
from zoo.checkpoints import Metadata
from zoo.provenance import machine
from zoo.recipe import Adaptation
from zoo.run import Run
from zoo.splits import Samples, Splits
from zoo.train import accuracy, fit
from zoo.train_recipe import fresh


@dataclass(frozen=True)
class Reached:
    """A trained network and its accuracies in [0, 1] on both domains; "val" served tuning, "test" did not."""

    model: nn.Module
    source_val: float
    source_test: float
    target_val: float
    target_test: float


def load_domains(recipe: Adaptation, run: Run, seed: int) -> Domains:
    """The data of ``recipe``, split and cut down to its number of training images by ``seed``."""
    domains = load_pair(recipe.source, recipe.target, run.root, seed, run.download)
    return Domains(*(_cut(splits, recipe.images, seed) for splits in (domains.source, domains.target)))


def source_only(recipe: Adaptation, domains: Domains, run: Run, seed: int) -> Reached:
    """Train on the source alone, with the same numbers: what adaptation has to beat."""
    model = fresh(recipe, seed)
    settings = replace(recipe.settings, seed=seed)
    fit(model, domains.source.train, settings, augment=recipe.change.augment(), **run.training())
    return measured(model, domains, run)


def adapted(recipe: Adaptation, domains: Domains, run: Run, seed: int) -> Reached:
    """Train on the labelled source and the unlabelled target."""
    model = fresh(recipe, seed)
    adapt(
        model,
        domains.source.train,
        domains.target.train,
        replace(recipe.settings, seed=seed),
        adversary=recipe.adversary,
        augment=recipe.change.augment(),
        **run.training(),
    )
    return measured(model, domains, run)


def described(recipe: Adaptation, reached: Reached, seed: int, made_by: str | None) -> Metadata:
    """What a checkpoint should say; its accuracies are those on the target, whose images the network is for."""
    return Metadata(
        network=recipe.network,
        arguments=recipe.arguments,
        data=recipe.target,
        seed=seed,
        recipe=recipe.name,
        epochs=recipe.settings.epochs,
        val_accuracy=reached.target_val,
        test_accuracy=reached.target_test,
        training={**recipe.plain(), **machine(), "seed": seed},
        commit=made_by,
    )


def _cut(splits: Splits, images: int, seed: int) -> Splits:
    train: Samples = splits.train
    if not images or images >= len(train):
        return splits
    rows = torch.randperm(len(train), generator=Generator().manual_seed(seed))[:images]
    return replace(splits, train=train.part(rows))


def measured(model: nn.Module, domains: Domains, run: Run) -> Reached:
    """The accuracies of ``model`` on both domains."""
    parts = (domains.source.val, domains.source.test, domains.target.val, domains.target.test)
    return Reached(model, *(accuracy(model, part, device=run.device) for part in parts))
