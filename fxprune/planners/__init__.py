"""Planners: from scores to a plan."""

from fxprune.planners.uniform import Uniform

__all__ = ["Uniform"]
