"""Allocation: from scores to how many channels stay; the rooms that one-shot planners are made of.

    constraints   which widths are allowed
    units         what can be decided by itself: a group, or groups that are tied, with its allowed widths
    compete       scores on one scale, and which groups compete with which
    price         the exact cost of widths: MACs, parameters, or any monotone function of kept counts
    knapsack      the most importance that a budget can hold
    lagrangian    the best widths at fixed prices, again and again with new prices
    choose        from widths to a plan

They work on arrays over units, without a loop over channels.
"""
