"""Progressive channel pruning: a few channels of a few layers at a time."""
