"""Trace: record one forward on meta tensors, and leave no footprints.

trace                the model is run once, and every ATen call becomes a node of a `torch.fx` graph
recorder             appends the nodes
meta_kernels         answers the commonest calls on meta tensors at once
chunked_convolution  runs on real tensors, where they must be, with little memory
"""
