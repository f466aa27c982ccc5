"""Least-squares refit of the layers of a pruned model that read removed channels, in place or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from torch import Tensor, nn

from fxprune.errors import InputError, PlanError, TraceError, check_model, check_number, check_option
from fxprune.module.batches import batches
from fxprune.module.tensors import tensors_of
from fxprune.optional import progress_bar
from fxprune.plan.plan import Plan
from fxprune.reconstruction.bilinear import Bilinear, bilinear
from fxprune.reconstruction.layers import Layer, apart, find_layers, first_run, or_as_before
from fxprune.reconstruction.mixtures import Moments, mixtures, moments, put, written
from fxprune.reconstruction.original import Original
from fxprune.reconstruction.pair import Pair
from fxprune.reconstruction.readers import read_twice, readers_of, repeated, waves
from fxprune.reconstruction.replay import Tapes
from fxprune.reconstruction.residual_add import CallKey
from fxprune.rewriting.rewrite import check_fit
from fxprune.statistics.gram.collect import Positions, Sampling
from fxprune.statistics.gram.solve import fitted, helpful_ridge, intercept, joined, squared_error, uncentred
from fxprune.statistics.gram.sums import Gram
from fxprune.tracing.trace import trace

Order = Literal["sequential", "at_once"]


@dataclass(frozen=True)
class Refit:
    """One layer's fit.

    Attributes:
        name: of its weight.
        before: squared error with the weights that it had, as a part of the targets' variance, on the given data.
        after: the same with the new weights.
        rows: output positions that counted.
        intercept: the tensor that took the intercept: its bias, or the running mean of the BatchNorm behind it; empty
            where there is no place for one, and the fit goes through zero.
        ridge: that was used; None where the layer stays as it is, as no fit does better on rows that it has not seen.
    """

    name: str
    before: float
    after: float
    rows: int
    intercept: str
    ridge: float | None = 1e-2


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` did.

    Attributes:
        layers: the layers that were fitted, in order.
        skipped: weights that read removed channels, but in no convolution or linear layer that ran, or in one that has
            removed channels for its positions (a layer over tokens).
    """

    layers: tuple[Refit, ...]
    skipped: tuple[str, ...]

    def then(self, later: Reconstruction) -> Reconstruction:
        """Both, of the same layers, one after the other: the errors before are those of the first."""
        before = {r.name: r.before for r in self.layers}
        return replace(later, layers=tuple(replace(r, before=before[r.name]) for r in later.layers))

    def __str__(self) -> str:
        lines = [f"{r.name:40} error {r.before:9.2e} -> {r.after:9.2e}   {r.intercept}" for r in self.layers]
        return "\n".join([*lines, *(f"{name:40} skipped" for name in self.skipped)])


