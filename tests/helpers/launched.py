"""What the tests of several processes run in each of them, alone or under a launcher.

    accelerate launch --multi_gpu --num_processes 2 tests/helpers/launched.py FOLDER [PART ...]

writes FOLDER/RANK.json: what every part tells of this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, nn
from torch.optim.swa_utils import AveragedModel

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from search_toys import SEARCHES, Judged, given_to, jitter, perceptron  # noqa: E402  # after the path is set
from zoo_toys import Tiny, bright_or_dark, weights  # noqa: E402

import fxprune  # noqa: E402
from fxprune.errors import FxpruneError  # noqa: E402
from fxprune.search import run_distributed  # noqa: E402
from zoo.adaptation.adapt import adapt  # noqa: E402
from zoo.augment import shift  # noqa: E402
from zoo.errors import ZooError  # noqa: E402
from zoo.processes import present  # noqa: E402
from zoo.recipe import Change  # noqa: E402
from zoo.run import Run  # noqa: E402
from zoo.search import search  # noqa: E402
from zoo.settings import Settings  # noqa: E402
from zoo.train import fit  # noqa: E402
from zoo.train_recipe import WEIGHTS  # noqa: E402

NUMBERS = {"epochs": 3, "batch_size": 16, "progress": False}
TOYS = {"searches": ("bisection", "bees"), "progressive": ("progressive",)}
"""The searches of a part."""


def digest(model: nn.Module) -> str:
    return hashlib.sha256(weights(model).numpy().tobytes()).hexdigest()


def plain() -> nn.Sequential:
    """A net in which an image knows nothing of the others of its batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))


def gradients(_: Path) -> dict[str, Any]:
    """101 images: the last batch is shared unequally. The weights to start from are those of the main process."""
    model, data = plain(), bright_or_dark(101)
    if present().rank:
        nn.init.zeros_(model[1].weight)
    torch.manual_seed(7)
    logs = fit(model, data, val=data, **NUMBERS)
    untouched = torch.initial_seed() == 7 and all(p.grad is None for p in model.parameters())
    return {"weights": weights(model).tolist(), "losses": [log.loss for log in logs], "untouched": untouched}


