"""fxprune makes a PyTorch vision model smaller and faster by removing whole channels.

The stages, each a pure function of the one before, and usable alone:

    graph  = fxprune.trace(model, example_inputs)            # the ATen calls of one forward, as a torch.fx graph
    groups = fxprune.find_groups(graph)                      # channels that must live or die together
    scores = fxprune.scorers.L2Norm()(model, groups)         # one number per channel
    plan   = fxprune.planners.Uniform(0.5)(groups, scores)   # which channels stay: a value, readable JSON
    small  = fxprune.rewrite(model, plan)                    # same class, same state_dict keys, fewer channels
    error  = fxprune.verify(model, plan, example_inputs)     # pruned equals masked

`fxprune.prune(model, example_inputs, macs=0.5)` does it all.
"""

from fxprune import planners, report, scorers, search, sparsity, testing
from fxprune.analysis import ops
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.grouping.reasons import FixedDim
from fxprune.analysis.groups import Groups, find_groups
from fxprune.costs import latency
from fxprune.costs.macs import Cost, cost
from fxprune.errors import FxpruneError, InputError, PlanError, ProofError, TraceError
from fxprune.module.data import Batches
from fxprune.module.random_inputs import random_inputs
from fxprune.pipeline import prune
from fxprune.plan.plan import Plan, Slot
from fxprune.reconstruction import Reconstruction, absorb_batchnorm, recalibrate_batchnorm, reconstruct, repair
from fxprune.result import Report, Result
from fxprune.rewriting.attention import untie_attention
from fxprune.rewriting.channel_sampler import add_samplers
from fxprune.rewriting.pruned_file import load
from fxprune.rewriting.rewrite import cut_state, rewrite
from fxprune.tracing.trace import Graph, trace
from fxprune.training.gradual import Gradual
from fxprune.verification.blame import find_faulty_groups
from fxprune.verification.verify import mask, verify

__all__ = [
    "Batches",
    "Cost",
    "FixedDim",
    "FxpruneError",
    "Gradual",
    "Graph",
    "Group",
    "Groups",
    "InputError",
    "Plan",
    "PlanError",
    "ProofError",
    "Reconstruction",
    "Report",
    "Result",
    "Slot",
    "TraceError",
    "absorb_batchnorm",
    "add_samplers",
    "cost",
    "cut_state",
    "find_faulty_groups",
    "find_groups",
    "latency",
    "load",
    "mask",
    "ops",
    "planners",
    "prune",
    "random_inputs",
    "recalibrate_batchnorm",
    "reconstruct",
    "repair",
    "report",
    "rewrite",
    "scorers",
    "search",
    "sparsity",
    "testing",
    "trace",
    "untie_attention",
    "verify",
]
