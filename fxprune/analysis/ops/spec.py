"""What fxprune knows of one op, in one value: `OpSpec`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, fx

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Env, Rule
from fxprune.analysis.ops.terms import TermsRule
from fxprune.analysis.ops.zeros import Zeros, never

Length: TypeAlias = tuple[int, Dim]


class Weight(NamedTuple):
    """An argument that may be a weight, and what two of its dims are for.

    Attributes:
        argument: number of the argument.
        producer: the dim whose indices make the output's channels.
        consumer: the dim whose indices read the input's channels.
    """

    argument: int
    producer: int
    consumer: int


class LinearProduct(NamedTuple):
    """A product of an input with a weight, as a linear layer has it: y = x wᵀ + bias.

    Attributes:
        argument: number of the argument that is the weight.
        producer: the dim of that argument that makes the output's channels.
        x: of shape (rows, features in).
        w: of shape (features out, features in).
        bias: of shape (features out,), or None.
        y: of shape (rows, features out).
    """

    argument: int
    producer: int
    x: Tensor
    w: Tensor
    bias: Tensor | None
    y: Tensor


class Statistics(NamedTuple):
    """Where the running statistics of a norm stand among its arguments.

    Attributes:
        mean: the running mean.
        variance: the running variance.
        epsilon: the number that is added to the variance.
    """

    mean: int
    variance: int
    epsilon: int


class NormArguments(NamedTuple):
    """Where the tensors of a norm stand among its arguments.

    Attributes:
        scale: γ, which multiplies each channel.
        shift: β, which is added to each channel; None: there is none.
        channel: the dim of the input and of the first result along which scale and shift lie.
        statistics: running ones, which replace those of the input in evaluation mode; None: there are none.
    """

    scale: int
    shift: int | None
    channel: int
    statistics: Statistics | None = None


class Move(Enum):
    """How an op rearranges its arguments: every element of the result is an element of one of them."""

    COPY = "same shape, same order"
    CAST = "same shape, same order, another type of number"
    RESHAPE = "other dims, same order in memory"
    TURN = "the dims in another order"
    PART = "slices along a dim"
    PICK = "one index of a dim"
    STRETCH = "dims of length 1 come, go or are repeated"
    SHIFT = "same shape, the indices of a dim in another order"
    JOIN = "several tensors, one behind another"


@dataclass(frozen=True)
class OpSpec:
    """All that fxprune knows of an op.

    Attributes:
        labels: what the op does to channel labels: a function of the `Call` and the op's arguments, tensors replaced by
            their `Axes`. It equates or fixes what the op couples, and returns the dims of the result: a list with one
            dim for each length of `call.shape`, or a list of such lists if the op has several results.
        zeros: whether the result is zero in channels that are masked, that is, zero in the arguments.
        weights: the arguments that may be weights, for a recorded call.
        macs: the dims whose lengths multiply to the multiply-accumulates of a call; None: the op is not counted.
        layers: for the arguments and the result of a call with real tensors, the call seen as the linear layer of each
            argument that is a weight, as the third argument tells; None: it cannot be seen so.
        move: how the op rearranges its first argument, or several; None: it computes.
        terms: the result of a recorded call as a product plus addends; None: it is not such a sum.
        values: whether the numbers among the arguments are values, rather than sizes, dims or indices.
        unread: whether no value of the first argument counts, but its shape or type alone.
        adds: whether the op adds its first two arguments.
        scaling: 1 where a number as second argument multiplies the first, -1 where it divides it, otherwise 0.
        power: for a recorded call, which power of its first argument it makes; None: it makes none.
        norm: where a norm's scale, shift and statistics stand.
        expected: of a random op, for its arguments, the number that stands for its draws where noise would hide what is
            compared: the mean, so that dropout changes nothing, or a half.
        lengths: for arguments, their shapes, and the shape of the result: the arguments with those numbers set that
            must fit the shapes (`groups` of a convolution). None: no number needs to.
    """

    labels: Rule
    zeros: Zeros = never
    weights: Callable[[fx.Node], Sequence[Weight]] = lambda _: ()
    macs: Callable[[fx.Node, Env], Iterator[Length]] | None = None
    layers: Callable[[Sequence[Any], Tensor, Callable[[Tensor], bool]], Iterator[LinearProduct]] | None = None
    move: Move | None = None
    terms: TermsRule = lambda _: None
    values: bool = False
    unread: bool = False
    adds: bool = False
    scaling: int = 0
    power: Callable[[fx.Node], float | None] = lambda _: None
    norm: NormArguments | None = None
    expected: Callable[[Sequence[Any]], float] = lambda _: 0.5
    lengths: Callable[[Any, Callable[[Any], Sequence[int]], Sequence[int]], Any] | None = None
