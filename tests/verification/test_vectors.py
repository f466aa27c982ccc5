"""Vectors that are made all at once hold what each would hold by itself."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxprune.module.isolation import isolated
from fxprune.verification.vectors import cut, drawn, is_vector, masked

VECTORS = {
    "a": torch.tensor([1.0, 2, 3, 4]),
    "wide": torch.tensor([5.0, 6, 7], dtype=torch.float64),
    "b": torch.tensor([8.0, 9, 10]),
    "none": torch.empty(0),
}
KEPT = {"a": np.array([3, 0]), "wide": np.array([1]), "b": np.array([], dtype=int)}


def as_lists(vectors: dict[str, Tensor]) -> dict[str, list[float]]:
    return {name: vector.tolist() for name, vector in vectors.items()}


def test_what_goes_is_zero_in_the_masked_ones() -> None:
    made = masked(VECTORS, KEPT)
    assert as_lists(made) == {"a": [1, 0, 0, 4], "wide": [0, 6, 0], "b": [0, 0, 0], "none": []}
    assert {name: v.dtype for name, v in made.items()} == {name: v.dtype for name, v in VECTORS.items()}


def test_what_stays_is_cut_in_its_order() -> None:
    assert as_lists(cut(VECTORS, KEPT)) == {"a": [4, 1], "wide": [6], "b": [], "none": []}


@pytest.mark.parametrize("make", [masked, cut])
def test_nothing_that_was_given_is_written_to(make: object) -> None:
    before = {name: vector.clone() for name, vector in VECTORS.items()}
    for vector in make(VECTORS, {}).values():  # type: ignore[operator]
        vector.add_(1)
    assert as_lists(VECTORS) == as_lists(before)
    assert make({}, {}) == {}  # type: ignore[operator]


def test_drawn_numbers_are_those_of_each_in_its_type() -> None:
    units = {name: torch.rand(len(vector), dtype=torch.float64) for name, vector in VECTORS.items()}
    for name, vector in drawn(VECTORS, units).items():
        assert torch.equal(vector, units[name].to(VECTORS[name].dtype) + 0.5)


def test_vectors_of_parameters_are_drawn_and_no_others() -> None:
    layer = nn.BatchNorm2d(3)
    found = {name for name, t in [*layer.named_parameters(), *layer.named_buffers()] if is_vector(t)}
    assert found == {"weight", "bias"}
    assert not is_vector(nn.Parameter(torch.ones(1)))


def test_a_copy_holds_what_stands_for_its_tensors_wherever_these_are() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net[1].twice = net[0].weight
    net[1].register_parameter("again", net[0].weight)
    own = {id(t): torch.zeros_like(t) for t in net.state_dict(keep_vars=True).values()}
    with isolated(net, replaced=own) as work:
        other = own[id(net[0].weight)]
        assert work[0].weight is other
        assert work[1].twice is other
        assert work[1].again is other
        assert work[1].running_mean is own[id(net[1].running_mean)]
    assert all(id(t) in own for t in net.state_dict(keep_vars=True).values())
