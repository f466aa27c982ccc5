"""Prune an adapted network: progressively, with what is known of either domain, or uniformly by L1 norm.

Source: PCP for unsupervised domain adaptation, Guo, Zhang, Ouyang and Xu, Progressive Channel Pruning.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import fxprune
from fxprune.planners import AtBudget, Uniform
from fxprune.scorers import Informative, L1Norm
from fxprune.search import LayerByLayer, Progressive, Step
from zoo.adaptation.domains import Domains
from zoo.errors import ZooError
from zoo.footprints import isolated
from zoo.splits import Samples, Split, require_samples
from zoo.train import accuracy


@dataclass(frozen=True)
class Search:
    """What the search looks at; the switches are the ablations of the method. Labels of the target are never read.

    Args:
        target: whether images of the target take part; False is the source alone.
        pseudo_labels: whether attempts are judged on target images too, by the labels that the full network gives them.
        informative: whether statistics are taken where a layer's outputs vary most over channels; else at random
            positions.
        positions: of each image, either way.
        images: training images for the statistics; half of each domain if the target takes part.
        judged: images that judge attempts, of the source's validation split; with pseudo-labels half of them are
            training images of the target, others than those of the statistics.
        step, top: as of ``fxprune.search.Progressive``.

    Raises:
        ValueError: fewer than two images.
    """

    target: bool = True
    pseudo_labels: bool = True
    informative: bool = True
    positions: int = 10
    images: int = 1024
    judged: int = 600
    step: float = 0.05
    top: float = 0.25

    def __post_init__(self) -> None:
        if self.images < 2 or self.judged < 2:
            raise ValueError(f"pcp: images and judged must be at least 2, got {self.images} and {self.judged}")

    @property
    def name(self) -> str:
        """Such as "PCP without pseudo-labels"."""
        if not self.target:
            return "PCP, source only" if self.informative else "plain PCP"
        missing = [] if self.pseudo_labels else ["pseudo-labels"]
        missing += [] if self.informative else ["informative positions"]
        return f"PCP without {' and '.join(missing)}" if missing else "PCP for adaptation"

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON keeps them."""
        return asdict(self)

    @property
    def where(self) -> int | Informative:
        """The output positions that statistics are taken at."""
        return Informative(self.positions) if self.informative else self.positions

    def planner(self, reductions: Sequence[float], seed: int, progress: bool) -> Progressive:
        """The search down to 1 / the largest of ``reductions`` of the MACs, which meets the others on its way."""
        method, parts = LayerByLayer(self.where, seed=seed), sorted(1 / r for r in reductions)
        settings: dict[str, Any] = {
            "step": self.step,
            "top": self.top,
            "method": method,
            "progress": progress,
            "seed": seed,
        }
        return Progressive(parts[0], tuple(parts[1:]), **settings)


@dataclass(frozen=True, eq=False)
class Cut:
    """A pruned network and its plan, which says what of the full one is left."""

    model: nn.Module
    plan: fxprune.Plan


@dataclass(frozen=True, eq=False)
class Judge:
    """The quality of an attempt: the mean of its accuracies on several splits.

    Of equal attempts the one that saves more goes first; `fxprune.search.Accuracy` would look at the cross-entropy
    before that.
    """

    splits: tuple[Samples, ...]

    def __call__(self, model: nn.Module) -> float:
        """In [0, 1]."""
        return sum(accuracy(model, split) for split in self.splits) / len(self.splits)


def pseudo_labelled(model: nn.Module, samples: Samples, batch_size: int = 512) -> Samples:
    """``samples`` with the labels that ``model`` gives them, in evaluation mode; their own are not read.

    Raises:
        ZooError: there is no sample.
    """
    require_samples(samples, "pseudo-labelled")
    with isolated(model, None, training=False) as where, torch.no_grad():
        rows = torch.arange(len(samples)).split(batch_size)
        labels = torch.cat([model(batch.images.to(where)).argmax(1) for batch in samples.batches(rows)])
        return samples.with_labels(labels.cpu())


