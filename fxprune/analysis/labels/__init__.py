"""Labels through the graph: what each dim carries, and what each op couples.

dims           what the dims of tensors carry, and what is noted about them
labels         what collects labels and equalities, and what rules for ops see (these are in `fxprune.analysis.ops`)
propagation    run a graph on labels, call by call
factorings     reshapes that split or merge dims: which factor of each grid shrinks
"""
