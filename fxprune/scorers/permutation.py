"""Weight-permutation importance in closed form: the exact expectation, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import check_option, check_seed
from fxprune.scorers.base import Scores, require_producers
from fxprune.scorers.changes import Rescaling, Sums, WeightDim, check_scale, shares_of_producers
from fxprune.scorers.patches import (
    mean_and_spread,
    patch_energy,
    patch_sums,
    residual_squares,
    response_sums,
    squares_of,
)
from fxprune.statistics.observe import Contraction, observe

Change = Literal["permute", "reinit", "zero", "absorb"]
Distance = Literal["squared", "relative"]
Inputs = Literal["data", "noise"]
Kernels: TypeAlias = dict[WeightDim, tuple[Tensor, Tensor]]  # what is known of weights that were seen before


@dataclass(frozen=True)
class WeightPermutation:
    """How much a layer's output changes when the weights of one of its kernels are put in random order.

    For kernel w with n weights and patches x_p, with w̄ = mean(w), c = w - w̄·1, S_p = Σ x_p and
    T = Σ_p (‖x_p‖² - S_p²/n), the expectation over all permutations P is

        D = E Σ_p (w·x_p - Pw·x_p)² = Σ_p (c·x_p)² + ‖c‖²·T/(n - 1),    c·x_p = y_p - b - w̄·S_p,

    per sample. S_p and T need sums over the layer's input only, one for all kernels, so that all channels of all layers
    cost one forward pass and a few sums. Where a group has several producers, a channel's score is the mean of its
    shares of each, mean_m D_i^m / Σ_j D_j^m; producers that do not run on the data do not count.

    Source: weight-permutation importance after Huang (master's thesis, USTB 2023); the closed form is fxprune's own.

    Attributes:
        change: what happens to the kernel: "permute"; "reinit", drawn anew from PyTorch's default distribution
            (variance 1/(3n)); "zero"; "absorb", zeroed with its mean response absorbed by the next layer.
        seed: of the standard normal inputs that are used when no data is given.
        scale: "bn" multiplies D by γ²/(σ² + ε) of the batch norm that directly follows the layer, where there is one:
            the change after the norm, which no longer depends on the scale of the weights before it.
        distance: "squared", D itself; "relative", D/Σ(y - b)², the part of the response's energy that changes; the bias
            b, which no order of the weights touches, is left out (a choice of fxprune; published is D/Σy²).
        inputs: "data", what each layer reads when the model runs on the data; "noise", standard normal numbers of the
            same shape fed to each layer itself, as the thesis does for comparison: the score then tells the weights'
            variance, Σ (w - w̄)², but for the noise.

    Raises:
        InputError: an unknown option, no batch in `data`, or a group that no convolution or linear layer makes.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1., 1.], [0., 1.], [3., 0.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.WeightPermutation()(net, groups, [torch.tensor([[2., 1.], [1., 0.]])])
    {'0': tensor([0.0000, 0.1000, 0.9000], dtype=torch.float64)}
    """

    change: Change = "permute"
    seed: int = 0
    scale: Rescaling = None
    distance: Distance = "squared"
    inputs: Inputs = "data"

    def __post_init__(self) -> None:
        check_option("change of a kernel", self.change, get_args(Change))
        check_option("scale", self.scale, ("bn", None))
        check_option("distance", self.distance, get_args(Distance))
        check_option("inputs of layers", self.inputs, get_args(Inputs))
        check_scale(self.scale, self.distance)
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        check_groups(groups, model)
        require_producers(groups)
        sums, known = Sums(), Kernels()
        drawn = torch.Generator().manual_seed(self.seed)

        def add(seen: Contraction) -> None:
            if self.inputs == "noise":
                seen = _fed_with_noise(seen, drawn)
            sums.add(seen, _CHANGES[self.change](seen, known))
            if self.distance == "relative":
                sums.add(seen, {"energy": residual_squares(seen)})

        samples = observe(model, groups.graph, data, {s.tensor for g in groups for s in g.producers}, add, self.seed)
        changes = {layer: self._finish(found, samples) for layer, found in sums.items()}
        return shares_of_producers(groups, changes, self.scale)

    def _finish(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        """D of each output channel from sums over all calls, of shape (channels,)."""
        change = found["change"]
        if "first" in found:
            change = (change - found["first"].square() / found["terms"]).clamp(min=0)
        if self.distance == "relative":
            return torch.where(found["energy"] > 0, change / found["energy"], torch.zeros_like(change))
        return change / samples


def _fed_with_noise(seen: Contraction, generator: torch.Generator) -> Contraction:
    """The call as it would be on standard normal inputs; without the bias, which no change of a kernel touches."""
    x = torch.randn(seen.x.shape, generator=generator).to(seen.x)
    fed = replace(seen, x=x, bias=None)
    return replace(fed, output=fed.respond(seen.kernels()))


def _permute(seen: Contraction, known: Kernels) -> dict[str, Tensor]:
    n = seen.kernels().shape[2]
    if n == 1:
        return {"change": torch.zeros(seen.output.shape[1], dtype=torch.float64, device=seen.output.device)}
    if (seen.name, seen.dim) not in known:
        known[seen.name, seen.dim] = mean_and_spread(seen.kernels())
    mean, centred = known[seen.name, seen.dim]
    sums = patch_sums(seen)
    spread = (patch_energy(seen) - squares_of(sums) / n).clamp(min=0)  # equal inputs: rounding only
    return {"change": residual_squares(seen, mean, sums) + (centred * spread[:, None] / (n - 1)).flatten()}


def _reinit(seen: Contraction, _: Kernels) -> dict[str, Tensor]:
    groups, per_group, n = seen.kernels().shape
    fresh = patch_energy(seen)[:, None].expand(groups, per_group) / (3 * n)
    return {"change": residual_squares(seen) + fresh.flatten()}


def _zero(seen: Contraction, _: Kernels) -> dict[str, Tensor]:
    return {"change": residual_squares(seen)}


def _absorb(seen: Contraction, _: Kernels) -> dict[str, Tensor]:
    """The sum of squares and the sum; the variance follows when all batches are in."""
    first, terms = response_sums(seen)
    return {"change": residual_squares(seen), "first": first, "terms": torch.tensor(terms, dtype=torch.float64)}


_CHANGES: dict[str, Callable[[Contraction, Kernels], dict[str, Tensor]]] = {
    "permute": _permute,
    "reinit": _reinit,
    "zero": _zero,
    "absorb": _absorb,
}
