"""Settings that all tests share: one thread, a deterministic hypothesis profile.

`FXPRUNE_TEST_DEVICE=cuda` makes tensors and models on the GPU wherever a test does not name a device.
"""

import atexit
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

import fxprune  # noqa: F401  # before pytest collects doctests: it would load the package a second time

torch.set_num_threads(1)
# `torch.manual_seed` formats the stack three times for accelerators that may be put to use later.
for accelerator in (torch.cuda, torch.xpu, torch.mtia):
    if not accelerator.is_available():
        accelerator.manual_seed_all = lambda seed: None
gc.disable()  # until all tests are collected
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a job that a shell has put into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name, examples in (("fxprune", 50), ("thorough", 1000)):  # tools/test --hypothesis-profile=thorough
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
hypothesis.settings.load_profile("fxprune")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; run with -m slow")
    config.addinivalue_line(
        "markers", "one_in(n): of the product of a test's tables one case in n, the others are slow"
    )


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a test takes each value of one table with each of another, the default run takes a part of the pairs.

    Each value of either table stays in it, as in a Latin square.
    """
    for item in items:
        sampled = item.get_closest_marker("one_in")
        if sampled is not None and sum(map(partial(_place, item), item.iter_markers("parametrize"))) % sampled.args[0]:
            item.add_marker(pytest.mark.slow)


def _place(item: Any, table: pytest.Mark) -> int:
    """Where in the table the value lies that a case takes."""
    names, values = table.args
    several = not isinstance(names, str) or "," in names
    wanted = item.callspec.params[(names.split(",") if isinstance(names, str) else names)[0].strip()]
    for place, value in enumerate(values):
        row = value.values if isinstance(value, type(pytest.param())) else value if several else (value,)
        if row[0] is wanted:
            return place
    raise LookupError(f"{item.nodeid}: {wanted}")


def pytest_collection_finish() -> None:
    """Thousands of tests, PyTorch and what it imports live as long as the process: no collection need look at them."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is still held at exit, nanobind (of triton) reports as leaked
    gc.set_threshold(20_000)  # a model makes thousands of objects in a moment; the default looks after each 700
    gc.enable()


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """No test depends on the tests before it, and all run on the default device of `FXPRUNE_TEST_DEVICE`.

    Libraries that a test imports (ultralytics) change how arrays are printed, also in doctests of this process.
    """
    torch.manual_seed(0)
    printed = np.get_printoptions()
    with torch.device(device) if (device := os.environ.get("FXPRUNE_TEST_DEVICE")) else nullcontext():
        yield
    np.set_printoptions(**printed)
    torch.set_printoptions(profile="default")
