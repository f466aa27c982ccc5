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
    """A pruned and fine-tuned network, what a checkpoint should say of it, and its costs before and after."""

    model: nn.Module
    metadata: Metadata
    before: fxprune.Cost
    after: fxprune.Cost


def tune(
    path: Path,
    settings: Settings,
    *,
    plan: fxprune.Plan | None = None,
    ratio: float = 0.5,
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
    graph = fxprune.trace(original, splits.train[:1].images)
    chosen = plan or fxprune.prune(original, splits.train[:1].images, ratio, verify=False).plan
    model = fxprune.rewrite(original, chosen)
    teacher = original if settings.distil else None
    fit(model, splits.train, settings, val=splits.val, augment=augment, teacher=teacher, **run.training())
    metadata = replace(
        claimed,
        epochs=settings.epochs,
        **_measured(model, splits.val, splits.test, run),
        training={**settings.plain(), **machine(), "mixed_precision": run.mixed_precision, "from": claimed.recipe},
        commit=made_by,
        plan=chosen.to_json(),
    )
    return Tuned(model, metadata, fxprune.cost(graph), fxprune.cost(graph, chosen))


def _measured(model: nn.Module, val: Samples, test: Samples, run: Run) -> Mapping[str, Any]:
    return {f"{name}_accuracy": accuracy(model, s, device=run.device) for name, s in (("val", val), ("test", test))}
