"""Module: the caller's `nn.Module`: run it, read it, and leave it exactly as it was.

isolation         run a copy of it on meta tensors or in another mode, and put back what it shares with others
tensors           its parameters and buffers, by name and in their places
held_tensors      tensors in plain attributes that can be cut as buffers are
structural_copy   new modules, attributes and closures over the same parameters
saved_state       what containers hold, noted and put back
undo              what is changed in place is changed whole or not at all
class_state       what classes and functions hold, noted and put back
code_print        what a function does, as plain data that tells it from a namesake
composite_calls   ops that reach a dispatch mode whole
written_tensors   tensors that a run writes to, kept from just before
attributes        what modules know of their widths, beside their tensors
literals          the widths that stand as numbers in a module's `forward`
literal_classes   classes whose methods hold other numbers
constants         what expressions of literals, and of constants of a file, amount to
batches           what data loaders give, and how a model takes it
data              batches with a limit, a progress bar and a function that unpacks
random_inputs     pictures of random shapes, where there are no data
autocast          autocast on meta tensors
garbage           no collection of garbage while a graph is made
flex_attention    PyTorch's flexible attention, as its parts
dispatch          modes that see ATen calls, without PyTorch's compiler
wrappers          modules around a model, which are refused
parametrizations  which modules compute weights (`torch.nn.utils.parametrize`)
names             what a caller points at: names, patterns, modules, parameters
"""
