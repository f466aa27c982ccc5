"""Feature info: the widths of feature maps that a backbone states, set to what they are after pruning.

Backbones of timm state in `feature_info`, a list of {"module": name, "num_chs": channels, ...}, how many channels the
outputs of some of their modules have; necks and heads of other libraries are built from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fxprune.module.isolation import Inputs
from fxprune.tracing.trace import Graph, trace


def mend_feature_info(before: Graph, small: nn.Module) -> None:
    """Set the stated channels of a pruned model, in place, where a module's output has fewer than the original's.

    Args:
        before: the original, recorded.
        small: the pruned model.
    """
    stated = getattr(small, "feature_info", None)
    entries = stated if isinstance(stated, list) else []
    if not entries or not all(isinstance(e, dict) and {"module", "num_chs"} <= e.keys() for e in entries):
        return
    full, cut = _output_shapes(before), _output_shapes(trace(small, _given(before.inputs)))
    for entry in entries:
        old, new = (shapes.get(entry["module"], ()) for shapes in (full, cut))
        lengths = {n for o, n in zip(old, new, strict=False) if o == entry["num_chs"] != n}
        if len(old) == len(new) and len(lengths) == 1:
            entry["num_chs"] = lengths.pop()


def _given(inputs: Inputs) -> object:
    args, kwargs = inputs
    return kwargs or args


def _output_shapes(graph: Graph) -> Mapping[str, tuple[int, ...]]:
    """The shape of the last tensor that each module, with all that is in it, computes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for node in graph.fx.nodes:
        parts = str(node.meta.get("module", "")).split(".")
        shape = node.meta.get("shape", ())
        if node.op == "call_function" and all(isinstance(n, int) for n in shape):
            shapes |= {".".join(parts[:k]): tuple(shape) for k in range(1, len(parts) + 1)}
    return shapes
