"""What fxprune knows of each op: one table, from names of ops to values of `OpSpec`, in one file a family.

spec         `OpSpec`: what there is to know of an op
table        the table: look an op up, register one
contraction  convolutions and embeddings
products     products of tensors, written as formulas of einsum
norm         normalisation
pointwise    ops that work element by element
reduction    sums, means, extrema
spatial      pooling, resampling, patches
layout       views, permutations, concatenation
pick         slices, splits, indices
addressed    reads and writes at places that values tell
recurrent    recurrent layers, packed sequences
spectral     Fourier transforms, complex numbers
creation     ops that make a tensor from sizes
zeros        rules for what is zero in masked channels
terms        rules for how a result is a sum of products

No other room names an op, but for meta kernels and timers. To support another op, register one entry:

>>> from fxprune import ops
>>> ops.register("mylib::my_activation", ops.OPS["relu"])                # behaves as another op does
>>> ops.register("mylib::lin", ops.product("...i,oi->...o", bias=2))     # weights, MACs and zeros follow
>>> def gate(call, x, weight):
...     "x of shape (batch, channels, ...) times one weight a channel; returns the product and the mean over channels."
...     channels = call.lab.unite(x, 1, weight, 0)
...     call.lab.mix(x[1])
...     return [[x[0], channels, *x.dims()[2:]], [x[0], *x.dims()[2:]]]
>>> ops.register("mylib::gate", ops.OpSpec(gate))
>>> for name in ("mylib::my_activation", "mylib::lin", "mylib::gate"):
...     ops.unregister(name)
"""

from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.products import product
from fxprune.analysis.ops.spec import Move, NormArguments, OpSpec, Statistics, Weight
from fxprune.analysis.ops.table import OPS, register, unregister

__all__ = [
    "OPS",
    "Move",
    "NormArguments",
    "OpSpec",
    "Statistics",
    "Weight",
    "product",
    "register",
    "unregister",
    "zeros",
]
