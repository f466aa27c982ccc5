"""Data as people have them: any iterable of batches, with a limit, a progress bar and a function that unpacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import count
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset

from fxprune.errors import InputError, check_function
from fxprune.optional import progress_bar

_MANY, _SMALL = 64, 8  # so many batches of fewer samples cost time that is worth a word
_FORM = "give an iterable of batches: inputs, or (inputs, targets)"
_SAMPLES = 1024  # that are read where the caller's data hold more


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
        check_function("unpack", unpack, "give a function: lambda batch: (batch['image'], batch['label'])")
        if samples is not None and (not isinstance(samples, int) or samples < 1):
            raise InputError("samples out of range", seen=repr(samples), remedy="give a positive number, or None")
        self._unpack, self.samples, self._progress, self._what = unpack, samples, progress, what
        self._data = data
        if iter(data) is data:
            self._data, self._unpack = list(self._read()), None

    def __repr__(self) -> str:
        limit = "" if self.samples is None else f", at most {self.samples:,} samples"
        return f"Batches({type(self._data).__name__}{limit})"

    def __iter__(self) -> Iterator[Any]:
        given = self._read()
        return counted(given, self._what, self._total()) if self._progress else given

    def described(self, what: str) -> Batches:
        """The same data, with other words on the progress bar."""
        return Batches(self._data, self._unpack, samples=self.samples, progress=self._progress, what=what)

    def held(self) -> Batches:
        """The same batches, which the first pass reads and keeps for the others."""
        once = _Once(self._read, getattr(self._data, "dataset", None))
        return Batches(once, samples=self.samples, progress=self._progress, what=self._what)

    def _read(self) -> Iterator[Any]:
        """The batches up to the limit, unpacked."""
        seen = 0
        for number, batch in enumerate(self._data, 1):
            given = batch if self._unpack is None else self._unpack(batch)
            yield given
            seen += samples_of(given)
            if number == _MANY and seen < _SMALL * number:
                warnings.warn(
                    f"the data come in batches of {seen / number:.3g} samples, and each costs a run of every "
                    "layer: DataLoader(..., batch_size=32) takes less time",
                    stacklevel=2,
                )
            if self.samples is not None and seen >= self.samples:
                return  # before a batch is asked for that nobody wants, which may not come

    def _total(self) -> int | None:
        """Samples that will be read, if the data tell how many there are."""
        return min([n for n in (samples_in(self._data), self.samples) if n], default=None)


class _Once:
    """What an iterator gives, again and again; it is asked anew only if it has failed."""

    def __init__(self, read: Callable[[], Iterator[Any]], dataset: Any) -> None:
        self._read, self.dataset = read, dataset
        self._forget()

    def _forget(self) -> None:
        self._kept, self._rest = list[Any](), self._read()

    def __iter__(self) -> Iterator[Any]:
        for place in count():
            if place == len(self._kept):
                try:
                    self._kept.append(next(self._rest))
                except StopIteration:
                    return
                except BaseException:  # a loader's error, or Ctrl-C: what came before is not all
                    self._forget()
                    raise
            yield self._kept[place]


def read_batches(data: Iterable[Any] | None, unpack: Callable[[Any], Any] | None) -> Batches | None:
    """The caller's `data=` and `unpack=` as batches with the usual limit; None if there are no data.

    Raises:
        InputError: as `Batches`, or `unpack` has nothing to unpack.
    """
    if unpack is not None and (data is None or isinstance(data, Batches)):
        seen = "no data" if data is None else "Batches, which have their own"
        remedy = "give data= as well" if data is None else "give it to Batches: Batches(loader, unpack)"
        raise InputError("unpack= has nothing to unpack", seen=seen, remedy=remedy)
    return data if data is None or isinstance(data, Batches) else Batches(data, unpack, samples=_SAMPLES, progress=True)


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
    """Samples in a batch, which is one value, or a mapping, list or tuple of values.

    Its first tensor tells, by its length. As a value, a list of tensors of three dims is one of images, each of shape
    (channels, height, width), as detectors take them.

    >>> import torch
    >>> maps = [torch.zeros(2, 16, 8, 8), torch.zeros(2, 32, 4, 4)]
    >>> samples_of((maps, torch.zeros(2))), samples_of(([torch.zeros(3, 32, 48)] * 5, None))
    (2, 5)
    """
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    return next((count for value in values for count in _counts(value)), 1)


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, list) and value and all(isinstance(v, Tensor) and v.dim() == 3 for v in value):
        yield len(value)
    elif isinstance(value, Mapping):
        yield from (count for part in value.values() for count in _counts(part))
    elif isinstance(value, list | tuple):
        yield from (count for part in value for count in _counts(part))
    else:
        yield from (len(t) for t in tree_leaves(value) if isinstance(t, Tensor) and t.dim())


def check_batches(data: Any) -> None:
    """Refuse what is one batch, or cannot be iterated.

    Raises:
        InputError: it is.
    """
    if isinstance(data, Tensor | dict | str):
        raise InputError("the data is one batch", seen=type(data).__name__, remedy="give a list of batches: [batch]")
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        remedy = "give DataLoader(dataset, batch_size=32), or batch_size=None if its items are batches"
        raise InputError(
            "the data is a dataset of samples, and batches are wanted", seen=type(data).__name__, remedy=remedy
        )
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InputError("the data cannot be iterated", seen=type(data).__name__, remedy=_FORM)
