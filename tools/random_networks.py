"""Prune many random networks and compare each with an independently masked one.

    python tools/random_networks.py --count 10000 --seed 0        # goes on where it was cut short
    python tools/random_networks.py --only 1234                   # one network again, with its genes and its error

Network i of a seed is the same on every machine. Its genes (`tests/helpers/random_nets.py`) are drawn from
convolutions, norms, splits, shuffles and gates, and from idioms that read widths: attention in many forms (fused,
chunked, crossed, grouped queries, literals), dynamic convolutions, recurrent layers, branches on widths, numbers that
equal a width by chance, widths far apart that are taken for one another.

Each is traced with one or two images; its groups are cut unevenly, each to a number of its own. Then

* the pruned model must run at three batch sizes, with outputs of the original's shapes (else it has *crashed*);
* without the groups that a norm, mean or softmax runs over, it must equal, in float64, the full-size model whose pruned
  slices are zero (else it is *wrong*). The zeros are set here, by the slots of the groups, not by `fxprune.mask`.

A network without a group to prune is *skipped*.
"""

from __future__ import annotations

import importlib
import random
import sys
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from torch import Tensor, nn

import fxprune
from fxprune.storage.json_lines import Lines

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
random_nets: Any = importlib.import_module("random_nets")

WRONG = 1e-6
BATCHES = (1, 2, 3)


@dataclass(frozen=True)
class Outcome:
    """What became of network `index` of a seed: "right", "wrong", "crashed" or "skipped", and why."""

    seed: int
    index: int
    kind: str
    note: str = ""
    groups: int = 0
    cut: int = 0


def genes_of(seed: int, index: int) -> list[tuple[str, int, int, int]]:
    """Up to ten genes; idioms that read widths are as likely as all others together."""
    draw = random.Random(f"{seed}:{index}")
    plain = ["conv", "conv", "norm", "activation", "add", "cat", *random_nets.OPS]
    return [
        (draw.choice(random_nets.IDIOMS if draw.random() < 0.4 else plain), draw.randrange(31), draw.randrange(31), w)
        for w in (draw.choice((2, 3, 4, 5, 6, 8, 8, 9, 12, 16)) for _ in range(draw.randint(2, 9)))
    ]


def examine(seed: int, index: int) -> Outcome:
    """Prune one network; whatever goes wrong is its outcome."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        return _examined(seed, index)
    except Exception as error:  # the outcome of this network, not of the others
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).splitlines() or [""])[0][:160]
        return Outcome(
            seed, index, "crashed", f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"
        )


def _examined(seed: int, index: int) -> Outcome:
    genes = genes_of(seed, index)
    model, draw = random_nets.build(genes), np.random.default_rng([seed, index])
    heads = ("", "num_heads", "head_dim")[index % 3]
    groups = fxprune.find_groups(fxprune.trace(model, random_nets.inputs(1 + index % 2)), heads=heads)
    if not len(groups):
        return Outcome(seed, index, "skipped")
    plan = uneven(groups, draw)
    small = fxprune.rewrite(model, plan)
    for batch in BATCHES:
        shapes = [[t.shape for t in run(m, random_nets.inputs(batch))] for m in (model, small)]
        if shapes[0] != shapes[1]:
            return Outcome(seed, index, "crashed", f"shapes {shapes}")
    exact = without_mixed(groups, plan)
    deviation = compare(model, exact, random_nets.inputs(2))
    kind = "right" if deviation <= WRONG else "wrong"
    cut = sum(len(g.kept) < g.size for g in exact.groups.values())
    return Outcome(seed, index, kind, f"deviation {deviation:.1e}", len(groups), cut)


def uneven(groups: fxprune.Groups, draw: np.random.Generator) -> fxprune.Plan:
    """Every group loses channels, as many as it likes where it is not tied."""
    counts = groups.in_step({g.name: int(draw.integers(1, max(2, g.size))) for g in groups})
    return groups.plan({name: draw.permutation(groups[name].size)[:k] for name, k in counts.items()})


def without_mixed(groups: fxprune.Groups, plan: fxprune.Plan) -> fxprune.Plan:
    """The plan without the groups where pruned and masked may differ, and without those tied to them."""
    mixed = {g.name for g in groups if g.mixed_by}
    mixed |= {name for tie in groups.ties if tie & mixed for name in tie}
    return groups.plan({name: g.kept for name, g in plan.groups.items() if name not in mixed})


@torch.no_grad()
def run(model: nn.Module, x: tuple[Tensor, ...]) -> list[Tensor]:
    return list(model(*x))


def compare(model: nn.Module, plan: fxprune.Plan, x: tuple[Tensor, ...]) -> float:
    """The largest relative deviation between the pruned model and the masked one, in float64."""
    double = model.double()
    given = tuple(t.double() for t in x)
    pruned = run(fxprune.rewrite(double, plan), given)
    zero(double, plan)
    masked = run(double, given)
    return max(
        float((a - b).abs().max() / max(float(b.abs().max()), 1e-30)) for a, b in zip(pruned, masked, strict=True)
    )


@torch.no_grad()
def zero(model: nn.Module, plan: fxprune.Plan) -> None:
    """Zero what a plan removes, in place."""
    tensors: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for group in plan.groups.values():
        for slot in group.slots:
            gone = slot.positions[~np.isin(slot.channels, group.kept)]
            tensors[slot.tensor].index_fill_(slot.dim, torch.from_numpy(gone), 0)


def main(
    count: Annotated[int, typer.Option(help="how many networks")] = 1000,
    seed: Annotated[int, typer.Option(help="of the genes")] = 0,
    workers: Annotated[int, typer.Option(help="processes")] = 2,
    only: Annotated[int | None, typer.Option(help="examine this network alone, and raise its error")] = None,
    journal: Annotated[Path, typer.Option(help="where outcomes are kept")] = Path("runs/random_networks.jsonl"),
) -> None:
    """Prune random networks; exit with 1 if one is wrong or has crashed."""
    if only is not None:
        print(*genes_of(seed, only), sep="\n")
        print(_examined(seed, only))
        return
    lines = Lines(journal, lambda data: Outcome(**data))
    known = {o.index: o for o in lines.values if o.seed == seed and o.index < count}
    ahead = [i for i in range(count) if i not in known]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # forked, PyTorch's threads may hang
        results = pool.map(examine, [seed] * len(ahead), ahead, chunksize=8)
        for outcome in track(results, "random networks", len(ahead)):
            lines.append(asdict(outcome))
            known[outcome.index] = outcome
    raise typer.Exit(report(list(known.values())))


def report(outcomes: list[Outcome]) -> int:
    """Print the counts and what failed; the exit code."""
    counts = Counter(o.kind for o in outcomes)
    failed = [o for o in outcomes if o.kind in ("wrong", "crashed")]
    for o in sorted(failed, key=lambda o: (o.kind, o.index)):
        print(f"{o.kind:8} --seed {o.seed} --only {o.index}: {o.note}")
    groups, cut = sum(o.groups for o in outcomes), sum(o.cut for o in outcomes)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "wrong", "crashed", "skipped"))
    print(f"{len(outcomes)} networks: {kinds}; {groups} groups, {cut} of them compared exactly")
    return int(bool(failed))


if __name__ == "__main__":
    typer.run(main)
