"""Verification: the pruned model equals the masked one.

proof         what `prune` does: nothing that was disproved is handed out
apart         the pruned model computes with tensors of its own
verify        the comparison that a user asks for
blame         which groups of a plan make a difference
judgement     at first cheaply, then closely if anything is unclear
reach         what the recorded forward has called and read
reading       a run in which each call reads the numbers that it is to read
numbers       what the tensors of the full-size, the masked and the pruned model hold
vectors       scales, shifts, biases and statistics, all made at once
products      what the masked model's layers made, for the pruned model's with the same weights
signals       statistics and biases that suit what a layer makes
randomise     numbers and inputs that tell any two channels apart
inputs        smaller inputs that prove as much
modes         runs in which noise is the same for two widths
compare       how far the results of two runs are from one another
convolution   convolutions that are faster than PyTorch's on small maps
stale_widths  numbers that no recorded forward reads, and that a plan makes stale
choices       where other inputs leave out layers, or run them again
untaken       branches on sizes that the example did not take
"""
