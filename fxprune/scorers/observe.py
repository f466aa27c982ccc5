"""Moved to `fxprune/observe.py`, below the scorers, because Gram statistics and reconstruction observe as well."""

from fxprune.observe import Contraction, observe

__all__ = ["Contraction", "observe"]
