"""Labels through the graph: what each dim carries, and what each op couples.

dims           what the dims of tensors carry, and what is noted about them
labels         push labels through a graph, op by op (the rules for ops are in `fxprune.analysis.ops`)
factorings     reshapes that split or merge dims: which factor of each grid shrinks
"""
