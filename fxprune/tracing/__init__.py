"""Trace: record one forward on meta tensors, and leave no footprints.

trace                the model is run once, and every ATen call becomes a node of a `torch.fx` graph
recorder             appends the nodes
called_functions     sees the functions of PyTorch that the model's code calls
functions            which of PyTorch's functions take sizes, by name
provenance           ints that remember which sizes and attributes they were computed from
tagging              hands such ints to the model's code
builtin_calls        `int`, `float`, `len` and `range` in the model's code keep what these ints remember
training_runs        whether a model does more in training mode, so that this is recorded as well
scripted_functions   lets fused activations of `torch.jit.script` pass
plain_layers         hides the functions of the plainest layers, and records the commonest without running them
unseen_reads         what the code reads of real tensors without a call
meta_kernels         answers the commonest calls on meta tensors at once
chunked_convolution  runs on real tensors, where they must be, with little memory
"""
