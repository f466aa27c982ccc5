"""Scorers: one number per channel of each group; larger means more worth keeping.

A scorer is a callable `(model, groups, data=None) -> {group name: float64 tensor of shape (channels,)}`. It reads the
groups' slots and needs no knowledge of ops. A new one is a function or a small frozen dataclass, in a file of its own.
"""

from fxprune.scorers.base import Scorer, check_scores
from fxprune.scorers.lasso import Lasso, Path, lasso_path
from fxprune.scorers.norms import L1Norm, L2Norm, Random
from fxprune.scorers.permutation import WeightPermutation
from fxprune.scorers.thinet import RefitLoss, ThiNet

__all__ = [
    "L1Norm",
    "L2Norm",
    "Lasso",
    "Path",
    "Random",
    "RefitLoss",
    "Scorer",
    "ThiNet",
    "WeightPermutation",
    "check_scores",
    "lasso_path",
]
