"""Calls as sums of products, so that a factor on weights can be followed: rules that the table of ops refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import fx


class Term(NamedTuple):
    """A tensor, with a name for each of its dims."""

    tensor: fx.Node
    names: Sequence[str]


class Terms(NamedTuple):
    """A result that is the product of `factors` plus all `addends`.

    Attributes:
        names: of the result's dims. A dim of a term whose name is not among them is summed over, or looked up in.
        factors: tensors of which the result is a multiple.
        addends: tensors that are added; None stands for a number.
    """

    names: Sequence[str]
    factors: Sequence[Term] = ()
    addends: Sequence[Term | None] = ()


# None: the result is not such a sum. For an op with several results, `Terms` are those of the first.
TermsRule = Callable[[fx.Node], Terms | None]


def _result(node: fx.Node) -> list[str]:
    return names_of(len(node.meta["shape"]))


def names_of(rank: int) -> list[str]:
    """Names for the dims of a tensor that is aligned with others by broadcasting: 0 is the last."""
    return [str(i) for i in reversed(range(rank))]


def aligned(tensor: Any) -> Term | None:
    """A tensor whose last dims are those of the result; None for a number."""
    return Term(tensor, names_of(len(tensor.meta["shape"]))) if isinstance(tensor, fx.Node) else None


def apart(tensor: Any) -> Term:
    """A tensor of which any element may go into any of the result's."""
    return Term(tensor, [f"apart {i}" for i in range(len(tensor.meta["shape"]))])


def added(node: fx.Node) -> Terms:
    return Terms(_result(node), addends=[aligned(a) for a in node.args[:2]])


def multiplied(node: fx.Node) -> Terms:
    return Terms(_result(node), [term for a in node.args[:2] if (term := aligned(a))])


def divided(node: fx.Node) -> Terms | None:
    """By a number, and not rounded."""
    return None if isinstance(node.args[1], fx.Node) or node.kwargs else multiplied(node)


def mixed(node: fx.Node) -> Terms:
    """Sums, with signs, of elements of the first argument."""
    return Terms(_result(node), [apart(node.args[0])])


def looked_up(node: fx.Node) -> Terms:
    """Rows of a table."""
    return Terms(_result(node), [Term(node.args[0], ["rows", "0"])])  # type: ignore[arg-type]


def convolved(node: fx.Node) -> Terms:
    """With (x, w, bias) as arguments; a transposed w is not followed channel by channel."""
    x, w, bias = node.args[:3]
    names = _result(node)
    channel = names[len(x.meta["shape"]) - len(w.meta["shape"]) + 1]  # type: ignore[union-attr]
    rows = apart(w) if node.args[6] else Term(w, [channel, *apart(w).names[1:]])  # type: ignore[arg-type]
    return Terms(names, [apart(x), rows], [Term(bias, [channel])] if isinstance(bias, fx.Node) else [])


def normalised(scale: int, shift: int | None, channel: int) -> TermsRule:
    """The first result of a norm with scale and shift, along a dim, at these places of the arguments."""

    def rule(node: fx.Node) -> Terms:
        names = names_of(len(node.meta["shape"][0]))

        def term(place: int | None) -> list[Term]:
            t = node.args[place] if place is not None and place < len(node.args) else None
            along = names[channel:][:1] if channel >= 0 else names
            return [Term(t, along[-len(t.meta["shape"]) :])] if isinstance(t, fx.Node) else []

        return Terms(names, term(scale), term(shift))

    return rule
