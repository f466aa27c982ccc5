"""Planners: from scores to a plan.

A plain planner is a callable `(groups, scores) -> Plan`. A search also runs models: it takes the model, its groups, the
scores and `evaluate`, and returns a `Search` with the plan, the model and the history.
"""

from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.compete import as_they_are, everyone, relative, same_pattern, same_shape
from fxprune.planners.allocation.constraints import Constraints
from fxprune.planners.budget import AtBudget, Budget
from fxprune.planners.contribution import CumulativeContribution
from fxprune.planners.threshold import GlobalThreshold
from fxprune.planners.uniform import PerGroup, Uniform
from fxprune.search.acceptance import PLAIN, ROBUST, Judge
from fxprune.search.bee_colony import BeeColony
from fxprune.search.bisection import Bisection, Probe, fastest
from fxprune.search.distributed import together
from fxprune.search.progressive.search import Progressive, Step
from fxprune.search.result import Search, Trial
from fxprune.search.workers import Workers

__all__ = [
    "PLAIN",
    "ROBUST",
    "AtBudget",
    "BeeColony",
    "Bisection",
    "Budget",
    "Constraints",
    "CumulativeContribution",
    "GlobalThreshold",
    "Judge",
    "PerGroup",
    "Probe",
    "Progressive",
    "Search",
    "Step",
    "Trial",
    "Uniform",
    "Workers",
    "as_they_are",
    "everyone",
    "fastest",
    "keep_best",
    "relative",
    "same_pattern",
    "same_shape",
    "together",
]
