"""`fxprune prune` and `fxprune search`: a smaller model, by what it may keep or by what it may lose."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor, nn

import fxprune
from fxprune import report, scorers
from fxprune.cli import data, models, origin
from fxprune.cli.answer import Answer, CommandError, command
from fxprune.cli.groups import find, heads
from fxprune.cli.libraries import Loaded, check_known
from fxprune.cli.options import (
    DataOptions,
    EngineName,
    EngineOption,
    GroupOptions,
    ModelOptions,
    Original,
    named_path,
)
from fxprune.cli.quality import Evaluate, accuracy
from fxprune.plan.composition import divided_otherwise
from fxprune.planners.allocation.constraints import stands_for
from fxprune.planners.goals import AUTO
from fxprune.result import refuse_others, write
from fxprune.storage.files import make_folder


@dataclass(frozen=True)
class GoalOptions:
    """What may stay."""

    macs: Annotated[float | None, typer.Option(help="MACs: at most 1 is a part, more a number.")] = None
    parameters: Annotated[float | None, typer.Option(help="Parameters, likewise.")] = None
    latency: Annotated[float | None, typer.Option(help="Latency: at most 1 is a part, more milliseconds.")] = None
    pruning_ratio: Annotated[
        list[str] | None, typer.Option(help="Part of every group that goes, or PATTERN=part; repeatable.")
    ] = None


Only = Annotated[list[str] | None, typer.Option(help="Only this module or group loses channels; repeatable.")]
RoundTo = Annotated[
    str | None,
    typer.Option(
        help="Kept channels are multiples of this; 8 or 16 are usual, and auto measures what is free. [default: 1, or "
        "auto with --latency and --engine]",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=named_path,
        metavar="PATH",
        help="Folder, or file that ends with .safetensors, for the pruned model.",
        show_default=False,
    ),
]
ScorerName = Annotated[
    str | None, typer.Option(help="Which channels matter: a name of fxprune.scorers, such as L1Norm, or module:OBJECT.")
]


@command
def prune(
    model: ModelOptions,
    goals: GoalOptions,
    groups: GroupOptions,
    reading: DataOptions,
    original: Original = None,
    only: Only = None,
    engine: EngineOption = EngineName.eager,
    round_to: RoundTo = None,
    scorer: ScorerName = None,
    no_repair: Annotated[bool, typer.Option("--no-repair", help="Leave the weights that stay as they are.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Leave the plan unproven.")] = False,
    out: Out = None,
) -> Answer:
    """Make a model smaller: --macs 0.5 keeps half of its arithmetic. With --data its layers are repaired, and with
    --data random on pictures of random shapes, if there are no images (./random is a folder of that name).
    """
    _make(out)
    start = origin.start(model, groups, original)
    loaded, groups = start.loaded, start.groups
    _tell_if_random(loaded)
    result = fxprune.prune(
        loaded.model,
        loaded.inputs,
        _ratio(goals.pruning_ratio or ()),
        macs=goals.macs,
        parameters=goals.parameters,
        latency=goals.latency,
        engine=engine.engine,
        round_to=_multiple(round_to),
        ignored=groups.ignored or (),
        only=_only(start, only),
        heads=heads(groups.heads or ()),
        data="random" if data.is_random(reading) else data.load(reading, loaded),
        scorer=_scorer(scorer),
        repair=not no_repair,
        verify=not no_verify,
    )
    return _answer(result, out, start, model.model)


@command
def search(
    model: ModelOptions,
    groups: GroupOptions,
    reading: DataOptions,
    max_drop: Annotated[float, typer.Option(min=0, help="How much accuracy, or of EVALUATE's value, may be lost.")],
    evaluate: Evaluate = None,
    original: Original = None,
    tune: Annotated[
        str | None, typer.Option(help="module:FUNCTION or file.py:FUNCTION that trains a model in place.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            parser=named_path,
            metavar="PATH",
            help="Folder of all candidates, from which the same command goes on.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from --folder though EVALUATE or TUNE has another name or code by now."),
    ] = False,
    only: Only = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Where --round-to auto measures which multiple is free; else unused.")
    ] = EngineName.eager,
    round_to: RoundTo = None,
    scorer: ScorerName = None,
    out: Out = None,
) -> Answer:
    """Find the smallest model that loses at most --max-drop of its accuracy, or of what --evaluate gives.

    Each candidate is repaired on the data, and tuned.
    """
    if evaluate is None and max_drop >= 1:
        raise CommandError(f"--max-drop {max_drop:g} allows for any loss of accuracy; give 0.05 for 5 points")
    if resume and folder is None:
        raise CommandError("--resume goes on from a folder; give --folder as well")
    if out is None and folder is None:
        warnings.warn("without --out or --folder nothing of this search is kept", stacklevel=2)
    _make(out)
    start = origin.start(model, groups, original)
    loaded, groups = start.loaded, start.groups
    _tell_if_random(loaded)
    given = data.load(reading, loaded)
    result = fxprune.prune(
        loaded.model,
        loaded.inputs,
        engine=engine.engine,
        round_to=_multiple(round_to),
        ignored=groups.ignored or (),
        only=_only(start, only),
        heads=heads(groups.heads or ()),
        data=given,
        scorer=_scorer(scorer),
        evaluate=_accuracy(given) if evaluate is None else models.factory(evaluate),
        max_drop=max_drop,
        tune=None if tune is None else models.factory(tune),
        folder=folder,
        resume=resume,
    )
    return _answer(result, out, start, model.model)


def _only(start: origin.Start, only: Sequence[str] | None) -> Sequence[str] | None:
    """What alone may shrink: of a pruned model not what its first cut has divided otherwise, as both cuts are to be
    one plan for the original.
    """
    found = None if start.plan is None else find(start.loaded, start.groups)
    divided = [] if found is None or start.plan is None else divided_otherwise(start.plan, found)
    if found is None or not divided:
        return only or None
    return [g.name for g in found if g.name not in divided and (not only or any(stands_for(p, g) for p in only))]


def _make(out: Path | None) -> None:
    """The folder of the result, made before the work starts; what stands there must be a result as well."""
    if out is not None:
        refuse_others(out)
        make_folder(out.parent if out.suffix == ".safetensors" else out)


def _tell_if_random(loaded: Loaded) -> None:
    if loaded.is_random:
        warnings.warn("the weights are random; --pretrained or --weights FILE reads trained ones", stacklevel=2)


def _accuracy(batches: fxprune.Batches | None) -> Callable[[nn.Module], Tensor]:
    """A model's accuracy on the data, one number a sample.

    Raises:
        CommandError: there are no data.
    """
    if batches is None:
        raise CommandError("a search needs --data with class folders or labels, or --evaluate module:FUNCTION")
    return lambda model: accuracy(model, batches)


def _ratio(given: Sequence[str]) -> float | dict[str, float] | None:
    """A pruning ratio, or one for each pattern.

    Raises:
        CommandError: one is not a number, or several come without patterns.
    """
    pairs = [("", text) if "=" not in text else tuple(text.rsplit("=", 1)) for text in given]
    twice = [pattern for pattern, count in Counter(pattern for pattern, _ in pairs).items() if count > 1]
    if any(twice):
        raise CommandError(f"several pruning ratios for one pattern: {max(twice)}; give one")
    try:
        ratios = {pattern: float(value) for pattern, value in pairs}
    except ValueError as error:
        raise CommandError(f"not a pruning ratio: {error}; give 0.5, or PATTERN=0.5") from error
    if "" in ratios and len(pairs) > 1:
        raise CommandError("several pruning ratios need patterns; give --pruning-ratio 'layer1*=0.5'")
    return ratios.get("", ratios or None)


def _multiple(text: str | None) -> Any:
    """A number, "auto", or None as it is.

    Raises:
        CommandError: it is neither.
    """
    if text is None or text == AUTO:
        return text
    if not text.isdecimal():
        raise CommandError(f"not a multiple: '{text}'; give a number, such as 8, or {AUTO}")
    return int(text)


def _scorer(name: str | None) -> Any:
    if name is None:
        return None
    if ":" in name:
        return models.attribute(name)
    kinds = [n for n in scorers.__all__ if isinstance(getattr(scorers, n), type) and n[0].isupper()]
    check_known("fxprune", name, kinds, "scorer")
    return models.attempt(getattr(scorers, name), name)


def _answer(result: fxprune.Result[Any], out: Path | None, start: origin.Start, name: str) -> Answer:
    """What was done to `name`; the file is of the original, so that what is pruned twice is loaded as usual."""
    pruned = result.report
    if out is not None:
        title = start.title(name) if start.plan else ""
        write(result, out, origin.notes(start.options, start.groups), start.plan, title)
    figures = {
        name: {"before": getattr(pruned.before, name), "after": getattr(pruned.after, name)}
        for name in ("macs", "parameters")
    }
    if pruned.latency is not None:
        figures["latency"] = dict(zip(("before", "after"), pruned.latency, strict=True))
    kept = {g.name: {"size": g.size, "kept": pruned.kept[g.name]} for g in pruned.groups}
    more = {"deviation": pruned.deviation, "warnings": pruned.warnings(), "saved": None if out is None else str(out)}
    more |= {"original": start.options.model} if start.plan else {}
    saved = [f"saved to {out}" if out is not None else "not saved; --out FOLDER keeps the model"]
    lines = [str(pruned), *start.told(name), *saved]
    return Answer({**figures, "groups": kept, **more}, [report.group_table(result), *lines])
