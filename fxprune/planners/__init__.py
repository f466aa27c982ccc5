"""Planners: from scores to a plan, in one step. All but `NearestOutput` run no model.

A planner is a callable `(groups, scores) -> Plan`. Searches, which also run models, are in `fxprune.search`.

    uniform       one pruning ratio for all groups, or one for each name pattern
    threshold     one threshold for all groups: their channels compete
    contribution  one cumulative contribution rate, a width of its own for each group
    budget        the widths that a part of the MACs, the parameters or the latency can pay for
    error_curves  the smallest sum of errors that one or several budgets allow
    nearest       of several plans the one whose repaired model is nearest to the original
    goals         what a caller wants to keep, and the planner that does it
    measures      what a model costs as a function of its widths
    stepwise      the widths half-way to a goal, for pruning in steps
    allocation    what all of these are made of: allowed widths, competition, budgets
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
