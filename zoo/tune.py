"""Prune trained weights and fine-tune what is left, with the original as its teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import fxprune
from zoo.augment import Augment
from zoo.checkpoints import Metadata, load
from zoo.data import load as load_data
from zoo.provenance import commit, machine
from zoo.run import Run
from zoo.settings import Settings
from zoo.splits import Samples
from zoo.train import accuracy, fit


@dataclass(frozen=True)
class Tuned:
    """A pruned and fine-tuned network, its plan, what a checkpoint should say of it, and costs before and after."""

    model: nn.Module
    plan: fxprune.Plan
    metadata: Metadata
    before: fxprune.Cost
    after: fxprune.Cost


def tune(
    path: Path,
    settings: Settings,
    *,
    plan: fxprune.Plan | None = None,
    pruning_ratio: float = 0.5,
    augment: Augment | None = None,
    run: Run | None = None,
) -> Tuned:
    """Cut the network at ``path`` by ``plan`` and fine-tune it by ``zoo.train.fit``.

    Args:
        path: a checkpoint of the zoo.
        settings: of the fine-tuning; ``distil`` 0 does without the teacher.
        plan: which channels stay; None removes the part ``ratio`` of every group, the smallest in L2 norm.
        ratio: see ``plan``.
        augment: as of ``zoo.train.fit``.
        run: how to execute it.

    Raises:
        ZooError: the checkpoint or the data are missing or damaged.
        fxprune.FxpruneError: the plan does not fit the network, or the ratio is out of range.
    """
    run, made_by = run or Run(), commit()
    original, claimed = load(path)
    splits = load_data(claimed.data, run.root, claimed.seed, run.download)
    groups = fxprune.find_groups(fxprune.trace(original, splits.train[:1].images))
    chosen = plan or fxprune.prune(original, splits.train[:1].images, pruning_ratio, verify=False).plan
    model = fxprune.rewrite(original, chosen)
    teacher = original if settings.distil else None
    fit(model, splits.train, settings, val=splits.val, augment=augment, teacher=teacher, **run.training())
    told = described(claimed, chosen, settings, {}, run, made_by)
    metadata = replace(told, **measured(model, splits.val, splits.test, run))
    return Tuned(model, chosen, metadata, fxprune.cost(groups), fxprune.cost(groups, chosen))


def described(
    claimed: Metadata,
    plan: fxprune.Plan,
    settings: Settings,
    more: Mapping[str, Any],
    run: Run,
    made_by: str | None,
) -> Metadata:
    """What a checkpoint should say of the network that says ``claimed``, cut by ``plan`` and fine-tuned."""
    how = {"mixed_precision": run.mixed_precision, "from": claimed.recipe}
    training = {**settings.plain(), **more, **machine(), **how}
    return replace(claimed, epochs=settings.epochs, training=training, commit=made_by, plan=plan.to_json())


def measured(model: nn.Module, val: Samples, test: Samples, run: Run) -> Mapping[str, Any]:
    """Both accuracies, as fields of `Metadata`."""
    return {f"{name}_accuracy": accuracy(model, s, device=run.device) for name, s in (("val", val), ("test", test))}