def reconstruct(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    data: Iterable[Any],
    *,
    order: Order = "sequential",
    positions: Positions = 10,
    ridge: float | None = 1e-2,
    memory: int = 2**30,
    seed: int = 0,
    progress: bool = False,
) -> Reconstruction:
    """Fit the layers that read removed channels anew by least squares, so that they give what they gave; in place.

    For a layer with patches X from the pruned model, with all earlier fits, and outputs Y of the original, the new
    weights minimise ‖Y - WX - b‖² + Σ ρ_j ‖W_j - W₀_j‖², layer by layer in execution order, so that each makes up for
    the errors of those before it. Labels are not read. Source: He, Zhang and Sun, Channel Pruning, 2017.

    The intercept b goes to the layer's bias, or else to the running mean of the BatchNorm behind it, which becomes the
    original's less b, also where an earlier fit has changed it; a layer with neither is fitted through zero. Where a
    layer's output (through a BatchNorm) is added to a shortcut that has changed from Y₁ to Y₁', its target is
    Y₁ - Y₁' + Y₂, with Y₂ the original branch, so that the sum is repaired; channels with a scale γ ≈ 0 are left out
    of that. Of two fitted layers that are added, the one that is fitted later does so; of a layer
    that runs again on what it has computed, its first call.

    Where dims of queries and keys are removed, and these meet in products alone (no norm or rotary embedding in
    between), the shorter ones become the mixtures of all dims whose products come nearest to the original's.

    Where a layer runs again on what it has computed itself (a block in a loop), all layers are fitted a second time.

    Args:
        model: the original; untouched.
        small: `fxprune.rewrite(model, plan)`. Only the weights of the fitted layers and what takes their intercepts
            change. Do not re-calibrate before: the targets are in the scale of the original's BatchNorms. Afterwards,
            before a fine-tuning, use `fxprune.absorb_batchnorm`: re-calibration would undo repairs of shortcuts.
        plan: what was removed.
        data: batches of training inputs, or (inputs, targets) as data loaders give them; read several times. A few
            hundred images do where every layer gets several rows for each weight of a kernel.
        order: "sequential" as above: one forward of the pruned model over the data for each layer (or wave of layers
            that do not depend on each other), up to that layer, and one of the original for all of them; for each, if
            the data differ each time. "at_once": X and Y from the original alone, one pass for all layers; each is
            fitted as if all before it were repaired, so that errors add up.
        positions: output positions of each image that count, drawn anew for each layer and image;
            `fxprune.scorers.Informative`: those where the original's outputs vary most over channels; None: all.
        ridge: ρ as a part of the typical Σ(x - μ)². It pulls towards the weights as they are: with few images much is
            gained by 0.01 to 0.1, and with many little is lost. None: for each layer the one whose fits to every other
            batch have the smallest error on the batches between, and no fit where the weights as they are have a
            smaller one; with a single batch 0.01.
        memory: bytes of statistics that are held together, 8·groups·n·(n + outputs) a layer with n weights a kernel;
            layers that do not fit together take a pass each. As much again for what the original gives at the
            positions; layers that do not fit take another pass. As much again for what the pruned model computes
            before the layers that are still to be fitted; batches that do not fit are computed anew in each pass.
            Beside these: the model's activations for one batch, two more copies of the largest layer's statistics, and
            at most 128 MiB of patches.
        seed: of the positions.
        progress: show a progress bar, where the output is a terminal.

    Returns:
        Each layer's error before and after, on the data.

    Raises:
        PlanError: the plan is not of these models.
        InputError: unusable data or settings, or numbers that are not finite. `small` is then as it was.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))  # of 8 linear channels, 4 suffice
    >>> x = torch.randn(64, 4)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> plan = groups.plan({"0": [0, 1, 2, 3]})
    >>> small = fxprune.rewrite(net, plan)
    >>> done = fxprune.reconstruct(net, small, plan, [x], ridge=0)
    >>> done.layers[0].name, done.layers[0].after < 1e-9 < done.layers[0].before, done.layers[0].intercept
    ('1.weight', True, '1.bias')
    >>> torch.allclose(net(x), small(x), atol=1e-5)
    True
    """
    _check_settings(order, ridge, memory)
    _check_models(model, small, plan)
    check_repeatable(data)
    fitter = Fitter.of(model, readers_of(plan), data, Sampling(positions, seed), memory)
    return fitter.fit(small, plan, order, ridge, progress)


@dataclass(frozen=True, eq=False)
class Fitter:
    """Fits pruned models of one original on the same data; what the original gives is computed once for all.

    Attributes:
        original: the original.
        waves: the weights of the layers that may be fitted, in waves that do not depend on each other.
        data: batches, that can be read again and again.
        pairs: rows that meet in products alone, such as queries and keys.
        memory: as for `reconstruct`.
        repeated: the weights of layers that run again on what they have computed themselves.
        read_twice: the weights of layers whose outputs are read by several ops.
    """

    original: Original
    waves: Sequence[Sequence[str]]
    data: Iterable[Any]
    pairs: Sequence[Bilinear] = ()
    memory: int = 2**30
    repeated: Set[str] = frozenset()
    read_twice: Set[str] = frozenset()

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Of what the original's layers give for these."""
        return moments(self.original.model, self.pairs, self.data)

    @classmethod
    def of(
        cls, model: nn.Module, weights: Iterable[str], data: Iterable[Any], sampling: Sampling, memory: int = 2**30
    ) -> Fitter:
        """Of the layers of the given weights."""
        first = next(iter(batches(model, data)))
        try:
            graph = trace(model, first.inputs[0] or first.inputs[1])
        except TraceError:
            first_run(model, set(), first)  # fails with an error that names the batch
            raise
        ordered = waves(graph, weights)
        names = [name for wave in ordered for name in wave]
        original = Original(model, names, sampling.over(data), memory)
        return cls(original, ordered, data, bilinear(graph), memory, repeated(graph, names), read_twice(graph, names))

    def fit(
        self, small: nn.Module, plan: Plan, order: Order, ridge: float | None, progress: bool = False
    ) -> Reconstruction:
        """Fit the layers of a pruned model; arguments as for `reconstruct`.

        Where a layer runs again on what it has computed, its inputs follow its own fit, and those of layers in between:
        all are fitted once more.
        """
        done = self._sweep(small, plan, order, ridge, progress)
        if order == "sequential" and any(r.name in self.repeated for r in done.layers):
            return done.then(self._sweep(small, plan, order, ridge, progress))
        return done

    def _sweep(self, small: nn.Module, plan: Plan, order: Order, ridge: float | None, progress: bool) -> Reconstruction:
        readers, parts = readers_of(plan), 2 if ridge is None else 1
        run = first_run(small, readers.keys(), next(iter(batches(small, self.data))))
        layers, events = find_layers(run, self.original.model, small, plan), tuple(run.events)
        ordered = [found for names in self.waves if (found := [name for name in names if name in layers])]
        wave = {name: i for i, names in enumerate(ordered) for name in names}

        def repairs(call: CallKey, partner: str | None) -> bool:
            """Behind an earlier call of its own a shortcut changes with the fit, and what it lacks now counts twice."""
            again = call[0] in self.repeated and call[1] > 0
            after = partner is None or wave.get(partner, -1) < wave[call[0]]
            return after and not again and call[0] not in self.read_twice

        mixed = mixtures(self.original.model, self.pairs, lambda: self.moments, plan)
        pair = Pair(self.original, small, readers, self.data, repairs, Tapes(self.memory), events, mixed, apart(layers))
        done: list[Refit] = []
        passes = list(_passes(ordered, layers, order, self.memory))
        with or_as_before(small, layers, written(mixed)):
            put(self.original.model, small, plan, mixed)
            left = {name: layer.place for name, layer in layers.items()}
            for names in _shown(passes) if progress else passes:
                pending = {t for both in left.items() for t in both if t}
                grams = pair.current(names, parts, pending) if order == "sequential" else pair.at_once(names, parts)
                left = {name: place for name, place in left.items() if name not in names}
                done += [_refit(small, layers[name], grams[name], ridge) for name in wave if name in grams]
        return Reconstruction(tuple(done), tuple(readers.keys() - {r.name for r in done}))


