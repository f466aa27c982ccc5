"""Latency: what a model of any widths takes on the present device, predicted from a table of measured ops.

    latency = fxprune.latency.measure(groups)                # minutes the first time, then read from a file
    plan = fxprune.planners.Budget(0.5, measure=latency)(groups, scores)
    latency.of(plan)                                         # seconds

The rooms:

    calls       every call of the graph that takes time, with shapes that follow from kept channels
    grid        the widths at which calls are measured, and how times between them are read
    timer       one call, run on real tensors
    table       measured times on disk, for each device, version of PyTorch, number of threads and dtype
    prediction  seconds for any kept counts
    engines     where models are served: ONNX Runtime, torch.compile
    served      a prediction for such an engine
    multiples   which widths pay there
    model       all of it together
"""

from fxprune.costs.latency.engines import compiled, onnx_runtime
from fxprune.costs.latency.model import by_turns, measure
from fxprune.costs.latency.multiples import best_multiple, rounding_costs
from fxprune.costs.latency.prediction import Latency

__all__ = ["Latency", "best_multiple", "by_turns", "compiled", "measure", "onnx_runtime", "rounding_costs"]
