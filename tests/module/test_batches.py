"""Batches as data loaders give them, as calls of a model."""

import warnings
from collections import UserDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches
from fxprune.module.data import samples_of
from fxprune.optional import progress_bar

X, Y, Z = torch.rand(4, 3), torch.rand(4, 2), torch.rand(4)


class One(nn.Module):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return x


class Two(nn.Module):
    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x1


class Any_(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["x"]


def call(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    (found,) = batches(model, [batch])
    args, kwargs = found.inputs
    return (args or kwargs), found.targets


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], v) for k, v in expected.items())
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize(
    ("model", "batch", "inputs", "targets"),
    [
        (One(), X, (X,), None),
        (One(), [X, Z], (X,), Z),
        (One(), (X, Y, Z), (X,), (Y, Z)),
        (Two(), (X, Y), (X, Y), None),
        (Two(), [X, Y, Z], (X, Y), Z),
        (Two(), ((X, Y), Z), (X, Y), Z),
        (One(), {"x": X}, {"x": X}, None),
        (One(), {"x": X, "label": Z}, {"x": X}, Z),
        (One(), UserDict(x=X, label=Z, weight=Y), {"x": X}, {"label": Z, "weight": Y}),
        (Two(), ({"x1": X, "x2": Y}, Z), {"x1": X, "x2": Y}, Z),
        (Any_(), {"x": X, "label": Z}, {"x": X, "label": Z}, None),
    ],
)
def test_what_goes_into_the_model(model: nn.Module, batch: Any, inputs: Any, targets: Any) -> None:
    found = call(model, batch)
    assert same(found[0], inputs)
    assert same(found[1], targets)


def test_unpack_is_named_where_the_model_fails() -> None:
    (batch,) = batches(One(), [{"image": X, "label": Z}])
    with pytest.raises(fxprune.InputError, match=r"unpack=lambda batch: \(batch\['image'\], batch\['label'\]\)"):
        batch.run(One())


@pytest.mark.parametrize("once", [False, True])
def test_no_batch_is_asked_for_beyond_the_limit(once: bool) -> None:
    """A stream may fail or wait for ever there."""

    class Stream:
        def __iter__(self) -> Iterator[Tensor]:
            yield from [X] * 2
            raise OSError("the stream has ended")

    data = Stream()
    assert len(list(fxprune.Batches(iter(data) if once else data, samples=2 * len(X)))) == 2


def test_a_progress_bar_counts_samples(capsys: pytest.CaptureFixture[str]) -> None:
    data = fxprune.Batches([X] * 5, samples=9, progress=True)
    assert len(list(data)) == 3
    assert len(list(data)) == 3
    assert capsys.readouterr().err == ""  # not on a terminal


def test_data_that_a_scorer_reads_have_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    assert len(list(batches(One(), [X] * 3))) == 3
    alone = capsys.readouterr().err
    assert "reading the data" in alone
    assert f"{3 * len(X)}/?" in alone
    list(batches(One(), fxprune.Batches([X] * 3, progress=True, what="choosing channels")))
    assert "reading the data" not in (own := capsys.readouterr().err)
    assert "choosing channels" in own
    with progress_bar(True):
        list(batches(One(), [X] * 3))
    assert "reading the data" not in capsys.readouterr().err


IMAGES = [torch.zeros(3, 8, 9)] * 5


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (X, len(X)),
        ([IMAGES, [{"boxes": X}] * 5], 5),
        ((IMAGES,), 5),
        (((IMAGES,),), 5),
        ({"images": IMAGES}, 5),
        ([torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)], 4),  # inputs and targets
        (([torch.zeros(4, 2, 8, 8), torch.zeros(4, 2, 4, 4)], X), 4),  # feature maps
        ({"scale": torch.tensor(1.0), "x": torch.zeros(6, 2)}, 6),
        (UserDict(x=torch.zeros(6, 2)), 6),
        ("text", 1),
    ],
)
def test_samples_of_a_batch(batch: Any, count: int) -> None:
    assert samples_of(batch) == count


@pytest.mark.parametrize("once", [False, True])
def test_samples_are_counted_as_they_are_unpacked(once: bool) -> None:
    raw: Any = [{"id": torch.zeros(1), "images": IMAGES}] * 4
    given = fxprune.Batches(iter(raw) if once else raw, lambda batch: (batch["images"],), samples=8)
    for _ in range(2):
        assert [len(images) for (images,) in given] == [5, 5]


class Samples(torch.utils.data.Dataset[Any]):
    """Vectors, each of which could be taken for a batch."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> Any:
        return torch.full((6,), float(i)), 0


def test_a_dataset_is_no_loader() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(fxprune.InputError, match=r"a dataset of samples.*seen: Samples; remedy: give DataLoader"):
        fxprune.prune(model, torch.rand(1, 6), macs=0.5, data=Samples())
    fxprune.prune(model, torch.rand(1, 6), macs=0.5, data=torch.utils.data.DataLoader(Samples(), 32))


def test_small_batches_are_worth_a_word() -> None:
    images = torch.rand(100, 3, 2, 2)
    with pytest.warns(UserWarning, match=r"in batches of 1 samples.*batch_size=32"):
        assert len(list(fxprune.Batches(images.split(1)))) == 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(fxprune.Batches(images[:60].split(1)))  # few
        list(fxprune.Batches(torch.rand(1000, 3, 2, 2).split(8)))


def test_batches_are_short_to_look_at() -> None:
    assert repr(fxprune.Batches([X, Y], samples=1_000)) == "Batches(list, at most 1,000 samples)"
    assert repr(fxprune.Batches(iter([X]))) == "Batches(list)"


def test_empty_batches_are_left_out() -> None:
    assert [b.size for b in batches(One(), [X[:0], X, X[:0]])] == [4]
    with pytest.raises(fxprune.InputError, match="every batch of the data is empty"):
        list(batches(One(), [X[:0]]))


class Loader:
    """Batches that are counted as they are read."""

    def __init__(self, fails_at: int = -1) -> None:
        self.passes, self.read, self.fails_at = 0, 0, fails_at

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for i in range(5):
            self.read += 1
            if i == self.fails_at:
                self.fails_at = -1
                raise KeyboardInterrupt
            yield torch.full((4, 2), float(i))


def test_held_batches_are_read_once() -> None:
    loader = Loader()
    data = fxprune.Batches(loader, lambda batch: batch + 1, samples=15).held()
    part = list(islice(data, 2))  # who needs a few does not read all
    assert (loader.passes, loader.read) == (1, 2)
    whole = list(data)
    assert [float(batch[0, 0]) for batch in whole] == [1.0, 2.0, 3.0, 4.0]
    assert part[0] is whole[0] is next(iter(data.described("again")))
    assert (loader.passes, loader.read) == (1, 4)


def test_held_batches_are_read_anew_after_a_failure() -> None:
    loader = Loader(fails_at=3)
    data = fxprune.Batches(loader).held()
    with pytest.raises(KeyboardInterrupt):
        list(data)
    assert [float(batch[0, 0]) for batch in data] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert loader.passes == 2


def test_pruning_reads_the_data_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    loader = Loader()
    with pytest.warns(UserWarning, match="different inputs"):
        fxprune.prune(net, torch.zeros(1, 2), macs=0.5, data=loader, steps=2)
    assert (loader.passes, loader.read) == (1, 5)
    with pytest.warns(UserWarning, match="different inputs"):
        fxprune.prune(net, torch.zeros(1, 2), macs=0.5, data=loader, repair=False)
    assert loader.passes > 2
