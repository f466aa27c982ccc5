"""Where `benchmarks.planners` works: a trained network, its data in the parts that each step may see, and a meter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import fxprune
from benchmarks.comparison import some
from zoo.augment import shift
from zoo.checkpoints import Metadata, describe
from zoo.checkpoints import load as load_checkpoint
from zoo.data import load as load_data
from zoo.settings import Settings
from zoo.splits import Splits
from zoo.train import accuracy, fit
from zoo.train_recipe import WEIGHTS

BATCH = 128


@dataclass(frozen=True)
class Protocol:
    """What is the same for all contenders on a network.

    Attributes:
        epochs: of fine-tuning.
        images: training images that tuning and statistics see, at most; drawn once and for all.
        tests: test images, at most.
        scored: of `images`, for scores and refits.
        calibrated: of `images`, for BatchNorm's statistics before "before tuning" is measured and before tuning.
        judged: validation images by which a search selects, at most.
        lr: highest learning rate of the tuning.
        batch_size: of the tuning.
        distil: share of the tuning's loss that asks for the original's outputs; 0 does without them.
        mixed_precision: of the tuning, where the processor computes in bfloat16 faster than one number at a time.
    """

    epochs: int
    images: int
    tests: int
    scored: int = 1_024
    calibrated: int = 1_024
    judged: int = 1_000
    lr: float = 0.01
    batch_size: int = 64
    distil: float = 0.9
    mixed_precision: bool = False


# All training images. Chosen on validation images among the settings of `zoo/results/tunings.jsonl`: an unpruned
# network ends no worse than it was.
PROTOCOLS = {"digits": Protocol(epochs=20, images=1_077, tests=360, distil=0.0)}
"""By data set."""
OTHERWISE = Protocol(epochs=1, images=60_000, tests=10_000, batch_size=128, mixed_precision=True)


def _path(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


class _Remembered(nn.Module):
    """A network that knows what it has said to a batch: all contenders of a seed are tuned on the same batches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.outputs: dict[bytes, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        mode = b"mixed" if torch.is_autocast_enabled(images.device.type) else b"whole"
        key = sha256(images.cpu().contiguous().numpy().tobytes()).digest() + mode
        if key not in self.outputs:
            self.outputs[key] = self.network(images)
        return self.outputs[key]


@lru_cache(maxsize=1)
def _loaded(name: str, device: torch.device) -> tuple[nn.Module, Metadata, Splits, _Remembered]:
    model, metadata = load_checkpoint(_path(name))
    splits = load_data(metadata.data, seed=metadata.seed).map(lambda samples: samples.to(device))
    return model.to(device).eval(), metadata, splits, _Remembered(model)


class Lab:
    """A network with its data and a seed for all that is random; each part is loaded when first asked for.

    Args:
        name: of a network of the zoo.
        protocol: None for that of the network's data set.
        seed: of tunings, searches, and the images that statistics are made from.
        device: where the network and its data are.
    """

    def __init__(self, name: str, protocol: Protocol | None = None, seed: int = 0, device: str = "cpu") -> None:
        self.name, self.seed, self._protocol, self.device = name, seed, protocol, torch.device(device)

    @property
    def _loaded(self) -> tuple[nn.Module, Metadata, Splits, _Remembered]:
        return _loaded(self.name, self.device)

    @property
    def model(self) -> nn.Module:
        return self._loaded[0]

    @cached_property
    def protocol(self) -> Protocol:
        return self._protocol or PROTOCOLS.get(describe(_path(self.name)).data, OTHERWISE)

    @cached_property
    def train(self) -> Any:
        return some(self._loaded[2].train, self.protocol.images)

    @cached_property
    def val(self) -> Any:
        return some(self._loaded[2].val, self.protocol.judged)

    @cached_property
    def test(self) -> Any:
        return some(self._loaded[2].test, self.protocol.tests)

    @property
    def example(self) -> Tensor:
        images: Tensor = self.train[:1].images
        return images

    @cached_property
    def groups(self) -> fxprune.Groups:
        return fxprune.find_groups(fxprune.trace(self.model, self.example))

    def batches(self, count: int) -> list[Tensor]:
        """Training images for statistics, drawn by the seed; no batch of one."""
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))[:count]
        return [self.train[r].images for r in rows.split(BATCH) if len(r) > 1]

    def evaluate(self, count: int) -> Callable[[Any], float]:
        """Accuracy on the first of the validation images."""
        part = self.val[:count]
        return lambda model: accuracy(model, part)

    def calibrate(self, model: nn.Module, refitted: bool = False) -> None:
        """Fit BatchNorm's statistics to the pruned model; of a refitted one its outputs stay as they are."""
        (fxprune.absorb_batchnorm if refitted else fxprune.recalibrate_batchnorm)(
            model, self.batches(self.protocol.calibrated)
        )

    def tune(self, model: nn.Module, *, remember: bool = False) -> None:
        """The fine-tuning that every contender gets, in place.

        Args:
            model: the pruned one.
            remember: keep the original's outputs on the batches, which are the seed's. A search does without, as
                its cost counts each of its forwards.
        """
        p, (original, metadata, _, remembered) = self.protocol, self._loaded
        trained = metadata.training
        settings = Settings(p.epochs, lr=p.lr, batch_size=p.batch_size, distil=p.distil, seed=self.seed)
        change = shift(trained.get("shift", 0), trained.get("flip", False))
        teacher = remembered if remember else original
        options: dict[str, Any] = {"mixed_precision": self.precision == "bfloat16", "progress": False}
        fit(model, self.train, settings, augment=change, teacher=teacher if p.distil else None, **options)

    @property
    def precision(self) -> str:
        """Of the tuning. Without AVX-512, a step of ResNet-56 takes ten times as long in bfloat16 as in float32."""
        quick = self.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
        return "bfloat16" if self.protocol.mixed_precision and quick else "float32"

    def tuned(self, model: nn.Module) -> nn.Module:
        """A fine-tuned copy."""
        other = copy.deepcopy(model)
        self.tune(other, remember=True)
        return other

    def left(self, model: nn.Module) -> tuple[float, float]:
        """The parts of MACs and parameters that a pruned model has, by fxprune's count of its own calls."""
        traced = (fxprune.trace(m, self.example) for m in (self.model, model))
        before, after = (fxprune.cost(fxprune.find_groups(graph)) for graph in traced)
        return after.macs / before.macs, after.parameters / before.parameters

    def seeded(self, seed: int) -> Lab:
        """The same lab with another seed."""
        return Lab(self.name, self._protocol, seed, str(self.device))

    def with_protocol(self, **numbers: float | None) -> Lab:
        """The same lab with other numbers; None leaves one as it is."""
        known: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
        return Lab(self.name, replace(self.protocol, **known), self.seed, str(self.device))


class Meter:
    """Counts the images that a network and its pruned copies are run on while the block runs.

    Whatever calls them: searches, scorers, refits, Torch-Pruning. A forward that is stopped early counts as a whole
    one; tracing on meta tensors does not count.

    Args:
        kind: the network's class, which none of its modules has.

    Attributes:
        seen: images in forward passes alone.
        trained: images in training steps.
    """

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind, self.seen, self.trained = kind, 0, 0

    def __enter__(self) -> Meter:
        self._hook = register_module_forward_pre_hook(self._count)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: Any) -> None:
        if type(module) is self.kind and inputs and inputs[0].device.type != "meta":
            if module.training:
                self.trained += len(inputs[0])
            else:
                self.seen += len(inputs[0])
