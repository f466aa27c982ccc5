"""Planners: from scores to a plan, in one step. All but `NearestOutput` run no model.

A planner is a callable `(groups, scores) -> Plan`. Searches, which also run models, are in `fxprune.search`.
"""

from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.compete import as_they_are, everyone, relative, same_pattern, same_shape
from fxprune.planners.allocation.constraints import Constraints
from fxprune.planners.budget import AtBudget, Budget
from fxprune.planners.contribution import CumulativeContribution
from fxprune.planners.error_curves import ErrorCurves, Limit
from fxprune.planners.nearest import NearestOutput, nearest_output
from fxprune.planners.threshold import GlobalThreshold
from fxprune.planners.uniform import PerGroup, Uniform

__all__ = [
    "AtBudget",
    "Budget",
    "Constraints",
    "CumulativeContribution",
    "ErrorCurves",
    "GlobalThreshold",
    "Limit",
    "NearestOutput",
    "PerGroup",
    "Uniform",
    "as_they_are",
    "everyone",
    "keep_best",
    "nearest_output",
    "relative",
    "same_pattern",
    "same_shape",
]
