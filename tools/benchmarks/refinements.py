"""What three refinements of pruning without training bring, which fxprune does without.

    PYTHONPATH=.:tools python -m benchmarks.refinements swaps fashion-resnet20 fashion-vgg16
    PYTHONPATH=.:tools python -m benchmarks.refinements norms fashion-vit fashion-convnext
    PYTHONPATH=.:tools python -m benchmarks.refinements moments fashion-vit fashion-convnext

`swaps`: after the greedy elimination of each group, a removed channel is exchanged for a kept one as long as the error
falls (OSSCAR, Meng et al. 2024), at one part of all groups' channels. `norms`: where a residual stream is cut, each
LayerNorm over it is fitted to what the original's gives, one scale and shift a channel, in the order in which they
run; alone, and before the repair. `moments`: each of these LayerNorms divides by what it would without the cut: the
removed channels count by their mean and mean square over the calibration images. All is judged on training images that
calibrate nothing; test images are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d  # type: ignore[import-untyped]

import fxprune
from benchmarks.comparison import Journal
from benchmarks.sources import fingerprint
from benchmarks.untrained_subjects import OfZoo
from fxprune.scorers import JointElimination
from fxprune.statistics.gram.collect import GroupReader, Sampling, readings
from fxprune.statistics.gram.elimination import Problem, eliminate, entries_of
from fxprune.statistics.gram.solve import joined
from fxprune.statistics.gram.sums import Gram

JUDGES = 3_000  # training images
_ENOUGH = 1e-6  # part of the error that a swap must take away
_SWAPS, _TRIED = 50, 4  # swaps at most, and channels that are tried for one


class Kind(Enum):
    """The refinements."""

    swaps = "swaps"
    norms = "norms"
    moments = "moments"


@dataclass(frozen=True)
class Point:
    """What is measured once.

    Attributes:
        kind: of refinement.
        network: its name in the zoo.
        keep: part of the channels that stays, of all groups (swaps) or of the residual streams (others).
        seed: of the calibration images.
        images: calibration images.
    """

    kind: str
    network: str
    keep: float
    seed: int
    images: int


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        values: accuracies by what was done; for swaps also what is left of the error, on average over groups.
        code: fingerprint of fxprune's sources.
    """

    values: dict[str, float]
    code: str


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer that reads a group, for exchanges of channels.

    Attributes:
        s: S + ρI, of shape (groups, n, n).
        weights: of shape (groups, n, outputs), scaled so that errors are parts of ‖Y - μ‖².
        entries: of each channel, of shape (groups, channels, size).
    """

    s: Tensor
    weights: Tensor
    entries: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Reading:
        scale = (problem.worth / problem.energy()) ** 0.5
        return cls(problem.damped().double(), problem.kernels.double().mT * scale, problem.entries)

    def gains(self, gone: Tensor) -> tuple[float, Tensor]:
        """The error without some channels, and by how much it falls when each of them comes back."""
        out, kept = self._sides(gone)
        covariance = self._block(out, out) - self._block(out, kept) @ torch.linalg.solve(
            self._block(kept, kept), self._block(kept, out)
        )
        left = covariance @ self._rows(out)
        return float((self._rows(out) * left).sum()), self._each(covariance, left, len(gone))

    def losses(self, gone: Tensor, kept: Tensor) -> Tensor:
        """By how much the error rises when each channel that is kept goes as well."""
        out, others = self._sides(gone)
        first = self.entries[:, kept].flatten(1)
        rest = others[~(others[..., None] == first[:, None]).any(2)].view(len(others), -1)
        stays = torch.cat([first, rest], 1)
        inverse = torch.linalg.inv(self._block(stays, stays))
        fitted = self._rows(stays) + inverse @ self._block(stays, out) @ self._rows(out)
        n = first.shape[1]
        return self._each(inverse[:, :n, :n], fitted[:, :n], len(kept))

    def _sides(self, gone: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of channels, and all others, of shape (groups, entries)."""
        out = self.entries[:, gone].flatten(1)
        stays = torch.ones(self.s.shape[:2], dtype=torch.bool).scatter_(1, out, False)
        return out, stays.nonzero()[:, 1].view(len(out), -1)

    def _block(self, rows: Tensor, columns: Tensor) -> Tensor:
        groups = torch.arange(len(rows))[:, None, None]
        return self.s[groups, rows[:, :, None], columns[:, None]]

    def _rows(self, entries: Tensor) -> Tensor:
        return self.weights[torch.arange(len(entries))[:, None], entries]

    @staticmethod
    def _each(matrix: Tensor, rows: Tensor, channels: int) -> Tensor:
        """tr(Vᵢᵀ Mᵢᵢ⁻¹ Vᵢ) of each channel i."""
        own = rows.unflatten(1, (channels, -1))
        blocks = matrix.unflatten(2, (channels, -1)).unflatten(1, (channels, -1))
        diagonal = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        return torch.linalg.solve(diagonal, own @ own.mT).diagonal(dim1=2, dim2=3).sum((0, 2))


