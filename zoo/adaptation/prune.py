"""Prune an adapted network, adapt what is left, and measure it: the contenders of one comparison."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxprune
from zoo.adaptation.adapt import adapt
from zoo.adaptation.domains import Domains
from zoo.adaptation.execute import adapted, described, load_domains
from zoo.adaptation.pcp import Cut, Search, drawn, progressively, uniformly
from zoo.checkpoints import Metadata, load, save
from zoo.errors import ZooError
from zoo.processes import refuse_several
from zoo.provenance import commit, machine
from zoo.recipe import Adaptation
from zoo.rows import Row, Rows
from zoo.run import Run
from zoo.settings import Settings
from zoo.splits import Samples
from zoo.train import accuracy, fit

WHOLE = "not pruned"
"""The contender that is the full network."""
SETTLED = 512
"""Training images from which batch norms take their statistics before the fine-tuning, half of each domain."""


@dataclass(frozen=True)
class Contender:
    """A way to prune, and what follows it.

    Args:
        search: of the progressive pruning; None removes the same part of every group, the smallest in L1 norm.
        unlabelled: fine-tune by DANN on both domains; False is plain training on the labelled source.
    """

    search: Search | None
    unlabelled: bool = True

    @property
    def name(self) -> str:
        """Such as "uniform L1 + DANN"."""
        way = self.search.name if self.search else "uniform L1"
        return f"{way} + {'DANN' if self.unlabelled else 'source training'}"


@dataclass(frozen=True)
class Job:
    """What all contenders share.

    Args:
        recipe: of the full network.
        folder: holds the full networks (``NAME-SEED.safetensors``, as ``python -m zoo adapt --out`` writes them), the
            searches, the pruned networks and ``rows.jsonl``; a job that was cut off goes on from there.
        search: the method, with all that it knows; contenders know less.
        epochs: of the fine-tuning.
        lr: its highest learning rate; other numbers are the recipe's.
        images: training images a domain for it; 0 for all.
        run: how to execute it.
    """

    recipe: Adaptation
    folder: Path
    search: Search = field(default_factory=Search)
    epochs: int = 2
    lr: float = 0.02
    images: int = 4000
    run: Run = field(default_factory=Run)

    def settings(self, seed: int) -> Settings:
        """Of the fine-tuning."""
        return replace(self.recipe.settings, epochs=self.epochs, lr=self.lr, seed=seed)

    def contenders(self) -> tuple[Contender, ...]:
        """The method, its ablations, and what it is compared with."""
        plain = replace(self.search, target=False, informative=False)
        return (
            Contender(self.search),
            Contender(replace(self.search, target=False)),
            Contender(replace(self.search, pseudo_labels=False)),
            Contender(replace(self.search, informative=False)),
            Contender(plain),
            Contender(plain, unlabelled=False),
            Contender(None),
        )

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON keeps them."""
        recipe = {"name": self.recipe.name, "source": self.recipe.source, "target": self.recipe.target}
        tuning = {"epochs": self.epochs, "lr": self.lr, "images": self.images}
        return {"recipe": {**recipe, **self.recipe.plain()}, "search": self.search.plain(), "fine-tuning": tuning}


def compare(job: Job, chosen: Sequence[Contender], reductions: Sequence[float], seeds: Sequence[int]) -> list[Row]:
    """Prune and fine-tune what ``job.folder`` does not hold yet; returns all rows that it then holds.

    For each seed the full network is adapted first, if it is not there. Test images are looked at for a row only, when
    its network is done; labels of the target nowhere else.

    Args:
        job: what all share.
        chosen: contenders, such as ``job.contenders()``.
        reductions: of the full network's MACs; 2 halves them.
        seeds: of data, training, search and fine-tuning.

    Raises:
        ZooError: data or files are missing or damaged, a reduction is not above 1, a network is of another recipe, or a
            launcher started several processes.
        fxprune.InputError: a reduction is out of reach, or the folder is of another job.
    """
    refuse_several("prune-adapt")
    if not reductions or not all(1 < r < float("inf") for r in reductions):
        raise ZooError(f"prune-adapt: reductions must be above 1, got {list(reductions)}; 2 halves the MACs")
    rows = Rows(job.folder, job.plain())
    for seed in seeds:
        missing = {c: [r for r in reductions if (c.name, seed, r) not in rows] for c in chosen}
        if any(missing.values()) or (WHOLE, seed, 1.0) not in rows:
            for row in _rows(job, rows, missing, reductions, seed):
                rows.add(row)
    return list(rows.by_key.values())


def _rows(
    job: Job, known: Rows, missing: Mapping[Contender, Sequence[float]], reductions: Sequence[float], seed: int
) -> Iterator[Row]:
    """Of one seed. A contender is cut for all reductions together, so that its search does not depend on the rest."""
    domains = load_domains(job.recipe, job.run, seed)
    work = _Work(job, domains, _full(job, domains, seed), seed, commit())
    if (WHOLE, seed, 1.0) not in known:
        yield work.whole()
    for contender, those in missing.items():
        if those:
            cuts = work.cut(contender, reductions)
            yield from (work.row(contender, r, cuts[r]) for r in those)


