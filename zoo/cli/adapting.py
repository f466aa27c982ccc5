"""``adapt``: domain adaptation against training on the source alone."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zoo.adaptation.execute import Reached, adapted, described, load_domains, source_only
from zoo.checkpoints import save
from zoo.cli.options import Device, Download, Log, Mixed, Name, Root, Threads, chosen, one_line_errors, use
from zoo.processes import is_main
from zoo.provenance import commit
from zoo.recipes import ADAPTATIONS
from zoo.run import Run

_MODES = {"source only": source_only, "DANN": adapted}


def adapt(
    name: Name,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds from the recipe's on.")] = 1,
    source: Annotated[str | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help="Instead of the recipe's.", show_default=False)] = None,
    data_root: Root = None,
    download: Download = False,
    device: Device = "cpu",
    threads: Threads = None,
    mixed_precision: Mixed = None,
    log: Log = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the DANN of each seed.", show_default="not kept")] = None,
) -> None:
    """Train on the source alone, and by DANN on source and target; show the accuracies on both domains."""
    with one_line_errors():
        use(threads)
        recipe, run, made_by = chosen(ADAPTATIONS, name), Run(data_root, download, device, mixed_precision), commit()
        recipe = replace(recipe, source=source or recipe.source, target=target or recipe.target)
        reached: dict[str, list[Reached]] = {mode: [] for mode in _MODES}
        for seed in range(recipe.settings.seed, recipe.settings.seed + seeds):
            domains = load_domains(recipe, run, seed)
            for mode, execute in _MODES.items():
                here = replace(run, log=log / f"{mode} {seed}") if log else run
                reached[mode].append(execute(recipe, domains, here, seed))
            if out and is_main():
                path = out / f"{name}-{seed}.safetensors"
                save(path, reached["DANN"][-1].model, described(recipe, reached["DANN"][-1], seed, made_by))
    if is_main():
        Console().print(_table(reached))


def _table(reached: dict[str, list[Reached]]) -> Table:
    table = Table("training", "source test", "target test", box=None)
    for mode, runs in reached.items():
        table.add_row(mode, _spread([r.source_test for r in runs]), _spread([r.target_test for r in runs]))
    return table


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f} %"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean
