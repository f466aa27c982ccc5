"""Latency: what a model of any widths takes on the present device, predicted from a table of measured ops.

    latency = fxprune.latency.measure(groups)                # minutes the first time, then read from a file
    plan = fxprune.planners.Budget(0.5, measure=latency)(groups, scores)
    latency.of(plan)                                         # seconds

The rooms:

    calls   every call of the graph that takes time, with shapes that follow from kept channels
    grid    the widths at which calls are measured, and how times between them are read
    timer   one call, run on real tensors
    table   measured times on disk, for each device, version of PyTorch, number of threads and dtype
    model   all of it together
"""

from fxprune.costs.latency.model import Latency, by_turns, measure

__all__ = ["Latency", "by_turns", "measure"]
