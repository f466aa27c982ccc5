"""Fourier transforms, and ops on complex numbers: the transformed dims are fixed, the others keep their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxprune.analysis.labels.dims import Dim, Fixed, free_where_one
from fxprune.analysis.labels.labels import Axes, Call
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.pointwise import first, pointwise
from fxprune.analysis.ops.spec import Move, OpSpec
from fxprune.analysis.ops.terms import mixed


def fft(call: Call, x: Axes, dims: Sequence[int], *_: Any, **__: Any) -> list[Dim]:
    transformed = {d % len(x) for d in dims}
    for i in transformed:
        call.lab.fix(x[i], "a Fourier transform runs over the dim")
    after = [Fixed("frequencies") if i in transformed else d for i, d in enumerate(x.dims())]
    return free_where_one(after, call.shape)


def parts(call: Call, x: Axes) -> list[Dim]:
    """A last dim comes: real and imaginary part."""
    return [*x.dims(), Fixed("real and imaginary part")]


def joined(call: Call, x: Axes) -> list[Dim]:
    """The last dim goes: real and imaginary part."""
    call.lab.fix(x[len(x) - 1], "real and imaginary part")
    return x.dims()[:-1]


OPS: dict[str, OpSpec] = {
    **dict.fromkeys(["_fft_r2c", "_fft_c2c", "_fft_c2r"], OpSpec(fft, zeros.first)),
    "view_as_real": OpSpec(parts, zeros.first, terms=mixed),
    "view_as_complex": OpSpec(joined, zeros.first, terms=mixed),
    "complex": OpSpec(pointwise, zeros.all_terms),
    "polar": OpSpec(pointwise, zeros.first),
    "angle": OpSpec(first),
    **dict.fromkeys(["_conj", "_conj_physical", "_neg_view"], OpSpec(first, zeros.first)),
    **dict.fromkeys(["resolve_conj", "resolve_neg"], OpSpec(first, zeros.first, move=Move.COPY)),
}