def resumed(folder: Path) -> dict[str, Any]:
    """A run that every process leaves in its third epoch, and picks up; and one that was never left."""
    whole, cut, again, state = Tiny(), Tiny(), Tiny(), folder / f"{present().rank}.state"
    change, calls = shift(1, flip=True), 0

    def stops(images: torch.Tensor, generator: Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 17:  # 7 batches an epoch
            raise KeyboardInterrupt
        return change(images, generator)

    data = bright_or_dark(101)
    fit(whole, data, augment=change, **NUMBERS)
    try:
        fit(cut, data, augment=stops, state=state, **NUMBERS)
    except KeyboardInterrupt:
        left = digest(cut)
    logs = fit(again, data, augment=change, state=state, **NUMBERS)
    return {"whole": digest(whole), "left": left, "again": digest(again), "epochs": len(logs)}


def adversarial(_: Path) -> str:
    model, data = Tiny(), bright_or_dark(40)
    adapt(model, data, bright_or_dark(30), **NUMBERS)
    return digest(model)


def errors(folder: Path) -> list[str]:
    """What goes wrong in one process is known to all."""
    damaged, nan = folder / "damaged.state", bright_or_dark(65)
    nan.images[5] = torch.nan
    if present().rank == 0:
        damaged.write_bytes(b"no state")
    runs: list[tuple[Any, dict[str, Any]]] = [
        (bright_or_dark(), {"state": damaged}),
        (nan, {}),
        (bright_or_dark(), {"batch_size": 1}),
        (bright_or_dark(), {"device": "meta"}),
    ]
    texts, model = [], Tiny()
    before = weights(model)
    for data, changes in runs:
        try:
            fit(model, data, **{**NUMBERS, **changes})
        except ZooError as error:
            texts.append(str(error))
        assert torch.equal(weights(model), before)
    return texts


class Counted(Judged):
    """Tells how often this process was asked."""

    calls = 0

    def __call__(self, model: Any) -> Any:
        type(self).calls += 1
        return super().__call__(model)


def toy(name: str, folder: Path, seconds: float = 0.0) -> Any:
    model, groups, scores = perceptron(64, 40)
    judge = Counted().after(partial(time.sleep, seconds))
    options = {**given_to(name, scores), "tune": jitter, "folder": folder}
    return run_distributed(SEARCHES[name], model, groups, judge, **options)


def searches(folder: Path) -> dict[str, Any]:
    """Each search, and once more from its folder; then another search in that folder."""
    folder = folder / f"searches {present().rank}"
    told = _twice(TOYS["searches"], folder)
    try:
        model, groups, scores = perceptron(64, 40)
        other = replace(SEARCHES["bisection"], seed=1)
        options = {**given_to("bisection", scores), "tune": jitter, "folder": folder / "bisection"}
        run_distributed(other, model, groups, Counted(), **options)
    except FxpruneError as error:
        told["refused"] = f"{type(error).__name__}: {error}"
    return told


def progressive(folder: Path) -> dict[str, Any]:
    """The search whose candidates are made from data; what it needs takes seconds to import."""
    return _twice(TOYS["progressive"], folder / f"progressive {present().rank}")


def _twice(names: Iterable[str], folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in names:
        before = Counted.calls
        first = toy(name, folder / name)
        asked = Counted.calls - before
        second = toy(name, folder / name)
        told[name] = {
            "counts": first.plan.kept_counts(),
            "steps": len(first.history),
            "model": digest(first.model),
            "asked": asked,
            "again": [second.plan == first.plan, digest(second.model) == digest(first.model), second.finished],
            "asked again": Counted.calls - before - asked,
        }
    return told


def gradual(_: Path) -> dict[str, Any]:
    """A model that shrinks between its epochs, wrapped again; each process has data and weights of its own at first.

    The main one averages the weights, as YOLO's trainers do.
    """
    rank = present().rank
    torch.manual_seed(rank)
    model, x = plain(), torch.rand(64, 4, 4)
    if rank:
        nn.init.zeros_(model[1].weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    averages = [] if rank else [AveragedModel(model)]
    options: dict[str, Any] = {"optimizer": optimizer, "ema": averages, "parameters": 0.5, "data": [x]}
    pruner = fxprune.Gradual(model, x[:1], epochs=[0, 2], **options)
    wrapped, cuts = model, []
    for epoch in range(3):
        cuts.append(pruner.step(epoch))
        if cuts[-1] and dist.is_initialized():
            wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()
    failure = ""
    try:
        fxprune.Gradual(model, x[:1], epochs=[0], parameters=0.5, scorer=_no_scores).step(0)
    except (RuntimeError, FxpruneError) as error:
        failure = f"{type(error).__name__}: {error}"
    momenta = [optimizer.state[p]["momentum_buffer"].sum().item() for p in model.parameters()]
    plan = pruner.result.plan.to_json()
    assert all([p.shape for p in a.module.parameters()] == [p.shape for p in model.parameters()] for a in averages)
    return {"cuts": cuts, "plan": plan, "model": digest(model), "momenta": momenta, "failure": failure}


def _no_scores(*_: Any) -> Any:
    raise RuntimeError("no scores today")


def digits(folder: Path) -> dict[str, Any]:
    """Trained weights, pruned and fine-tuned on real images."""
    tuned, found = search(
        WEIGHTS / "digits-resnet20.safetensors",
        Settings(epochs=2, lr=0.03, batch_size=64),
        tolerance=0.1,
        precision=0.25,
        change=Change(shift=1),
        folder=folder / f"digits {present().rank}",
        run=Run(progress=False),
    )
    accuracies = tuned.metadata.val_accuracy, tuned.metadata.test_accuracy
    history = [[p.rate, p.score, p.accepted] for p in found.history]
    return {"plan": tuned.plan.to_json(), "model": digest(tuned.model), "accuracies": accuracies, "history": history}


def slow_toy(folder: Path) -> dict[str, Any]:
    """A search to be killed."""
    found = toy("bees", folder / f"killed {present().rank}", seconds=0.05)
    return {"counts": found.plan.kept_counts(), "model": digest(found.model)}


PARTS: dict[str, Callable[[Path], Any]] = {
    f.__name__: f for f in (gradients, resumed, adversarial, errors, searches, progressive, digits, gradual, slow_toy)
}


def forked(folder: Path, names: Sequence[str]) -> None:
    """The same in a fork that accelerate has made, whose processes know one another, and then gets its place."""
    os.environ["LOCAL_RANK"] = os.environ["RANK"] = str(dist.get_rank())
    main(folder, names)


def main(folder: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    rank = present().rank
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    told = {name: PARTS[name](folder) for name in names}
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    import launched  # so that classes and functions have the same names as in the tests

    launched.main(Path(sys.argv[1]), sys.argv[2:])