def swapped(readings: Sequence[Reading], gone: Tensor) -> tuple[float, float, Tensor]:
    """Exchange channels as long as the error falls.

    Args:
        readings: the layers that read the channels.
        gone: the removed channels.

    Returns:
        The error before and after, and the channels that are removed then.
    """
    errors, gains = zip(*(r.gains(gone) for r in readings), strict=True)
    first = error = sum(errors)
    for _ in range(_SWAPS):
        found = _swap(readings, gone, error, torch.stack(gains).sum(0))
        if found is None:
            break
        gone = found
        errors, gains = zip(*(r.gains(gone) for r in readings), strict=True)
        error = sum(errors)
    return first, error, gone


def _swap(readings: Sequence[Reading], gone: Tensor, error: float, gains: Tensor) -> Tensor | None:
    """The removed channels after one exchange that helps, tried with those that help most when they come back."""
    channels = torch.arange(readings[0].entries.shape[1])
    for back in gains.argsort(descending=True)[:_TRIED]:
        left = gone[gone != gone[back]]
        kept = channels[~torch.isin(channels, left)]
        losses = sum(r.losses(left, kept) for r in readings)
        best = int(losses.argmin())  # type: ignore[union-attr]
        if error - float(gains[back]) + float(losses[best]) < error * (1 - _ENOUGH):  # type: ignore[index]
            return torch.cat([left, kept[best : best + 1]])
    return None


def fit_norms(model: nn.Module, small: nn.Module, plan: fxprune.Plan, data: Sequence[Tensor]) -> int:
    """Fit each LayerNorm over a cut dim to what the original's gives, in the order in which they run; in place.

    Returns:
        How many were fitted.
    """
    cuts, done = plan.cuts(), 0
    for name in _order(small, data[0]):
        kept = cuts.get(f"{name}.weight", {}).get(0)
        if kept is not None:
            wanted = _given(model, name, data)[torch.as_tensor(kept)]
            _fit_norm(small.get_submodule(name), wanted, _given(small, name, data))
            done += 1
    return done


def _fit_norm(norm: Any, wanted: Tensor, given: Tensor) -> None:
    """Least squares of each channel's values, of shape (channels, rows)."""
    x, y = (t - t.mean(1, keepdim=True) for t in (given, wanted))
    slope = (x * y).sum(1) / x.square().sum(1).clamp_min(1e-12)
    with torch.no_grad():
        norm.weight.mul_(slope)
        norm.bias.mul_(slope).add_(wanted.mean(1) - slope * given.mean(1))


