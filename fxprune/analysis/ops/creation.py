"""Ops that make a tensor from sizes. Each dim gets fresh labels: its length follows what it is combined with.

Where the values depend on the position (arange), the dim is fixed.
"""

from __future__ import annotations

from typing import Any

from fxprune.analysis.labels.dims import AS_BUFFER, Dim
from fxprune.analysis.labels.labels import Call, fixed_result
from fxprune.analysis.ops.spec import OpSpec
from fxprune.analysis.ops.zeros import always


def fresh(call: Call, *_: Any, **__: Any) -> list[Dim]:
    if any(n > 1 for n in call.shape):
        call.lab.suspect()
    return [call.lab.fresh(n) for n in call.shape]


def counted(call: Call, *args: Any, **kwargs: Any) -> Any:
    made = not call.node.all_input_nodes and call.node.meta["dtype"].is_floating_point
    reason = f"values of {call.node.target} depend on the position" + AS_BUFFER * made
    return fixed_result(call.lab, (*args, *kwargs.values()), call.shape, reason)


_FRESH = "empty empty_permuted empty_strided ones rand randn".split()
_COUNTED = """
arange linspace logspace range eye tril triu tril_indices triu_indices randperm randint one_hot meshgrid fft_fftfreq
fft_rfftfreq bartlett_window blackman_window hamming_window hann_window kaiser_window
""".split()

OPS: dict[str, OpSpec] = {
    **dict.fromkeys(_FRESH, OpSpec(fresh)),
    **dict.fromkeys(_COUNTED, OpSpec(counted)),
    **dict.fromkeys(["new_empty", "new_empty_strided", "new_ones"], OpSpec(fresh, unread=True)),
    "zeros": OpSpec(fresh, always),
    "new_zeros": OpSpec(fresh, always, unread=True),
    "full": OpSpec(fresh, values=True),
    "new_full": OpSpec(fresh, values=True, unread=True),
    "scalar_tensor": OpSpec(fresh, values=True),
}
