"""Reconstruction: the weights that stay make up for the removed channels, without training and without labels.

readers              the layers whose inputs a plan cuts, in execution order, and what they should give
replay               what a model computes before the layers that still change, from an earlier run
spared               what a layer gives is not computed where nobody looks at it
record               run a model on a batch, and keep what its layers read, give and land on
layers               a layer as a refit changes it: its weight, and the bias or running mean that takes the intercept
residual_add         where a layer's output goes: the batch norm behind it, the shortcut that it is added to
bilinear             rows of two layers that only meet in a product, as queries and keys do
mixtures             what such rows should be where dims of the product go
original             what the original's layers give, from one forward
pair                 run original and pruned model side by side and collect the statistics
refit                all of it, layer by layer or at once, in place or not at all
recalibration        running statistics of BatchNorm, estimated anew
absorption           the same, with scale and shift that make up for it
repairing            everything that helps, in the right order, in one call
"""

from fxprune.reconstruction.absorption import absorb_batchnorm
from fxprune.reconstruction.recalibration import recalibrate_batchnorm
from fxprune.reconstruction.refit import Reconstruction, Refit, reconstruct
from fxprune.reconstruction.repairing import repair

__all__ = ["Reconstruction", "Refit", "absorb_batchnorm", "recalibrate_batchnorm", "reconstruct", "repair"]
