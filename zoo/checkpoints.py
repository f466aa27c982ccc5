"""Trained weights in one safetensors file whose header says what they are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

import fxprune
from zoo.errors import ZooError
from zoo.files import write
from zoo.footprints import own_randomness
from zoo.networks import build

_KEY = "zoo"


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself; everything is plain data and kept as JSON.

    Args:
        network: name in ``zoo.networks.NETWORKS``.
        arguments: what that network was built with.
        data: name for ``zoo.data.load``.
        seed: of the split, the initial weights and the training.
        recipe: name of the recipe, "" without one.
        epochs: epochs trained.
        val_accuracy: in [0, 1], after the last epoch.
        test_accuracy: in [0, 1], measured once, after the last epoch.
        training: remaining settings of the run, for the reader.
        commit: git commit of the code, None if it is not known.
        plan: JSON of the ``fxprune.Plan`` that the network is cut by, None if it is whole.
    """

    network: str
    arguments: Mapping[str, Any]
    data: str
    seed: int
    recipe: str
    epochs: int
    val_accuracy: float
    test_accuracy: float
    training: Mapping[str, Any]
    commit: str | None
    plan: str | None = None


def save(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write weights, buffers and ``metadata`` to ``path``; an old file is replaced whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write(path, serialise(tensors, metadata={_KEY: json.dumps(asdict(metadata))}))


def load(path: Path) -> tuple[nn.Module, Metadata]:
    """The network at ``path`` in evaluation mode on the CPU, and what the file says of it.

    Raises:
        ZooError: no such file, it is truncated or not a checkpoint of the zoo, or its weights do not fit the
            network that it names.
    """
    metadata, tensors = _read(path)
    try:
        with own_randomness(torch.device("cpu")):  # fresh weights are drawn only to be overwritten
            model = build(metadata.network, metadata.arguments)
        if metadata.plan:
            model = fxprune.rewrite(model, fxprune.Plan.from_json(metadata.plan, "its plan"))
        model.load_state_dict(tensors)
    except (ValueError, RuntimeError, fxprune.FxpruneError) as error:
        raise ZooError(f"{path}: its weights do not fit its network ({error}); train it again") from error
    return model.eval(), metadata


def describe(path: Path) -> Metadata:
    """What the file at ``path`` says of itself; its network is not built. Raises as ``load`` does."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Metadata, dict[str, Tensor]]:
    if not path.is_file():
        raise ZooError(f"{path}: no such file; 'python -m zoo list' names the recipes that make one")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise ZooError(
            f"{path}: not a whole safetensors file ({error}); restore it or train the recipe again"
        ) from error
    return _metadata(path, header), tensors


def _metadata(path: Path, header: Mapping[str, str]) -> Metadata:
    if _KEY not in header:
        raise ZooError(
            f"{path}: its header has no {_KEY!r} entry, so another program wrote it; see zoo.checkpoints.save"
        )
    try:
        return Metadata(**json.loads(header[_KEY]))
    except (TypeError, ValueError) as error:
        raise ZooError(
            f"{path}: its header does not describe a checkpoint ({error}); train the recipe again"
        ) from error