class _OfMore:
    """A LayerNorm whose statistics count channels that are gone."""

    gone: tuple[int, float, float]  # how many, and the sums of their means and mean squares

    def forward(self: Any, x: Tensor) -> Tensor:
        rows, (count, total, power) = x.movedim(_channels(self), -1), self.gone
        size = rows.shape[-1] + count
        mean = (rows.sum(-1, keepdim=True) + total) / size
        variance = (rows.square().sum(-1, keepdim=True) + power) / size - mean.square()
        normed = (rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normed.movedim(-1, _channels(self))


class _NormOfMore(_OfMore, nn.LayerNorm): ...  # type: ignore[misc]


class _ImageNormOfMore(_OfMore, LayerNorm2d): ...  # type: ignore[misc]


def _channels(norm: nn.Module) -> int:
    return 1 if isinstance(norm, LayerNorm2d) else -1


def with_moments(model: nn.Module, small: nn.Module, plan: fxprune.Plan, data: Sequence[Tensor]) -> None:
    """Let each LayerNorm over a cut dim count the channels that are gone, as constants; in place."""
    cuts = plan.cuts()
    for name in _order(small, data[0]):
        kept = cuts.get(f"{name}.weight", {}).get(0)
        if kept is not None:
            norm: Any = small.get_submodule(name)
            read = _read(model, name, data)
            gone = torch.ones(len(read), dtype=torch.bool).index_fill(0, torch.as_tensor(kept), False)
            lost = read[gone]
            norm.gone = len(lost), float(lost.mean(1).sum()), float(lost.square().mean(1).sum())
            norm.__class__ = _ImageNormOfMore if isinstance(norm, LayerNorm2d) else _NormOfMore


def _read(model: nn.Module, name: str, data: Sequence[Tensor]) -> Tensor:
    """What a norm reads, of shape (channels, rows)."""
    norm, found = model.get_submodule(name), list[Tensor]()
    handle = norm.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        with torch.no_grad():
            for x in data:
                model(x)
    finally:
        handle.remove()
    return torch.cat(found).movedim(_channels(norm), 0).flatten(1)


def _order(model: nn.Module, x: Tensor) -> list[str]:
    """The LayerNorms, in the order in which they run."""
    ran: list[str] = []
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.LayerNorm)]
    _watched(model, [x[:1]], norms, lambda name, _: ran.append(name))
    return ran


def _given(model: nn.Module, name: str, data: Sequence[Tensor]) -> Tensor:
    """What a norm gives, of shape (channels, rows)."""
    norm, found = model.get_submodule(name), list[Tensor]()
    _watched(model, data, [(name, norm)], lambda _, y: found.append(y))
    return torch.cat(found).movedim(_channels(norm), 0).flatten(1)


def _watched(
    model: nn.Module,
    data: Sequence[Tensor],
    parts: Sequence[tuple[str, nn.Module]],
    saw: Callable[[str, Tensor], object],
) -> None:
    handles = [m.register_forward_hook(lambda _m, _x, y, name=name: saw(name, y)) for name, m in parts]
    try:
        with torch.no_grad():
            for x in data:
                model(x)
    finally:
        for handle in handles:
            handle.remove()


class _Case:
    """A network with its calibration images and those that judge."""

    def __init__(self, network: str, seed: int, images: int) -> None:
        self.subject = OfZoo(network, 1)
        self.model, self.groups = self.subject.model, self.subject.groups
        self.data = self.subject.calibration(images, seed)
        train = self.subject._lab.train
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        self.judge = train[rows[images:][-JUDGES:]]

    def accuracy(self, small: nn.Module) -> float:
        with torch.no_grad():
            found = torch.cat([small.eval()(x).argmax(1) for x in self.judge.images.split(256)])
        return float((found == self.judge.labels).double().mean())

    def repaired(self, small: nn.Module, plan: fxprune.Plan) -> float:
        return self.accuracy(fxprune.repair(self.model, small, plan, self.data, progress=False))

    def of_plan(self, kept: Mapping[str, Any]) -> tuple[nn.Module, fxprune.Plan]:
        plan = self.groups.plan(kept)
        return fxprune.rewrite(self.model, plan).eval(), plan


