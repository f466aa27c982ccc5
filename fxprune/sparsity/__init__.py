"""Sparsity: training that makes whole groups of channels small or zero, so that little is lost when they are pruned.

penalties   terms for the loss: group lasso over whole groups, BatchNorm scales, a decay that grows
soft        soft pruning: channels are set to zero after each epoch and may come back

Each is made once from a model's groups and used in one line of a training loop.
"""

from fxprune.sparsity.penalties import BatchNormL1, GroupLasso, GrowingDecay
from fxprune.sparsity.soft import SoftPruning

__all__ = ["BatchNormL1", "GroupLasso", "GrowingDecay", "SoftPruning"]