def _shown(passes: Sequence[set[str]]) -> Iterator[set[str]]:
    """The passes, with a progress bar where the output is a terminal."""
    with progress_bar() as bar:
        yield from bar.track(passes, description="fitting layers")


def _passes(
    ordered: Sequence[Sequence[str]], layers: Mapping[str, Layer], order: Order, memory: int
) -> Iterator[set[str]]:
    """The layers that are fitted from one pass over the data."""
    for together in ordered if order == "sequential" else [[name for names in ordered for name in names]]:
        names, held = set[str](), 0
        for name in together:
            if names and held + layers[name].bytes() > memory:
                yield names
                names, held = set(), 0
            names.add(name)
            held += layers[name].bytes()
        yield names


def _refit(small: nn.Module, layer: Layer, parts: list[Gram], ridge: float | None) -> Refit:
    start, offset, gram = layer.kernels(), layer.offset(), joined(parts)
    own = [p if layer.place else uncentred(replace(p, y_mean=p.y_mean - offset)) for p in parts]
    sums = own[0] if len(own) == 1 else joined(own)
    chosen = ridge if ridge is not None else _best_ridge(own, start, offset * bool(layer.place))
    weights = start if chosen is None else fitted(sums, start, chosen)
    bias = intercept(gram, weights) if layer.place and chosen is not None else offset
    before, after = (squared_error(gram, w, b) for w, b in ((start, offset), (weights, bias)))
    total = float(gram.yy.sum()) or 1.0
    layer.put(small, weights, bias)
    return Refit(layer.name, before / total, after / total, gram.rows, layer.place, chosen)


def _best_ridge(parts: Sequence[Gram], start: Tensor, offset: Tensor) -> float | None:
    """The ridge of smallest error on rows that a fit has not seen; that of `reconstruct` where there is one batch.

    None where the weights as they are do best on such rows, as with a few inputs.
    """
    if len(parts) < 2:
        return 1e-2
    return helpful_ridge(parts, start, offset)


def _check_settings(order: Order, ridge: float | None, memory: int) -> None:
    check_option("order", order, get_args(Order))
    if ridge is not None:
        check_number("the ridge", ridge, "[0, inf)", "0.01 is usual")
    check_number("memory", memory, "(0, inf)", "give a number of bytes, such as 2**30")


def _check_models(model: nn.Module, small: nn.Module, plan: Plan) -> None:
    check_fit(model, plan)
    check_model("the pruned model", small)
    cuts, tensors = plan.cuts(), tensors_of(small)
    for name, shape in plan.shapes.items():
        wanted = tuple(len(cuts.get(name, {}).get(d, range(n))) for d, n in enumerate(shape))
        seen = tuple(tensors[name].shape) if name in tensors else None
        if seen != wanted:
            raise PlanError(
                "the pruned model is not what the plan makes of the original",
                where=name,
                seen=f"{seen}, not {wanted}",
                remedy="give fxprune.rewrite(model, plan) as the pruned model",
            )


def check_repeatable(data: Iterable[Any]) -> None:
    """Refuse data that one pass uses up."""
    if isinstance(data, Iterable) and iter(data) is data:
        raise InputError(
            "the data can be read only once", seen=type(data).__name__, remedy="give a list of batches or a data loader"
        )
