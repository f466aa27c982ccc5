"""Scorers: one number per channel of each group; larger means more worth keeping.

A scorer is a callable `(model, groups, data=None) -> {group name: float64 tensor of shape (channels,)}`. It reads the
groups' slots and needs no knowledge of ops. A new one is a function or a small frozen dataclass, in a file of its own;
`fxprune.testing.check_scorer` tells whether it keeps the contract.

Of weights alone:

    norms               their size
    redundancy          how much a channel's weights differ from those of the others
    slimming            the scales of batch norms
    random              chance

Of data:

    activations         what a group's channels carry
    gradients           how much the loss would change without a channel
    propagation         scores propagated back from the outputs
    permutation         weight permutation in closed form
    sampled             the same by sampling, for any distance
    lasso               LASSO channel selection, every support size from one path
    thinet              what the next layers lose, with and without a refit
    joint_elimination   the order in which channels go at the smallest error after a refit, and each width's error

Scorers of others:

    combine             scorers made of scorers
    torch_pruning       Torch-Pruning's importances

What they are made of:

    base                the contract, and the way from tensors to channels
    changes             changes of layers' outputs, summed over calls
    distances           between two versions of a layer's feature maps
    divergence          how far the outputs of two models are apart
    losses              losses and their gradients, batch by batch
    output_errors       how far the outputs move when a group alone is cut
    output_sensitivity  how much the outputs react to errors of each layer
    patches             what a layer's kernels see and answer
    wiring              the layers around a group's channels
"""

from fxprune.scorers.activations import ActivationEntropy, ActivationMean, APoZ, HRank
from fxprune.scorers.base import Scorer, UnscorableError, along, check_scores, makers, per_channel
from fxprune.scorers.combine import Fallback, Normalised, OverMembers, SeedAverage, WeightedSum
from fxprune.scorers.gradients import GroupTaylor, HessianDiagonal, Taylor
from fxprune.scorers.joint_elimination import ErrorCurve, JointElimination
from fxprune.scorers.lasso import Lasso, LassoPath, lasso_path
from fxprune.scorers.norms import LAMP, L1Norm, L2Norm
from fxprune.scorers.output_sensitivity import output_sensitivity
from fxprune.scorers.permutation import WeightPermutation
from fxprune.scorers.propagation import NISP
from fxprune.scorers.random import Random
from fxprune.scorers.redundancy import GeometricMedian
from fxprune.scorers.sampled import SampledPermutation
from fxprune.scorers.slimming import BatchNormScale
from fxprune.scorers.thinet import RefitLoss, ThiNet
from fxprune.scorers.torch_pruning import TorchPruning
from fxprune.statistics.gram.collect import Informative, PerWeight

__all__ = [
    "LAMP",
    "NISP",
    "APoZ",
    "ActivationEntropy",
    "ActivationMean",
    "BatchNormScale",
    "ErrorCurve",
    "Fallback",
    "GeometricMedian",
    "GroupTaylor",
    "HRank",
    "HessianDiagonal",
    "Informative",
    "JointElimination",
    "L1Norm",
    "L2Norm",
    "Lasso",
    "LassoPath",
    "Normalised",
    "OverMembers",
    "PerWeight",
    "Random",
    "RefitLoss",
    "SampledPermutation",
    "Scorer",
    "SeedAverage",
    "Taylor",
    "ThiNet",
    "TorchPruning",
    "UnscorableError",
    "WeightPermutation",
    "WeightedSum",
    "along",
    "check_scores",
    "lasso_path",
    "makers",
    "output_sensitivity",
    "per_channel",
]