@dataclass(frozen=True, eq=False)
class _Work:
    """One seed's full network and data."""

    job: Job
    domains: Domains
    model: nn.Module
    seed: int
    commit: str | None

    def cut(self, contender: Contender, reductions: Sequence[float]) -> dict[float, Cut]:
        if contender.search is None:
            return uniformly(self.model, self.domains, reductions)
        folder = self.job.folder / f"{_slug(contender.search.name)}-{max(reductions):g}x-{self.seed}"
        shown = self.job.run.progress
        return progressively(self.model, self.domains, contender.search, reductions, folder, self.seed, shown)

    def whole(self) -> Row:
        cost, (source, target) = self._cost(self.model), self._measured(self.model)
        numbers = (cost.macs, cost.parameters, 1.0, source, target, source, target)
        return Row(WHOLE, self.seed, 1.0, *numbers, commit=self.commit)

    def row(self, contender: Contender, reduction: float, cut: Cut) -> Row:
        before = self._measured(cut.model)
        self._tune(contender, cut.model)
        after, cost = self._measured(cut.model), self._cost(cut.model)
        part = cost.macs / self._cost(self.model).macs
        path = self.job.folder / f"{_slug(contender.name)}-{reduction:g}x-{self.seed}.safetensors"
        save(path, cut.model, self._metadata(cut, after[1]))
        numbers = (cost.macs, cost.parameters, part, *after, *before)
        return Row(contender.name, self.seed, reduction, *numbers, commit=self.commit)

    def _tune(self, contender: Contender, model: nn.Module) -> None:
        source, target = (self._some(part.train) for part in (self.domains.source, self.domains.target))
        if contender.search is not None:
            # Training normalises by its batches: without this it would begin by losing what the search has refitted.
            fxprune.absorb_batchnorm(model, _batches([source, target] if contender.unlabelled else [source], SETTLED))
        recipe, settings = self.job.recipe, self.job.settings(self.seed)
        how: dict[str, Any] = {
            "augment": recipe.change.augment(),
            **replace(self.job.run, state=None, log=None).training(),
        }
        if contender.unlabelled:
            adapt(model, source, target, settings, adversary=recipe.adversary, **how)
        else:
            fit(model, source, settings, **how)

    def _some(self, samples: Samples) -> Samples:
        enough = 0 < self.job.images < len(samples)
        return drawn(samples, self.job.images, self.seed) if enough else samples

    def _measured(self, model: nn.Module) -> tuple[float, float]:
        device = self.job.run.device
        source, target = self.domains.source.test, self.domains.target.test
        return accuracy(model, source, device=device), accuracy(model, target, device=device)

    def _cost(self, model: nn.Module) -> fxprune.Cost:
        where = next(model.parameters()).device
        graph = fxprune.trace(model, self.domains.source.val[:1].images.to(where))
        return fxprune.cost(fxprune.find_groups(graph))

    def _metadata(self, cut: Cut, target_test: float) -> Metadata:
        recipe = self.job.recipe
        return Metadata(
            network=recipe.network,
            arguments=recipe.arguments,
            data=recipe.target,
            seed=self.seed,
            recipe=recipe.name,
            epochs=self.job.epochs,
            val_accuracy=accuracy(cut.model, self.domains.target.val, device=self.job.run.device),
            test_accuracy=target_test,
            training={**self.job.plain(), **machine()},
            commit=self.commit,
            plan=cut.plan.to_json(),
        )


def _batches(domains: Sequence[Samples], images: int) -> list[Tensor]:
    """The first images of each domain, ``images`` together."""
    return list(torch.cat([part[: images // len(domains)].images for part in domains]).split(64))


def _full(job: Job, domains: Domains, seed: int) -> nn.Module:
    """The full network of a seed, from the folder or trained now."""
    path = job.folder / f"{job.recipe.name}-{seed}.safetensors"
    if not path.exists():
        made_by, state = commit(), path.with_suffix(".state")
        reached = adapted(job.recipe, domains, replace(job.run, state=state), seed)
        save(path, reached.model, described(job.recipe, reached, seed, made_by))
        state.unlink()
    model, claimed = load(path)
    numbers = json.loads(json.dumps(job.recipe.plain() | {"seed": seed}))
    told = {name: claimed.training.get(name) for name in numbers}
    if (claimed.recipe, claimed.data, told) != (job.recipe.name, job.recipe.target, numbers):
        raise ZooError(f"{path}: is of another recipe; give another folder")
    return model.to(torch.device(job.run.device or "cpu"))


def _slug(name: str) -> str:
    """As a file is named: "PCP, source only + DANN" as "pcp-source-only-dann"."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
