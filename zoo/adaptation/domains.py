"""Two data sets with the same classes: the source, whose labels are known, and the target, whose are not."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zoo.data import load
from zoo.errors import ZooError
from zoo.splits import Samples, Split, Splits


@dataclass(frozen=True, eq=False)
class Domains:
    """Source and target with equal classes and equal numbers of colours."""

    source: Splits
    target: Splits


def load_pair(source: str, target: str, root: Path | None = None, seed: int = 0, download: bool = False) -> Domains:
    """Load two data sets for adaptation; each is normalised by its own training images.

    Grey images get three equal colours where those of the other domain have colours, and labels of the target are
    numbered as in the source.

    Args:
        source, target: names for ``zoo.data.load``.
        root, seed, download: as there.

    Raises:
        ValueError, ZooError: as there.
        ZooError: a class of the target is not one of the source.

    >>> domains = load_pair("digits", "digits-m")
    >>> domains.source.train.images.shape, domains.target.train.images.shape
    (torch.Size([1077, 3, 8, 8]), torch.Size([1077, 3, 8, 8]))
    """
    known, other = (load(name, root, seed, download) for name in (source, target))
    renumbered = renumber(other, known.names, f"{source} -> {target}")
    if _is_grey(known) and _is_grey(renumbered):
        return Domains(known, renumbered)
    return Domains(known.map(_coloured), renumbered.map(_coloured))


def renumber(target: Splits, names: tuple[str, ...], where: str) -> Splits:
    """``target`` with labels that number the classes ``names`` of the source.

    Raises:
        ZooError: the target has a class that the source has not, or none in common.
    """
    foreign = [name for name in target.names if name not in names]
    if len(foreign) == len(target.names):
        raise ZooError(
            f"{where}: the domains have no class in common (source: {_some(names)}; target: {_some(target.names)}), "
            "so nothing can be carried over; name their classes (class folders) alike"
        )
    if foreign:
        raise ZooError(
            f"{where}: the target has classes that the source has not ({_some(foreign)}); remove their images"
        )
    number = torch.tensor([names.index(name) for name in target.names])
    return replace(target.map(lambda part: part.with_labels(number[part.labels])), names=names)


def _coloured(samples: Samples) -> Samples:
    if isinstance(samples, Split) and samples.images.shape[1] == 1:
        return Split(samples.images.expand(-1, 3, -1, -1), samples.labels)
    return samples


def _is_grey(splits: Splits) -> bool:
    return isinstance(splits.train, Split) and splits.train.images.shape[1] == 1


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
