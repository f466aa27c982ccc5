"""Labelled image files that are decoded when they are read, for data sets that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.errors import ZooError
from zoo.splits import Split

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the red, green and blue of ImageNet in [0, 1]: what torchvision's pretrained weights expect."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files as samples; satisfies `zoo.splits.Samples`.

    Args:
        paths: the files.
        labels: int64 (n,), one a file.
        canvas: pixels; the shorter side is resized to it and the middle square kept.
        crop: pixels of the middle square of the canvas that is returned; None for all of it.
        device: where batches are put.
        workers: processes that decode while the batch before is computed; 0 decodes in this one.
        pixels: uint8 (n, 3, canvas, canvas), everything decoded (see `hold`); None decodes when read.
    """

    paths: Sequence[Path]
    labels: Tensor
    canvas: int = 256
    crop: int | None = None
    device: torch.device = _CPU
    workers: int = 0
    pixels: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor | slice) -> Split:
        """The samples at ``rows``, decoded and normalised."""
        numbers = torch.arange(len(self))[rows]
        if self.pixels is not None:
            return self._split(self.pixels[numbers], numbers)
        return self._split(_stack(read(self.paths[i], self.canvas) for i in numbers.tolist()), numbers)

    @property
    def images(self) -> Tensor:
        """All images, decoded: float32 (n, 3, side, side)."""
        return self[:].images

    def batches(self, order: Sequence[Tensor]) -> Iterator[Split]:
        """The samples at each of the rows in ``order``, decoded ahead by the workers."""
        if self.pixels is not None or not self.workers:
            yield from (self[rows.cpu()] for rows in order)
            return
        files = _Files(self.paths, self.canvas)
        wanted = [rows.tolist() for rows in order]
        loader = DataLoader(files, batch_sampler=wanted, num_workers=self.workers, collate_fn=list)
        for rows, images in zip(order, loader, strict=True):
            yield self._split(_stack(images), rows.cpu())

    def to(self, device: torch.device) -> ImageFiles:
        """The same files, whose batches are put on ``device``."""
        return replace(self, device=device)

    def part(self, rows: Tensor) -> ImageFiles:
        """The files at ``rows``."""
        pixels = None if self.pixels is None else self.pixels[rows]
        return replace(self, paths=[self.paths[i] for i in rows.tolist()], labels=self.labels[rows], pixels=pixels)

    def with_labels(self, labels: Tensor) -> ImageFiles:
        """The same files with other labels."""
        return replace(self, labels=labels)

    def hold(self) -> ImageFiles:
        """The same files, all decoded now and kept in memory: 3 * canvas² bytes an image."""
        return replace(self, pixels=_stack(read(path, self.canvas) for path in self.paths))

    def _split(self, pixels: Tensor, rows: Tensor) -> Split:
        square = pixels if self.crop is None else _middle(pixels, self.crop)
        mean, deviation = (torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, DEVIATION))
        images = (square.to(self.device).float() / 255 - mean) / deviation
        return Split(images, self.labels[rows].to(self.device))


class _Files(Dataset[Tensor | ZooError]):
    """What a worker process holds. An error is returned, since one raised there comes back with a page of trace."""

    def __init__(self, paths: Sequence[Path], canvas: int) -> None:
        self.paths, self.canvas = paths, canvas

    def __getitem__(self, row: int) -> Tensor | ZooError:
        try:
            return read(self.paths[row], self.canvas)
        except ZooError as error:
            return error


def read(path: Path, canvas: int) -> Tensor:
    """The image at ``path`` in RGB, its shorter side resized, its middle kept: uint8 (3, canvas, canvas).

    Raises:
        ZooError: the file is not a whole image.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ZooError(f"{path}: cannot be read as an image ({error}); fetch it again or remove it") from error
    from torchvision.transforms.v2 import functional as transform  # type: ignore[import-untyped]  # takes seconds

    pixels: Tensor = transform.pil_to_tensor(_middle(transform.resize(image, [canvas]), canvas))
    return pixels


def _middle(image: Any, side: int) -> Any:
    from torchvision.transforms.v2 import functional as transform

    return transform.center_crop(image, [side, side])


def _stack(images: Iterator[Tensor] | Sequence[Tensor | ZooError]) -> Tensor:
    found: list[Tensor] = []
    for image in images:
        if isinstance(image, ZooError):
            raise image
        found.append(image)
    return torch.stack(found)
