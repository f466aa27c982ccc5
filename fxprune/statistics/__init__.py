"""Statistics: what layers read and give on data.

observe  a model's layers while it runs: inputs, kernels and outputs
merging  small batches as fewer, larger ones
moments  centred moments of two sets of rows, merged
different  how many inputs of the data differ
shift    how far what batch norms read is from what they read in training
gram     sums over data from which least squares follow without seeing the data again
"""
