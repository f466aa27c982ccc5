"""Leave no footprints: put a model, its device and the random generators back as they were found."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

Device = torch.device | str | None
"""A device or its name; None is where the model is."""


@contextmanager
def isolated(model: nn.Module, device: Device, *, training: bool) -> Iterator[torch.device]:
    """Within the block ``model`` is on ``device`` and in the mode ``training``; yields the device.

    Afterwards, also on failure, it is back where it was and each of its modules in the mode that it had.
    """
    home = _device(model)
    modes = [(module, module.training) for module in model.modules()]
    target = home if device is None else torch.device(device)
    try:
        model.to(target).train(training)
        yield target
    finally:
        model.to(home)
        for module, mode in modes:
            module.training = mode


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """If the block fails or is interrupted, the weights and buffers of ``model`` are those from before it."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    except BaseException:  # KeyboardInterrupt is the usual one
        model.load_state_dict(before)
        raise


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Whatever the block draws or seeds, the global generators of the CPU and ``device`` are as before it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global generators of the CPU and ``device``, which dropout and initialisation draw from."""
    # torch.manual_seed would seed every GPU, also those that `own_randomness` does not put back.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
