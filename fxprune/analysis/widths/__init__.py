"""Widths that the model's own Python code holds, beside its tensors: found by probing, then mended, tied or fixed.

Labels tell what the data allows; the model's code can hold widths too (`x.reshape(n, self.hidden, -1)`, `C // heads`).
A probe gives every group its own keep count, runs the model on meta tensors cut to these counts, and compares the shape
that each ATen call delivers with the one that the labels predict. A difference is answered with the predicted shape, so
that one run finds all of them; what it means is learned from the numbers:

* the call kept its old size, and an int attribute of a module holds it: the attribute is *mended*;
* the call follows another group's width: the two groups are *tied*, they keep the same fraction;
* a scalar changed (an attention scale computed from a width): its old value is *folded* into the weights before it;
* else the group is *fixed*, with the line of code as the reason.

The rooms:

    builtin_modules  what PyTorch's own modules are known to hold, without a probe
    code_scan        whether the code can see a width at all
    prediction       the shapes that the labels predict when every group keeps a count of its own
    probe            run the model on cut meta tensors and compare every call with the prediction
    requested_sizes  the sizes that the model's own code asks for in a call, and the numbers that it gives it
    inference        what each difference says about the code
    candidates       which attributes or literals may hold a width
    fold             which weights can take up a scalar
    constraints      what was learned
"""

from fxprune.analysis.widths.constraints import Held, ScaleUse
from fxprune.analysis.widths.inference import held_by_code

__all__ = ["Held", "ScaleUse", "held_by_code"]
