"""Products of tensors, each written as a formula of `torch.einsum`, from which all else follows.

Dims of one letter are equated. A letter that the result lacks is summed over. MACs are the product of all letters'
lengths. An argument may be a weight where one of its letters is summed over, one is its own, and no other is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from torch import Tensor, fx

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Axes, Call, Env
from fxprune.analysis.ops.pointwise import pointwise
from fxprune.analysis.ops.spec import Length, LinearProduct, OpSpec, Weight
from fxprune.analysis.ops.terms import Term, Terms
from fxprune.analysis.ops.zeros import MaskedCall
from fxprune.errors import InputError

_REST = "..."


@dataclass(frozen=True)
class Product:
    """A product of tensors, plus a bias.

    Attributes:
        formula: as for `torch.einsum`: one letter a dim; `...` stands for further leading dims of the first factor and
            of the result.
        first: number of the argument that is the first factor; the others follow it.
        bias: number of the argument that is added, aligned with the last dims of the result; None: there is none.
    """

    formula: str
    first: int = 0
    bias: int | None = None

    def __post_init__(self) -> None:
        if self.formula.count("->") != 1 or not self._is_product():
            remedy = "write it as torch.einsum has it, '...' in the first factor and the result only: '...i,oi->...o'"
            raise InputError("the formula is not a product of tensors", seen=repr(self.formula), remedy=remedy)

    def _is_product(self) -> bool:
        """Whether all is letters, each once in a term, and the result's are those of factors."""
        first, *others = (self.factors[0].removeprefix(_REST), *self.factors[1:])
        terms = [first, *others, self.result.removeprefix(_REST)]
        once = all(len(set(t)) == len(t) and (t.isalpha() or not t) for t in terms)
        return once and set(terms[-1]) <= {*"".join((first, *others))}

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The letters of each factor."""
        return tuple(self.formula.replace(" ", "").partition("->")[0].split(","))

    @cached_property
    def result(self) -> str:
        """The letters of the result."""
        return self.formula.replace(" ", "").partition("->")[2]

    def arguments(self) -> range:
        """The numbers of the arguments that are factors."""
        return range(self.first, self.first + len(self.factors))

    def labels(self, call: Call, *args: Any, **_: Any) -> list[Dim]:
        factors = [args[i] for i in self.arguments()]
        places = _places(self.factors, tuple(map(len, factors)))
        dims = {letter: self._united(call, factors, where) for letter, where in places.items()}
        names = _named(self.result, len(call.shape))
        self._note_sums(call, factors, {letter: where for letter, where in places.items() if letter not in names})
        result = [dims[name] if n > 1 else None for name, n in zip(names, call.shape, strict=True)]
        bias = args[self.bias] if self.bias is not None and len(args) > self.bias else None
        return result if bias is None else pointwise(call, Axes(call.lab, call.shape, result), bias)

    @staticmethod
    def _united(call: Call, factors: Sequence[Axes], where: Sequence[tuple[int, int]]) -> Dim:
        (k, i), *others = where
        dim = factors[k].known(i)
        for other, j in others:
            dim = call.lab.unite(factors[k], i, factors[other], j)
        return dim if others else factors[k][i]

    def _note_sums(self, call: Call, factors: Sequence[Axes], gone: dict[str, list[tuple[int, int]]]) -> None:
        """Where no factor is zero in masked channels, the sum tells them from removed ones."""
        nodes = [call.node.args[i] for i in self.arguments()]
        for where in gone.values():
            call.lab.sum(factors[where[0][0]][where[0][1]], *nodes)

    def weights(self, _: fx.Node | None = None) -> list[Weight]:
        found = []
        for k, factor in enumerate(self.factors):
            others = {letter for f in (*self.factors[:k], *self.factors[k + 1 :]) for letter in f}
            own = [i for i, letter in enumerate(factor) if letter in self.result and letter not in others]
            summed = [i for i, letter in enumerate(factor) if letter not in self.result and letter in others]
            if len(self.factors) == 2 and _REST not in factor and len(own) == len(summed) == 1 and len(factor) == 2:
                found.append(Weight(self.first + k, own[0], summed[0]))
        return found

    def layers(self, args: Sequence[Any], y: Tensor, wanted: Callable[[Tensor], bool]) -> Iterator[LinearProduct]:
        for argument, producer, consumer in self.weights():
            if wanted(args[argument]):
                yield self._layer(args, y, Weight(argument, producer, consumer))

    def _layer(self, args: Sequence[Any], y: Tensor, weight: Weight) -> LinearProduct:
        k = weight.argument - self.first
        w, x = args[weight.argument], args[self.first + 1 - k]
        own, summed = self.factors[k][weight.producer], self.factors[k][weight.consumer]
        inner, outer = _named(self.factors[1 - k], x.dim()), _named(self.result, y.dim())
        rows = [name for name in inner if name != summed]
        bias = args[self.bias] if self.bias is not None and len(args) > self.bias else None
        if bias is not None and (bias.dim() != 1 or outer[-1] != own):
            y, bias = y - bias, None
        turned = w if weight.producer == 0 else w.t()
        x, y = _matrix(x, inner, [*rows, summed]), _matrix(y, outer, [*rows, own])
        return LinearProduct(weight.argument, weight.producer, x, turned, bias, y)

    def macs(self, node: fx.Node, axes: Env) -> Iterator[Length]:
        factors: list[Any] = [axes[node.args[i]] for i in self.arguments()]  # type: ignore[index]
        for where in _places(self.factors, tuple(map(len, factors))).values():
            k, i = where[0]
            yield factors[k].shape[i], factors[k][i]

    def terms(self, node: fx.Node) -> Terms:
        names = _named(self.result, rank := len(node.meta["shape"]))
        factors = [
            Term(t, _named(letters, len(t.meta["shape"])))  # type: ignore[union-attr, arg-type]
            for t, letters in zip((node.args[i] for i in self.arguments()), self.factors, strict=True)
        ]
        bias = node.args[self.bias] if self.bias is not None and len(node.args) > self.bias else None
        if bias is None:
            return Terms(names, factors)
        aligned = names[rank - len(bias.meta["shape"]) :]  # type: ignore[union-attr]
        return Terms(names, factors, [Term(bias, aligned)])  # type: ignore[arg-type]

    def zeros(self, call: MaskedCall) -> bool:
        """Each dim of the result that carries labels is a dim of a factor that is zero there, or of the bias alone."""
        factors = [call.node.args[i] for i in self.arguments()]
        zero = [call.is_zero(f) for f in factors]
        labelled = call.labelled()
        names = _named(self.result, len(call.node.meta["shape"]))
        places = _places(self.factors, tuple(len(f.meta["shape"]) for f in factors))  # type: ignore[union-attr]
        covered = all(any(zero[k] for k, _ in places[names[i]]) for i in labelled)
        bias = None if self.bias is None else call.argument(self.bias, "bias", None)
        unshifted = bias is None or (call.is_zero(bias) and labelled == [len(names) - 1])
        return bool(labelled) and covered and unshifted


@cache
def _places(factors: tuple[str, ...], lengths: tuple[int, ...]) -> dict[str, list[tuple[int, int]]]:
    """Where each letter stands, as (factor, dim)."""
    found: dict[str, list[tuple[int, int]]] = {}
    for k, factor in enumerate(factors):
        for i, name in enumerate(_named(factor, lengths[k])):
            found.setdefault(name, []).append((k, i))
    return found


def _matrix(t: Tensor, names: list[str], order: list[str]) -> Tensor:
    """A tensor with its dims in another order, all but the last merged; the same object if there is nothing to do."""
    t = t if order == names else t.permute([names.index(name) for name in order])
    return t if t.dim() == 2 else t.reshape(-1, t.shape[-1])


def _named(letters: str, length: int) -> list[str]:
    """A name for each dim: its letter, or, of the leading dims that `...` stands for, a number."""
    rest = letters.removeprefix(_REST)
    return [*map(str, range(length - len(rest))), *rest]


def product(formula: str, *, first: int = 0, bias: int | None = None, counted: bool = True) -> OpSpec:
    """What is known of an op that multiplies tensors: labels, weights, MACs and zeros follow from the formula.

    Args:
        formula: as for `torch.einsum`; `...` only in front, in the first factor and the result.
        first: number of the argument that is the first factor; the other factors follow it.
        bias: number of the argument that is added, aligned with the last dims of the result.
        counted: whether the MACs count.

    Raises:
        InputError: the formula is none.

    >>> from fxprune.analysis.ops.products import product
    >>> product("...i,oi->...o", bias=2).weights(None)
    [Weight(argument=1, producer=0, consumer=1)]
    """
    made = Product(formula, first, bias)
    macs = made.macs if counted else None
    return OpSpec(made.labels, made.zeros, made.weights, macs, made.layers, terms=made.terms, values=bias is not None)


OPS: dict[str, OpSpec] = {
    "mm": product("ij,jk->ik"),
    "bmm": product("bij,bjk->bik"),
    "addmm": product("ij,jk->ik", first=1, bias=0),
    "baddbmm": product("bij,bjk->bik", first=1, bias=0),
    "linear": product("...i,oi->...o", bias=2),
    "mv": product("ij,j->i", counted=False),
    "addmv": product("ij,j->i", first=1, bias=0, counted=False),
    "dot": product("i,i->", counted=False),
    "vdot": product("i,i->", counted=False),
}
