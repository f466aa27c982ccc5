"""Planners: from scores to a plan.

A plain planner is a callable `(groups, scores) -> Plan`. A search also runs models: it takes the model, its groups, the
scores and `evaluate`, and returns a `Search` with the plan, the model and the history.
"""

from fxprune.planners.bisection import Bisection, Probe, Search
from fxprune.planners.contribution import CumulativeContribution
from fxprune.planners.uniform import Uniform

__all__ = ["Bisection", "CumulativeContribution", "Probe", "Search", "Uniform"]
