"""Progressive channel pruning: a few channels of a few layers at a time.

search      the loop: attempts on every layer, a choice among them, the cut
candidates  how each attempt is made
"""
