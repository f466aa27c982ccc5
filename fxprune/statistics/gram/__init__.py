"""Gram statistics: sums over data from which least squares, LASSO and ThiNet follow without seeing the data again.

    patches     what a layer multiplies its weights with, and what it makes of them, as rows of matrices
    sums        their centred second moments, streamed in float64
    channels    the same, reduced to the channels that a layer reads
    solve       least squares from the statistics, and the ridge that suits held-back rows
    removal     S⁻¹ and a layer's weights while inputs go, updated block by block
    elimination   which channels of a layer's input can go at the smallest error after a refit
    collect     run a model on data and collect either

For a layer with n weights a kernel: S takes 8·groups·n² bytes while the layer is looked at; all that is computed of it
per channel takes 8·channels² bytes.
"""
