"""Time LASSO channel selection by one path against repeated LASSO fits that search λ, on the same Gram.

    PYTHONPATH=.:tools python -m benchmarks.lasso  # made data, 64 to 256 channels: minutes
    PYTHONPATH=.:tools python -m benchmarks.lasso --channels 128 --repeats 5
    PYTHONPATH=.:tools python -m benchmarks.lasso --network digits-resnet20  # every group of a trained network

For a count of channels to keep, He et al. 2017 search λ by doubling and bisection until a LASSO has that many
coefficients. The peer does so with `sklearn.linear_model.Lasso` and a precomputed Gram, for three tasks:

* one: half of the channels;
* seven: what pruning at 10, 20, ... 70 % keeps;
* every: each count from one to all but one. This is what a path answers, and what scores for any planner need.

The search is spared what would slow it down: counts come in falling order, each starts from the λ and the coefficients
of the one before, and the rows that scikit-learn wants besides the Gram are the square root of A, the fewest that there
can be; the paper's own hold every output of every sampled position.

What is checked, with a search of tolerance 1e-12 in place of the timed one's 1e-6: where it finds the count, its
support is that of the path at the same λ (near λ = 0 coordinate descent is not exact even so). What is timed is CPU
time on one thread, the median counting; memory is the peak of Python's and NumPy's allocations (tracemalloc), measured
in another run, beside A itself, which both are given.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import Lasso

import fxprune
from fxprune.scorers import LassoPath, lasso_path
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.train_recipe import WEIGHTS

Floats = npt.NDArray[np.float64]
T = TypeVar("T")
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
TRIES = 60


@dataclass(frozen=True)
class Problem:
    """A LASSO on Gram statistics.

    Attributes:
        name: for the table.
        a: of shape (channels, channels).
        b: of shape (channels,).
    """

    name: str
    a: Floats
    b: Floats

    def tasks(self) -> dict[str, list[int]]:
        """The counts that each task asks for, most first."""
        size = len(self.a)
        seven = sorted({max(1, round(size * (1 - r))) for r in RATIOS}, reverse=True)
        return {"one": [max(1, size // 2)], "seven": seven, "every": list(range(size - 1, 0, -1))}


@dataclass(frozen=True)
class Answer:
    """What the search has found for a count: λ and the channels, or none after `TRIES` fits."""

    count: int
    lam: float
    support: tuple[int, ...] | None
    fits: int


def made(channels: int, seed: int = 0) -> Problem:
    """Correlated channels of unequal weight, as post-activation feature maps are: most share a common part."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(8 * channels, channels)) + 0.5 * rng.normal(size=(8 * channels, 1))
    z = np.maximum(z, 0) * rng.lognormal(0, 1, channels)
    z -= z.mean(0)
    a = z.T @ z
    a /= a.sum()
    return Problem(f"made, {channels} channels", a, a.sum(1))


def of_network(name: str, images: int) -> Iterator[Problem]:
    """The problem of each group of a trained network of the zoo, on its training images."""
    from fxprune.scorers.thinet import joint
    from fxprune.statistics.gram.collect import Sampling, responses

    model, metadata = load_checkpoint(WEIGHTS / f"{name}.safetensors")
    splits = load_data(metadata.data, seed=metadata.seed)
    groups = fxprune.find_groups(fxprune.trace(model, splits.train.images[:1]))
    data = list(splits.train.images[:images].split(256))
    for group, readers in responses(model, groups, data, Sampling()).items():
        a = joint([r.a for r in readers])[:-1, :-1]
        yield Problem(group, a, a.sum(1))


def by_path(problem: Problem) -> LassoPath:
    return lasso_path(problem.a, problem.b)


def rows_of(problem: Problem) -> tuple[Floats, Floats]:
    """The fewest rows that have this Gram: (X, y) with XᵀX = A and Xᵀy = b."""
    values, vectors = np.linalg.eigh(problem.a)
    root = np.sqrt(np.maximum(values, 0))
    x: Floats = np.ascontiguousarray((vectors * root).T, dtype=np.float64)
    safe = np.where(root > 1e-12 * root[-1], root, np.inf)
    return np.asfortranarray(x), (vectors.T @ problem.b) / safe


