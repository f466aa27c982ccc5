"""Search the smallest network that loses little accuracy, fine-tuning every candidate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import fxprune
from fxprune.search import Bisection, Probe, Search, run_distributed
from zoo.checkpoints import load
from zoo.data import load as load_data
from zoo.provenance import commit
from zoo.recipe import Change
from zoo.run import Run
from zoo.settings import Settings
from zoo.train import accuracy, fit
from zoo.tune import Tuned, described, measured

SCORED = 1024
"""Training images that scores are taken from, at most."""


@dataclass(frozen=True)
class Tuning:
    """The fine-tuning of a candidate. What its fields say tells one search from another.

    Args:
        settings: of each fine-tuning; the search sets the seed.
        change: augmentation.
        data: name of the data set.
        execute: trains a network in place by such settings.
    """

    settings: Settings
    change: Change
    data: str
    execute: Callable[[nn.Module, Settings], object]

    def __call__(self, model: nn.Module) -> None:
        """Train ``model`` in place under the seed of the global generator."""
        self.execute(model, replace(self.settings, seed=torch.initial_seed()))


def search(
    path: Path,
    settings: Settings,
    *,
    tolerance: float = 0.01,
    precision: float = 0.01,
    change: Change | None = None,
    folder: Path | None = None,
    run: Run | None = None,
) -> tuple[Tuned, Search[nn.Module, Probe]]:
    """Bisect the contribution rate of the network at ``path`` by `fxprune.search.Bisection`.

    Channels are scored by weight permutation on training images, every candidate is fine-tuned by ``zoo.train.fit``
    with the original as its teacher, and validation accuracy decides. Test accuracy is measured once, in the end.
    Under a launcher all processes call this; they fine-tune every candidate together and return the same.

    Args:
        path: a checkpoint of the zoo.
        settings: of each fine-tuning; ``distil`` 0 does without the teacher; ``seed`` is that of the search.
        tolerance: validation accuracy that may be lost, in [0, 1].
        precision: of the rate; 0.01 takes 7 candidates, 0.1 takes 4.
        change: augmentation; None for none.
        folder: directory of the search, which one that was cut off goes on from.
        run: how to execute it; ``state`` and ``log`` are left out.

    Raises:
        ZooError: the checkpoint or the data are missing or damaged, or a training fails.
        fxprune.FxpruneError: ``folder`` is of another search or in use, or a number is out of range.
    """
    run, change, made_by = run or Run(), change or Change(), commit()
    original, claimed = load(path)
    splits = load_data(claimed.data, run.root, claimed.seed, run.download)
    groups = fxprune.find_groups(fxprune.trace(original, splits.train[:1].images))
    options = replace(run, progress=False, state=None, log=None).training()
    teacher = original if settings.distil else None

    def execute(model: nn.Module, numbers: Settings) -> None:
        fit(model, splits.train, numbers, augment=change.augment(), teacher=teacher, **options)

    def evaluate(model: nn.Module) -> float:
        return accuracy(model, splits.val, device=run.device)

    tune = Tuning(settings, change, claimed.data, execute)
    bisection = Bisection(tolerance, precision, progress=run.progress, seed=settings.seed)
    found = run_distributed(
        bisection,
        original,
        groups,
        evaluate,
        scorer=fxprune.scorers.WeightPermutation(),
        data=splits.train[:SCORED].images.split(256),
        tune=tune,
        folder=folder,
    )
    more = {"tolerance": tolerance, "precision": precision, "tunings": len(found.history)}
    told = described(claimed, found.plan, settings, more, run, made_by)
    metadata = replace(told, **measured(found.model, splits.val, splits.test, run))
    costs = fxprune.cost(groups), fxprune.cost(groups, found.plan)
    return Tuned(found.model, found.plan, metadata, *costs), found
