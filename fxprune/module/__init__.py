"""Module: the caller's `nn.Module`: run it, read it, change it, and give it back exactly as it was.

isolation        run it on meta tensors or in another mode, and put everything back
saved_state      what its modules hold beside parameters and buffers, noted and put back
written_tensors  tensors that a run writes to, kept from just before
attributes       what modules know of their widths, beside their tensors
literals         the widths that stand as numbers in a module's `forward`
batches          what data loaders give, and how a model takes it
"""