def material(model: nn.Module, domains: Domains, search: Search, seed: int) -> tuple[list[Tensor], Judge]:
    """Batches of images for the statistics, and what judges attempts; both drawn by ``seed``.

    Args:
        model: the full network, which gives the pseudo-labels.
        domains: their test splits are not looked at, nor are labels of the target.
        search: how many images, and of what.
        seed: which ones.

    Raises:
        ZooError: a domain has too few images.
    """
    both = search.target and search.pseudo_labels
    share = search.images // 2 if search.target else search.images
    judged = search.judged // 2 if both else search.judged
    held_out: list[Samples] = [drawn(domains.source.val, judged, seed)]
    size = held_out[0][:1].images.shape[2:]
    images = [_middle(drawn(domains.source.train, share, seed), size).images]
    if search.target:
        chosen = _middle(drawn(domains.target.train, share + (judged if both else 0), seed), size)
        images.append(chosen.images[:share])
        if both:
            held_out.append(pseudo_labelled(model, chosen[share:]))
    return list(torch.cat(images).split(64)), Judge(tuple(held_out))


def progressively(
    model: nn.Module,
    domains: Domains,
    search: Search,
    reductions: Sequence[float],
    folder: Path,
    seed: int = 0,
    progress: bool = True,
) -> dict[float, Cut]:
    """Search once, down to the largest of ``reductions``; smaller ones are met on the way, as exactly.

    Args:
        model: the full network, without a domain head; untouched.
        domains: what it was adapted to.
        search: what the search looks at.
        reductions: of the MACs, each above 1.
        folder: remembers the search, which goes on from there if it was cut off.
        seed: which images and random positions.
        progress: show a progress bar.

    Raises:
        ZooError: a domain has too few images.
        fxprune.InputError: a reduction out of reach, or ``folder`` is of another search.
        KeyboardInterrupt: it was interrupted.
    """
    data, judge = material(model, domains, search, seed)
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:1]))
    found = search.planner(reductions, seed, progress)(model, groups, judge, data=data, folder=folder)
    full = fxprune.cost(groups).macs
    return {r: _checkpoint(model, folder, _first(found.history, full / r)) for r in reductions}


def uniformly(model: nn.Module, domains: Domains, reductions: Sequence[float]) -> dict[float, Cut]:
    """Remove the same part of every group, the smallest in L1 norm, such that 1 / reduction of the MACs is left."""
    groups = fxprune.find_groups(fxprune.trace(model, domains.source.val[:1].images))
    scores = L1Norm()(model, groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where widths are too coarse for that, the rows tell the MACs
        plans = {r: AtBudget(Uniform, 1 / r, tolerance=0.005)(groups, scores) for r in reductions}
    return {r: Cut(fxprune.rewrite(model, plan), plan) for r, plan in plans.items()}


def drawn(samples: Samples, count: int, seed: int) -> Samples:
    """``count`` samples, drawn by ``seed``.

    Raises:
        ZooError: there are fewer.
    """
    if count > len(samples):
        raise ZooError(f"prune-adapt: {count} images are wanted where there are {len(samples)}; ask for fewer")
    return samples.part(torch.randperm(len(samples), generator=Generator().manual_seed(seed))[:count])


def _middle(samples: Samples, size: Sequence[int]) -> Split:
    """In memory, with the middle of larger images: training images of files leave room for random crops."""
    images = samples.images
    top, left = ((n - m) // 2 for n, m in zip(images.shape[2:], size, strict=True))
    return Split(images[:, :, top : top + size[0], left : left + size[1]], samples.labels)


def _first(history: Sequence[Step], macs: float) -> str:
    return next(step.key for step in history if step.cost.macs <= macs * (1 + 1e-12))


def _checkpoint(model: nn.Module, folder: Path, key: str) -> Cut:
    path = folder / "checkpoints" / f"{key}.safetensors"
    return Cut(fxprune.search.restore(model, path), fxprune.search.plan_of(path))
