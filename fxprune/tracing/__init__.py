"""Trace: record one forward on meta tensors, and leave no footprints.

trace       the model is run once, and every ATen call becomes a node of a `torch.fx` graph
recorder    appends the nodes
shapes      answers the commonest calls on meta tensors at once
thrift      runs on real tensors, where they must be, with little memory
borrow      the caller's model: run it, change it, and give it back exactly as it was
saved       what its modules hold beside parameters and buffers, noted and put back
writes      tensors that a run writes to, kept from just before
"""
