"""`fxprune inspect`: the groups of a model, what must stay and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

import fxprune
from fxprune import report
from fxprune.cli import origin
from fxprune.cli.answer import Answer, CommandError, command, write
from fxprune.cli.libraries import Loaded
from fxprune.cli.options import GroupOptions, ModelOptions, Original, check_apart, named_path
from fxprune.report.drawing import page, picture
from fxprune.storage.files import refuse_unmarked


@command
def inspect(
    model: ModelOptions,
    groups: GroupOptions,
    original: Original = None,
    members: Annotated[bool, typer.Option("--members", help="List all members of each group.")] = False,
    svg: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="PATH", help="Write a picture of the groups to this file."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(parser=named_path, metavar="PATH", help="Write a web page (picture and tables) to this file."),
    ] = None,
) -> Answer:
    """Show the groups of channels that live and die together, what must stay, and why."""
    _check_free(svg, html)
    start = origin.start(model, groups, original)
    found, title = find(start.loaded, start.groups), start.title(model.model)
    for path, make in ((svg, report.picture), (html, report.page)):
        if path:
            write(path, make(found, title))
    return Answer(report.as_dict(found), tables(found, title, members))


def _check_free(svg: Path | None, html: Path | None) -> None:
    """Refuse files that would be lost, before the work starts."""
    check_apart({"--svg": svg, "--html": html})
    for path, mark in ((svg, picture.MARK), (html, page.MARK)):
        if path is not None:
            refuse_unmarked(path, mark)


def find(loaded: Loaded, options: GroupOptions) -> fxprune.Groups:
    """The groups of a model as the options want them."""
    graph = fxprune.trace(loaded.model, loaded.inputs)
    return fxprune.find_groups(graph, options.ignored or (), heads=heads(options.heads or ()))


def heads(given: Sequence[str]) -> str | dict[str, str]:
    """A choice for all attention, or one for each module.

    Raises:
        CommandError: several choices, of which one names no module.
    """
    if not given:
        return ""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [(name, choice) for name, _, choice in (text.partition("=") for text in given)]
    if any(not choice for _, choice in pairs):
        example = "--heads 'layers.0*=head_dim' --heads 'layers.1*=num_heads'"
        raise CommandError(f"several choices of heads need modules; give {example}")
    return dict(pairs)


def tables(groups: fxprune.Groups, title: str, members: bool) -> list[RenderableType]:
    """What `inspect` shows."""
    named = ", ".join(f"{op} ({n}x)" for op, n in groups.unknown_ops.most_common())
    return [
        report.group_table(groups, f"{title}: {len(groups)} prunable groups; {fxprune.cost(groups)}"),
        *(report.members_table(group) for group in groups if members),
        report.fixed_table(groups),
        f"ops without a rule: {named or 'none'}",
    ]
