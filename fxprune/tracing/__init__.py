"""Trace: record one forward on meta tensors, and leave no footprints."""
