"""Widths that the model's own Python code holds, beside its tensors: known by where its numbers come from.

Labels tell what the data allows; the model's code can hold widths too (`x.reshape(n, self.hidden, -1)`, `C // heads`).
The recorded run says of each number that reached a call which sizes, attributes and plain numbers it was computed from
(`fxprune.tracing.provenance`), and the labels say what it must be for other widths. These equations are solved exactly:

* an attribute, or a literal in a module's code, that follows a width is *mended*;
* two widths that the code takes for one another are *tied*, they keep the same fraction;
* a scalar that follows a width (an attention scale) is *folded* into the weights before it;
* what has no solution, or is compared in a way that another width would change, is *fixed*, with the line of code.

Then runs on meta tensors, cut to widths that differ from group to group, check that every call delivers what the labels
predict. A difference that no expression explains is fixed as well, never guessed at.

The rooms:

    builtin_modules  what PyTorch's own modules are known to hold
    polynomials      in how many channels the groups keep
    forms            numbers of the code, and dims, as such polynomials
    arguments        the numbers among the arguments of a call
    equations        what the labels predict for each number that was given to a call
    positions        reshapes that divide channels by the size of the input
    solve            which attributes, literals and ties make all equations hold
    scales           scalars that follow a width
    fold             which weights can take up a scalar
    prediction       the shapes that the labels predict when every group keeps a count of its own
    script           the recorded calls, for a run that follows them
    probe            run the model on cut meta tensors and compare every call with the prediction
    inference        solve, check, and fix what remains
    constraints      what is known of the widths at each step
    words            numbers and lines of the code for a reader
"""

from fxprune.analysis.widths.constraints import Held, ScaleUse
from fxprune.analysis.widths.inference import held_by_code, joined

__all__ = ["Held", "ScaleUse", "held_by_code", "joined"]
