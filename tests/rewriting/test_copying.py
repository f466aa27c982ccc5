"""Copies of models that hold what `copy.deepcopy` refuses."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import fxprune
from fxprune.rewriting.copying import copied

X = torch.randn(1, 3, 6, 6)


class Scales(nn.Module):
    """Goes over views of its dict of layers, which it holds at three depths."""

    def __init__(self, kind: type = dict) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 6, 1), "c": nn.Conv2d(6, 2, 1)})
        self.names = self.layers.keys()
        self.table = kind(self.layers._modules)
        self.held = [(self.table.items(),), {"values": self.table.values()}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (items,), values = self.held
        layers = {name: layer for name, layer in items if layer in values["values"]}
        for name in self.names:
            x = torch.relu(layers[name](x))
        return x


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_view_of_a_dict_becomes_one_of_the_copied_dict(kind: type) -> None:
    model = Scales(kind)
    made = copied(model)
    assert isinstance(made.names, type(model.names))
    assert list(made.names) == ["a", "b", "c"]
    made.layers["d"] = nn.Identity()
    assert list(made.names) == ["a", "b", "c", "d"]
    assert list(model.names) == ["a", "b", "c"]
    (items,), values = made.held
    assert [type(v) for v in (items, values["values"])] == [type(kind().items()), type(kind().values())]
    assert [layer for _, layer in items] == [made.layers[k] for k in "abc"] == list(values["values"])


def test_layers_that_are_reached_through_views_are_pruned() -> None:
    model = Scales()
    result = fxprune.prune(model, X, 0.5)
    assert [tuple(w.shape[:2]) for k, w in result.model.named_parameters() if "weight" in k] == [(4, 3), (3, 4), (2, 3)]
    assert result.report.deviation is not None
    assert result.report.deviation < 1e-6
    assert model(X).shape == result.model(X).shape


class Odd:
    """An object that refuses to be copied in a way of its own."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise self.error


@pytest.mark.parametrize("make", [torch.futures.Future, *(lambda e=e: Odd(e("no")) for e in (ValueError, KeyError))])
def test_what_refuses_to_be_copied_is_named(make: Callable[[], Any]) -> None:
    model = Scales()
    model.layers["a"].held = [make()]
    with pytest.raises(fxprune.InputError, match=r"what cannot be copied in layers\.a\.held; seen: .*; remedy: take"):
        copied(model)


def test_an_error_that_no_attribute_explains_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: nn.Module, memo: dict[int, Any]) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", fail)
    with pytest.raises(MemoryError, match="no room"):
        copied(nn.Linear(2, 2))


def test_graph_modules_keep_their_modes() -> None:
    """Their copies forget them; torchvision's extractors have a graph for each mode besides."""
    extractor = create_feature_extractor(torchvision.models.resnet18(), {"layer1": "first"}).eval()
    extractor.get_submodule("layer1.0.bn1").train()
    modes = {name: module.training for name, module in extractor.named_modules()}
    x = torch.rand(2, 3, 32, 32)
    result = fxprune.prune(extractor, x, pruning_ratio=0.5)
    assert {name: module.training for name, module in result.model.named_modules()} == modes
    assert {name: module.training for name, module in copied(extractor).named_modules()} == modes
