"""Weight-permutation importance by sampling: for distances that have no closed form, and for comparison."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import check_integer, check_option, check_seed
from fxprune.scorers.base import Scores, require_producers
from fxprune.scorers.changes import Rescaling, Sums, WeightDim, check_scale, shares_of_producers
from fxprune.scorers.distances import cosine, squared, ssim
from fxprune.statistics.observe import Contraction, observe

Draw = Literal["permute", "reinit"]
MapDistance = Literal["squared", "relative", "cosine", "ssim"]


@dataclass(frozen=True)
class SampledPermutation:
    """How far a layer's feature maps move when the weights of their kernels are put in random order, by sampling.

    All kernels of a layer are changed at once, which is as good as one by one, since an output channel depends on its
    own kernel alone: each draw costs one more run of the layer. With the squared and relative distances this
    converges to `WeightPermutation`, which is exact and cheaper.

    Source: Huang (master's thesis, USTB 2023); cosine and SSIM distances are named there as future work.

    Attributes:
        change: "permute", or "reinit" from PyTorch's default distribution, uniform in ±1/√n.
        distance: "squared", Σ (y - y')² per sample; "relative", the same over Σ (y - b)²; "cosine", 1 - cos of the
            angle between the maps y - b and y' - b; "ssim", 1 - structural similarity of these maps. The last two are
            averaged over samples; the rows of a linear layer's call are the positions of one map.
        samples: draws for each batch of data.
        seed: of the draws, and of the standard normal inputs that are used when no data is given. A layer's draws do
            not depend on which other layers are scored.
        scale: as for `WeightPermutation`; for the squared distance only, as the others do not depend on scale.

    Raises:
        InputError: an option out of range, no batch in `data`, or a group that no convolution or linear layer makes.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 1.0], [3.0, -3.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> score = fxprune.scorers.SampledPermutation(samples=20)
    >>> score(net, groups, [torch.tensor([[2.0, 1.0]])])["0"] > 1e-6  # the order of equal weights says nothing
    tensor([False,  True])
    """

    change: Draw = "permute"
    distance: MapDistance = "squared"
    samples: int = 4
    seed: int = 0
    scale: Rescaling = None

    def __post_init__(self) -> None:
        check_option("change of a kernel", self.change, get_args(Draw))
        check_option("distance", self.distance, get_args(MapDistance))
        check_option("scale", self.scale, ("bn", None))
        check_integer("the number of samples", self.samples, 1, "4 is usual")
        check_seed(self.seed)
        check_scale(self.scale, self.distance)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        check_groups(groups, model)
        require_producers(groups)
        sums, generators = Sums(), dict[WeightDim, np.random.Generator]()

        def add(seen: Contraction) -> None:
            layer = (seen.name, seen.dim)
            if layer not in generators:
                generators[layer] = np.random.default_rng(zlib.crc32(f"{self.seed} {layer}".encode()))
            sums.add(seen, self._measure(seen, generators[layer]))

        samples = observe(model, groups.graph, data, {s.tensor for g in groups for s in g.producers}, add, self.seed)
        changes = {layer: self._finish(found, samples) for layer, found in sums.items()}
        return shares_of_producers(groups, changes, self.scale)

    def _measure(self, seen: Contraction, generator: np.random.Generator) -> dict[str, Tensor]:
        before = _maps(seen, seen.output if seen.bias is None else seen.output - _beside(seen.bias, seen.output))
        measure = {"cosine": cosine, "ssim": ssim}.get(self.distance, squared)
        changed = torch.zeros(before.shape[1], dtype=torch.float64, device=before.device)
        for _ in range(self.samples):
            after = _maps(seen, seen.respond(_DRAWS[self.change](seen.kernels(), generator)))
            changed += measure(before, after).sum(0, dtype=torch.float64) / self.samples
        found = {"change": changed, "maps": torch.tensor(float(len(before)), dtype=torch.float64)}
        if self.distance == "relative":
            found["energy"] = squared(before, torch.zeros_like(before)).sum(0, dtype=torch.float64)
        return found

    def _finish(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        change = found["change"]
        if self.distance == "relative":
            return torch.where(found["energy"] > 0, change / found["energy"], torch.zeros_like(change))
        return change / (samples if self.distance == "squared" else found["maps"])


def _maps(seen: Contraction, y: Tensor) -> Tensor:
    """A layer's output as maps (batch, channels, *positions), at least float32."""
    y = y if seen.options is not None else y.t()[None]
    return y.float() if y.dtype in (torch.float16, torch.bfloat16) else y


def _beside(bias: Tensor, y: Tensor) -> Tensor:
    return bias.view(-1, *[1] * (y.dim() - 2))


def _permuted(kernels: Tensor, generator: np.random.Generator) -> Tensor:
    values = kernels.cpu().double() if kernels.dtype == torch.bfloat16 else kernels.cpu()
    return torch.from_numpy(generator.permuted(values.numpy(), axis=2)).to(kernels)


def _redrawn(kernels: Tensor, generator: np.random.Generator) -> Tensor:
    bound = kernels.shape[2] ** -0.5
    return torch.from_numpy(generator.uniform(-bound, bound, kernels.shape)).to(kernels)


_DRAWS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {"permute": _permuted, "reinit": _redrawn}
