"""Activation cache: evaluate a model that was changed in one place, from what its original gave before that place.

module_state   a module as it is, and whether it still is
values         tensors that are remembered, names for what modules read and give, and the limit on memory
memo           what each module gave for what it read, in one evaluation of the original
session        an evaluation in which every call of a module is looked at
recorder       the one of the original, which fills the memo
replay         those that are answered from it
intercept      how calls are looked at
ambient_state  what else they depend on
attempt        all of it, as `evaluate` of candidates

A module's output is reused where the module is unchanged and its inputs are those of the original's evaluation, bit by
bit. Inputs are known by identity where the module before gave a remembered tensor, and compared bit by bit where an op
outside of any module made them. Whatever cannot be known to be equal is computed.
"""

from fxprune.search.progressive.activation_cache.attempt import Attempt, Recording, Remembered

__all__ = ["Attempt", "Recording", "Remembered"]