def _problems(found: list[tuple[GroupReader, list[Gram]]], ridge: float) -> Iterator[Problem]:
    """As `JointElimination` sets them."""
    for reader, parts in found:
        entries = entries_of(reader.owner, reader.channels)
        if entries is not None:
            yield Problem.of(joined(parts), reader.kernels, entries, ridge)


def swaps(case: _Case, keep: float) -> dict[str, float]:
    """Greedy elimination against the same with swaps."""
    scorer = JointElimination()
    found = readings(case.model, case.groups, case.data, Sampling(scorer.positions, scorer.seed), parts=2)
    greedy, better, left = dict[str, Any](), dict[str, Any](), list[float]()
    for g in case.groups:
        problems = list(_problems(found[g.name], scorer.ridge))
        order = eliminate(problems, g.size)[0][: g.size - max(1, round(keep * g.size))]
        before, after, gone = swapped([Reading.of(p) for p in problems], order)
        left.append(after / before)
        for kept, out in ((greedy, order), (better, gone)):
            kept[g.name] = sorted(set(range(g.size)) - set(out.tolist()))
    values = {"error left": sum(left) / len(left), "least error left": min(left)}
    return values | {n: case.repaired(*case.of_plan(k)) for n, k in (("greedy", greedy), ("with swaps", better))}


def norms(case: _Case, keep: float) -> dict[str, float]:
    """The repair as it is, and norms fitted alone and before it."""
    return _with_norms(case, keep, "norms fitted", fit_norms)


def moments(case: _Case, keep: float) -> dict[str, float]:
    """The repair as it is, and norms that count the channels that are gone, alone and before it."""
    return _with_norms(case, keep, "with moments", with_moments)


def _with_norms(case: _Case, keep: float, what: str, change: Callable[..., object]) -> dict[str, float]:
    names = {f"{n}.weight" for n, m in case.model.named_modules() if isinstance(m, nn.LayerNorm)}
    streams = {g.name for g in case.groups if any(s.tensor in names for s in g.slots)}
    tied = streams.union(*(t for t in case.groups.ties if t & streams))
    counts = case.groups.in_step({g.name: round(keep * g.size) if g.name in tied else g.size for g in case.groups})
    scores = JointElimination()(case.model, case.groups, case.data)
    small, plan = case.of_plan({n: sorted(scores[n].topk(count).indices.tolist()) for n, count in counts.items()})
    values = {"bare": case.accuracy(small), "repaired": case.repaired(small, plan)}
    change(case.model, small, plan, case.data)
    return values | {what: case.accuracy(small), f"{what}, repaired": case.repaired(small, plan)}


_MEASURES = {Kind.swaps: swaps, Kind.norms: norms, Kind.moments: moments}


def main(
    kind: Annotated[Kind, typer.Argument(help="The refinement.")],
    networks: Annotated[list[str], typer.Argument(help="Names in the zoo.")],
    keep: Annotated[list[float] | None, typer.Option(min=0.01, max=1, help="Part of the channels.")] = None,
    images: Annotated[int, typer.Option(min=16, help="Calibration images.")] = 512,
    seeds: Annotated[int, typer.Option(min=1, help="Of the calibration images.")] = 2,
    journal: Annotated[Path, typer.Option(help="What is measured is kept here.")] = Path("runs/refinements.jsonl"),
) -> None:
    """Measure a refinement."""
    console, rows = Console(), Journal(journal, Point, Outcome)
    torch.set_num_threads(1)
    for network in networks:
        for seed in range(seeds):
            wanted = [Point(kind.value, network, k, seed, images) for k in keep or (0.75, 0.5)]
            missing = [p for p in wanted if p not in rows.rows]
            case = _Case(network, seed, images) if missing else None
            for point in missing:
                assert case is not None, "made where a point is missing"
                rows.add(point, Outcome(_MEASURES[kind](case, point.keep), fingerprint()))
            for point in wanted:
                shown = {name: round(value, 4) for name, value in rows.rows[point].values.items()}
                console.print(asdict(point), shown)


if __name__ == "__main__":
    typer.run(main)
