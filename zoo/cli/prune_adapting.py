"""``prune-adapt``: prune a network that was adapted to another domain, adapt what is left, compare."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import fxprune
from zoo.adaptation.pcp import Search
from zoo.adaptation.prune import Contender, Job, compare
from zoo.cli.options import Device, Download, Mixed, Name, Root, Threads, chosen, one_line_errors, use
from zoo.files import write
from zoo.recipes import ADAPTATIONS
from zoo.rows import Row
from zoo.run import Run

HEAD = ("contender", "MACs left", "source", "target", "source before", "target before", "seeds")


def prune_adapt(
    name: Name,
    reduction: Annotated[list[float] | None, typer.Option(help="Of the MACs; several.", show_default="2 and 4")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds from the recipe's on.")] = 1,
    source_only: Annotated[bool, typer.Option("--source-only", help="Search without target images.")] = False,
    no_pseudo_labels: Annotated[
        bool, typer.Option("--no-pseudo-labels", help="Judge attempts on the source alone.")
    ] = False,
    no_informative_positions: Annotated[
        bool, typer.Option("--no-informative-positions", help="Take statistics at random positions.")
    ] = False,
    uniform: Annotated[bool, typer.Option("--uniform", help="Uniform, L1 norm, in place of a search.")] = False,
    tune_on_source: Annotated[
        bool, typer.Option("--tune-on-source", help="Fine-tune on the source alone, in place of DANN.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="The method, its ablations and its rivals.")] = False,
    source: Annotated[str | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    step: Annotated[float, typer.Option(help="Part of a group that an attempt removes.")] = Search.step,
    statistics_images: Annotated[int, typer.Option(help="Images for the statistics.")] = Search.images,
    judged: Annotated[int, typer.Option(help="Images that judge attempts.")] = Search.judged,
    epochs: Annotated[int, typer.Option(min=1, help="Of the fine-tuning.")] = Job.epochs,
    lr: Annotated[float, typer.Option(help="Highest learning rate of the fine-tuning.")] = Job.lr,
    images: Annotated[int, typer.Option(help="Images a domain for the fine-tuning; 0 for all.")] = Job.images,
    data_root: Root = None,
    download: Download = False,
    device: Device = "cpu",
    threads: Threads = None,
    mixed_precision: Mixed = None,
    folder: Annotated[Path, typer.Option(help="Of the run; goes on from what is there.")] = Path("runs/prune-adapt"),
) -> None:
    """Adapt a recipe by DANN, prune it progressively with both domains, adapt what is left; show the folder's results.

    Run again, with the same or other switches, it does what is missing. Results are in rows.jsonl and table.md.
    """
    with one_line_errors(fxprune.FxpruneError, ValueError):
        use(threads)
        recipe = chosen(ADAPTATIONS, name)
        recipe = replace(recipe, source=source or recipe.source, target=target or recipe.target)
        full = Search(images=statistics_images, judged=judged, step=step)
        run = Run(data_root, download, device, mixed_precision)
        job = Job(recipe, folder, full, epochs, lr, images, run)
        search = replace(
            full, target=not source_only, pseudo_labels=not no_pseudo_labels, informative=not no_informative_positions
        )
        one = Contender(None if uniform else search, not tune_on_source)
        first = recipe.settings.seed
        rows = compare(job, job.contenders() if everything else [one], reduction or [2, 4], range(first, first + seeds))
        write(folder / "table.md", markdown(rows).encode())
    Console().print(_shown(rows))


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line of text a contender and reduction: mean and deviation over seeds, in percent; see `HEAD`."""
    kinds = dict.fromkeys((row.contender, row.reduction) for row in sorted(rows, key=lambda row: row.reduction))
    return [_line([row for row in rows if (row.contender, row.reduction) == kind]) for kind in kinds]


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    body = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *lines(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in body)


def _line(rows: Sequence[Row]) -> tuple[str, ...]:
    first = rows[0]
    name = first.contender if first.reduction == 1 else f"{first.contender}, {first.reduction:g}x"
    values = [[getattr(row, n) for row in rows] for n in ("source", "target", "source_before", "target_before")]
    left = f"{100 * statistics.mean(row.part for row in rows):.1f} %"
    return (name, left, *map(_spread, values), ", ".join(str(row.seed) for row in rows))


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f} %"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _shown(rows: Sequence[Row]) -> Table:
    table = Table(*HEAD, box=None)
    for line in lines(rows):
        table.add_row(*line)
    return table