def by_search(problem: Problem, counts: Sequence[int], tol: float = 1e-6) -> list[Answer]:
    """Search λ for each count: double it until few enough stay, then bisect; warm starts throughout."""
    x, y = rows_of(problem)
    lasso = Lasso(
        1.0, fit_intercept=False, precompute=np.ascontiguousarray(problem.a), warm_start=True, tol=tol, max_iter=10_000
    )

    def support(lam: float) -> tuple[int, ...]:
        lasso.set_params(alpha=lam / len(y)).fit(x, y)
        return tuple(np.flatnonzero(lasso.coef_).tolist())

    answers, start = [], 1e-6 * float(np.abs(problem.b).max())
    for count in counts:
        low, high, fits = 0.0, start, 0
        found = support(high)
        while len(found) > count and fits < TRIES:
            low, high, fits = high, 2 * high, fits + 1
            found = support(high)
        while len(found) != count and fits < TRIES:
            middle, fits = (low + high) / 2, fits + 1
            found = support(middle)
            low, high = (middle, high) if len(found) > count else (low, middle)
        answers.append(Answer(count, float(lasso.alpha) * len(y), found if len(found) == count else None, fits + 1))
        start = high
    return answers


def agreeing(path: LassoPath, answers: Sequence[Answer]) -> tuple[int, int]:
    """How many of the found supports are the path's at the same λ, and how many were found."""
    found = [a for a in answers if a.support is not None]
    return sum(_at(path, a.lam) == a.support for a in found), len(found)


def _at(path: LassoPath, lam: float) -> tuple[int, ...]:
    """The path's support between the knots around λ."""
    right = int(np.searchsorted(-path.lambdas, -lam))
    left = max(right - 1, 0)
    right = min(right, len(path.lambdas) - 1)
    between = (path.coefficients[:, left] != 0) | (path.coefficients[:, right] != 0)
    return tuple(np.flatnonzero(between).tolist())


def timed(task: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Median CPU seconds, and the result; the first run of several is nobody's time."""
    seconds: list[float] = []
    for _ in range(repeats + (repeats > 1)):
        gc.collect()
        start = time.process_time()
        result = task()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[repeats > 1 :]), result


def peak(task: Callable[[], Any]) -> int:
    """Bytes allocated at most."""
    gc.collect()
    tracemalloc.start()
    try:
        task()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass(frozen=True)
class Row:
    """One problem's results.

    Attributes:
        name: the problem's.
        path: seconds of the path.
        search: seconds of the search, by task.
        fits: of the search for every count.
        agree: supports that are the path's, of those that the search has found.
        memory: bytes of path and search.
    """

    name: str
    path: float
    search: dict[str, float]
    fits: int
    agree: tuple[int, int]
    memory: tuple[int, int]


def measure(problem: Problem, repeats: int) -> Row:
    path_s, path = timed(lambda: by_path(problem), repeats)
    seconds, fits = {}, 0
    for task, counts in problem.tasks().items():
        seconds[task], answers = timed(lambda counts=counts: by_search(problem, counts), repeats)  # type: ignore[misc]
        fits = sum(a.fits for a in answers)
    exact = by_search(problem, problem.tasks()["every"], tol=1e-12)
    memory = peak(lambda: by_path(problem)), peak(lambda: by_search(problem, problem.tasks()["seven"]))
    return Row(problem.name, path_s, seconds, fits, agreeing(path, exact), memory)


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="CPU time of one LASSO path, and of searches for λ on the same Gram", header_style="bold")
    table.add_column("problem", no_wrap=True)
    for column in "path ms|one ms|ratio|seven ms|ratio|every ms|ratio|fits|same supports|path MB|search MB".split("|"):
        table.add_column(column, justify="right", no_wrap=True)
    for r in rows:
        times = [c for s in r.search.values() for c in (f"{1e3 * s:,.1f}", f"{s / r.path:.1f}x")]
        agree = f"{r.agree[0]} of {r.agree[1]}"
        table.add_row(r.name, f"{1e3 * r.path:.1f}", *times, str(r.fits), agree, *(f"{b / 1e6:.2f}" for b in r.memory))
    console.print(table)
    total = sum(r.path for r in rows)
    ratios = {task: sum(r.search[task] for r in rows) / total for task in rows[0].search}
    console.print("all problems together: " + ", ".join(f"{task} {ratio:.1f}x" for task, ratio in ratios.items()))


def main(
    channels: Annotated[list[int] | None, typer.Option(help="Sizes of the made problems; may be repeated.")] = None,
    network: Annotated[str, typer.Option(help="A network of the zoo, in place of made problems.")] = "",
    images: Annotated[int, typer.Option(min=1, help="Training images for a network's Gram.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; the median counts.")] = 3,
) -> None:
    """Time one LASSO path against repeated LASSO fits that search λ, on the same Gram."""
    if network and not Path(WEIGHTS / f"{network}.safetensors").exists():
        raise typer.BadParameter(f"the zoo has no weights of {network}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the search warns where coordinate descent does not converge
    problems = list(of_network(network, images)) if network else [made(c) for c in channels or [64, 128, 256]]
    rows = [measure(p, repeats) for p in track(problems, description="benchmark", console=Console(stderr=True))]
    console = Console()
    show(rows, console if console.is_terminal else Console(width=150))


if __name__ == "__main__":
    typer.run(main)
