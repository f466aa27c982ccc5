"""How good models are on data: accuracy, agreement, the difference of their outputs, or a function of the caller's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from fxprune.cli import models
from fxprune.cli.answer import CommandError
from fxprune.cli.data import unsure_classes
from fxprune.module.batches import Batch, batches
from fxprune.module.isolation import output_tensors
from fxprune.search.accuracy import check_labels
from fxprune.search.trial import measured

Evaluate = Annotated[
    str | None,
    typer.Option(help="module:FUNCTION or file.py:FUNCTION, model to number, higher is better.", show_default=False),
]
_COMPARED = "fxprune compare --evaluate module:FUNCTION measures other models"


def quality(models: Mapping[str, nn.Module], given: Iterable[Any]) -> dict[str, dict[str, float]]:
    """What an original and a pruned model make of the same data.

    For a classifier (the first output has the shape (samples, classes)): accuracy, where the data have class numbers,
    and how often both models answer the same. For others: ‖pruned − original‖ / ‖original‖ over all outputs.

    Args:
        models: the original and the pruned model, by the name of their columns.
        given: batches.

    Raises:
        CommandError: the outputs are of different shapes, such as lists of boxes.
    """
    first = next(iter(models.values()))
    names = ("labelled", "seen", "same", "measured", "difference", "size", *models)
    counts: dict[str, float] = dict.fromkeys(names, 0)
    unsure = ""
    for batch in batches(first, given):
        outputs = {name: _outputs(batch, m) for name, m in models.items()}
        if all(_is_scores(found, batch) for found in outputs.values()):
            unsure = unsure or unsure_classes(given, next(iter(outputs.values()))[0].shape[1])
            _count(counts, batch, outputs, labelled=not unsure)
        else:
            _measure(counts, batch, *outputs.values())
    if unsure:
        warnings.warn(f"no accuracy: {unsure}", stacklevel=2)
    if counts["measured"]:
        parts = counts["difference"], counts["size"]
        distance = math.sqrt(parts[0] / parts[1]) if parts[1] else math.inf if parts[0] else 0.0
        return {f"relative difference of the outputs, of {counts['seen']}": {"pruned": distance}}
    rows = {f"same answer as the original, of {counts['seen']}": {"pruned": counts["same"] / counts["seen"]}}
    if counts["labelled"]:
        right = {name: counts[name] / counts["labelled"] for name in models}
        rows = {f"accuracy, of {counts['labelled']}": right, **rows}
    return rows


def _outputs(batch: Batch, model: nn.Module) -> list[Tensor]:
    """Of a classifier whose output has a loss beside its scores, the scores come first."""
    with torch.inference_mode():
        found = batch.run(model)
    scores = getattr(found, "logits", None)
    return [*([scores] if isinstance(scores, Tensor) else []), *(t for t in output_tensors(found) if t is not scores)]


def _labels(batch: Batch) -> Any:
    """The targets, or the labels that are one of the inputs, as in batches of transformers."""
    return batch.inputs[1].get("labels") if batch.targets is None else batch.targets


def _is_scores(outputs: list[Tensor], batch: Batch) -> bool:
    """Whether the first output is one score for each sample and class, with several classes; numbers to be met, of
    that shape, make it a regression.
    """
    labels = _labels(batch)
    if isinstance(labels, Tensor) and labels.is_floating_point() and bool(outputs) and labels.shape == outputs[0].shape:
        return False
    return bool(outputs) and outputs[0].dim() == 2 and len(outputs[0]) == batch.size and outputs[0].shape[1] > 1


def _count(counts: dict[str, float], batch: Batch, outputs: Mapping[str, list[Tensor]], *, labelled: bool) -> None:
    answers = {name: _answers(found[0]) for name, found in outputs.items()}
    original, pruned = answers.values()
    counts["seen"] += len(original)
    counts["same"] += int((original == pruned).sum())
    labels = _labels(batch)
    if labelled and isinstance(labels, Tensor) and labels.shape == original.shape:
        check_labels(labels, outputs["original"][0].shape[1], batch.place)
        counts["labelled"] += len(labels)
        for name, found in answers.items():
            counts[name] += int((found == labels).sum())


def _answers(scores: Tensor) -> Tensor:
    """The class of each sample; -1, which is none, where a score is NaN."""
    return scores.argmax(1).masked_fill(scores.isnan().any(1), -1)


def _measure(counts: dict[str, float], batch: Batch, original: list[Tensor], pruned: list[Tensor]) -> None:
    if [t.shape for t in original] != [t.shape for t in pruned]:
        shapes = [[tuple(t.shape) for t in found[:3]] for found in (original, pruned)]
        raise CommandError(f"outputs of other shapes cannot be compared; seen: {shapes[0]}, {shapes[1]}; {_COMPARED}")
    counts["seen"] += batch.size
    counts["measured"] += 1
    for old, new in zip(original, pruned, strict=True):
        counts["difference"] += float((new.double() - old.double()).square().sum())
        counts["size"] += float(old.double().square().sum())


def accuracy(model: nn.Module, given: Iterable[Any]) -> Tensor:
    """For each sample of labelled data, 1 if the model gives its class and else 0, of shape (samples,).

    Raises:
        CommandError: the data have no class numbers, or the model gives no scores of classes.
    """
    right = []
    for batch in batches(model, given):
        outputs = _outputs(batch, model)
        if not _is_scores(outputs, batch):
            shapes = [tuple(t.shape) for t in outputs[:3]]
            raise CommandError(f"accuracy needs one score for each class; the model's outputs have the shapes {shapes}")
        found = _answers(outputs[0])
        labels = _labels(batch)
        if not isinstance(labels, Tensor) or labels.shape != found.shape:
            raise CommandError("accuracy needs data with a class number for each sample; give --evaluate otherwise")
        if unsure := unsure_classes(given, outputs[0].shape[1]):
            raise CommandError(f"{unsure}; or give --evaluate")
        check_labels(labels, outputs[0].shape[1], batch.place)
        right.append((found == labels).float())
    return torch.cat(right)


def valued(name: str, given: Mapping[str, nn.Module]) -> dict[str, float]:
    """What a function of the caller's says of each model.

    Raises:
        CommandError: there is no such function, or it gives no number.
    """
    evaluate = models.factory(name)
    return {column: models.attempt(partial(_number, evaluate, model), name) for column, model in given.items()}


def _number(evaluate: Any, model: nn.Module) -> float:
    return measured(evaluate(model))[0]
