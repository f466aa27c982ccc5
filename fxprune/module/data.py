"""Data as people have them: any iterable of batches, with a limit, a progress bar and a function that unpacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.errors import InputError
from fxprune.optional import progress_bar

_FORM = "give an iterable of batches: inputs, or (inputs, targets)"


class Batches:
    """Batches that are read from the caller's data, again each time they are iterated.

    Args:
        data: an iterable of batches: inputs as for `fxprune.trace`, or (inputs, targets). An iterator, which can be
            used up only once, is read at once, as far as the limit.
        unpack: a batch as `data` gives it to inputs, or (inputs, targets); None takes batches as they are.
        samples: number of samples that are read at most, in whole batches; None for all.
        progress: show a progress bar on the terminal while the data are read.
        what: what the progress bar says.

    Raises:
        InputError: `data` is one batch or cannot be iterated, or a setting is out of range.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> loader = [{"image": torch.rand(4, 3), "label": torch.zeros(4)} for _ in range(10)]
    >>> data = Batches(loader, lambda batch: (batch["image"], batch["label"]), samples=10)
    >>> [tuple(inputs.shape) for inputs, targets in data]
    [(4, 3), (4, 3), (4, 3)]
    """

    def __init__(
        self,
        data: Iterable[Any],
        unpack: Callable[[Any], Any] | None = None,
        *,
        samples: int | None = None,
        progress: bool = False,
        what: str = "reading the data",
    ) -> None:
        check_batches(data)
        if unpack is not None and not callable(unpack):
            remedy = "give a function: lambda batch: (batch['image'], batch['label'])"
            raise InputError("unpack is no function", seen=repr(unpack)[:60], remedy=remedy)
        if samples is not None and (not isinstance(samples, int) or samples < 1):
            raise InputError("samples out of range", seen=repr(samples), remedy="give a positive number, or None")
        self._unpack, self.samples, self._progress, self._what = unpack, samples, progress, what
        self._data = list(self._limited(data)) if iter(data) is data else data

    def __iter__(self) -> Iterator[Any]:
        given = self._limited(self._data)
        for batch in counted(given, self._what, self._total()) if self._progress else given:
            yield batch if self._unpack is None else self._unpack(batch)

    def described(self, what: str) -> Batches:
        """The same data, with other words on the progress bar."""
        return Batches(self._data, self._unpack, samples=self.samples, progress=self._progress, what=what)

    def _limited(self, data: Iterable[Any]) -> Iterator[Any]:
        seen = 0
        for batch in data:
            if self.samples is not None and seen >= self.samples:
                return
            yield batch
            seen += samples_of(batch)

    def _total(self) -> int | None:
        """Samples that will be read, if the data tell how many there are."""
        return min([n for n in (samples_in(self._data), self.samples) if n], default=None)


def counted(data: Iterable[Any], what: str, total: int | None) -> Iterator[Any]:
    """The batches, while a bar on the terminal counts their samples."""
    with progress_bar(unit="samples") as bar:
        task = bar.add_task(what, total=total)
        for batch in data:
            yield batch
            bar.advance(task, samples_of(batch))


def samples_in(data: Any) -> int | None:
    """How many samples a data loader tells that it has; None if it tells nothing."""
    dataset = getattr(data, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def samples_of(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor, or of the list of images that detectors take."""
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], list):
        return len(batch[0])
    first = next((t for t in tree_leaves(_plain(batch)) if isinstance(t, Tensor) and t.dim()), None)
    return 1 if first is None else len(first)


def _plain(batch: Any) -> Any:
    """Mappings of other kinds than dict, which pytree does not look into, as lists."""
    return list(batch.values()) if hasattr(batch, "values") and not isinstance(batch, Tensor) else batch


def check_batches(data: Any) -> None:
    """Refuse what is one batch, or cannot be iterated.

    Raises:
        InputError: it is.
    """
    if isinstance(data, Tensor | dict | str):
        raise InputError("the data is one batch", seen=type(data).__name__, remedy="give a list of batches: [batch]")
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InputError("the data cannot be iterated", seen=type(data).__name__, remedy=_FORM)
