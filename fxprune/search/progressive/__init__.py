"""Progressive channel pruning: a few channels of a few layers at a time.

search          the loop: attempts on every layer, a choice among them, the cut
candidates      how each attempt and each iteration's model is made: all layers together, or each in its turn
layer_by_layer  a layer in its turn: LASSO and least squares towards the original's outputs
"""
