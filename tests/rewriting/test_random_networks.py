"""The oracle on random networks."""

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from oracle import check
from random_nets import OPS, Gene, build, genes, inputs

import fxprune

ANALYSED = 20
ratios = st.sampled_from([0.2, 0.5, 0.8])


def examine(chosen: Sequence[Gene], ratio: float) -> None:
    check(lambda: build(chosen), inputs, ratio)


@settings(max_examples=15)
@given(genes, ratios)
def test_random_networks(chosen: Sequence[Gene], ratio: float) -> None:
    examine(chosen, ratio)


@pytest.mark.slow
@settings(max_examples=600)
@given(genes, ratios)
def test_many_random_networks(chosen: Sequence[Gene], ratio: float) -> None:
    examine(chosen, ratio)


def test_random_networks_have_something_to_prune() -> None:
    """The strategy is worth its time: most networks have groups, some share them, and every op takes part."""
    sizes: list[int] = []
    used: Counter[str] = Counter()

    @settings(max_examples=160)
    @given(genes)
    def collect(chosen: Sequence[Gene]) -> None:
        if len(sizes) < ANALYSED:
            sizes.append(len(fxprune.find_groups(fxprune.trace(build(chosen), inputs(1)))))
        used.update(op for op, *_ in chosen)

    collect()
    assert sum(n > 1 for n in sizes) > len(sizes) / 2
    assert set(used) == set(OPS)
