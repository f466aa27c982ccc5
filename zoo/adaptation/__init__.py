"""Domain adaptation: networks trained on a labelled source and an unlabelled target, and pruned for it.

domains   pairs of data sets that have the same classes
reversal  the domain head behind a gradient reversal
adapt     training with it
execute   a recipe of adaptation from data to weights
pcp       progressive pruning with what is known of either domain
prune     adapted networks pruned, adapted once more, and compared
"""
