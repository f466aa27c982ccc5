"""What models and example inputs come in: mappings of other libraries, wrappers for several devices."""

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

import fxprune


class Encoding(UserDict[str, Tensor]):
    """Like the output of a tokenizer: a mapping that is no dict, and has tensors as attributes."""

    def __getattr__(self, name: str) -> Tensor:
        return self.data[name]


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(10, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.b(self.a(self.table(ids) * mask[..., None]).relu())


@pytest.mark.parametrize("kind", [dict, Encoding, MappingProxyType])
def test_mappings_are_keyword_arguments(kind: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    model = Text().eval()
    inputs = kind({"ids": torch.tensor([[1, 2, 3]]), "mask": torch.tensor([[1.0, 1.0, 0.0]])})
    result = fxprune.prune(model, inputs, 0.5)
    assert result.model.a.out_features == 4
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-9
    groups = fxprune.find_groups(fxprune.trace(model, inputs))
    scorer = fxprune.scorers.Fallback(fxprune.scorers.WeightPermutation("absorb"), fxprune.scorers.L2Norm())
    scores = scorer(model, groups, [inputs, inputs])
    assert {name: s.shape for name, s in scores.items()} == {g.name: (g.size,) for g in groups}


@pytest.fixture
def _process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_process_group")
def test_wrappers_for_several_devices_are_refused_with_the_remedy() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    wrapped: Any = nn.parallel.DistributedDataParallel(net)
    for model, where, remedy in (
        (wrapped, "DistributedDataParallel", r"give model\.module, and"),
        (nn.Sequential(wrapped), "0", r"put 0\.module in the place of 0, and"),
    ):
        with pytest.raises(fxprune.InputError, match=rf"devices in {where}; seen: .*; remedy: {remedy}"):
            fxprune.trace(model, torch.zeros(1, 3))
    assert len(fxprune.find_groups(fxprune.trace(wrapped.module, torch.zeros(1, 3)))) == 1


def test_a_mapping_that_is_one_argument_is_told_how() -> None:
    class Matcher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, pair: dict[str, Tensor]) -> Tensor:
            return self.b(self.a(pair["left"] - pair["right"]).relu())  # type: ignore[no-any-return]

    pair = {"left": torch.rand(1, 3, 6, 6), "right": torch.rand(1, 3, 6, 6)}
    with pytest.raises(fxprune.TraceError, match=r"unexpected keyword .*\(mapping,\) is one argument"):
        fxprune.trace(Matcher(), pair)
    assert len(fxprune.find_groups(fxprune.trace(Matcher(), (pair,)))) == 1


def test_an_operator_that_takes_functions_is_no_fault_of_the_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y: Tensor = self.b(torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t + 1, (x,)))
            return y

    with pytest.raises(fxprune.TraceError, match=r"takes functions, .* in Net; seen: .* cond;"):
        fxprune.trace(Net().eval(), torch.rand(1, 3, 8, 8))
