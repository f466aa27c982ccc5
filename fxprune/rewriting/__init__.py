"""Rewriting: an ordinary smaller model from a model and a plan.

rewrite          cuts tensors as a plan says, and mends what modules know of their widths
copying          copies of models, and what to do where there can be none
closures         the functions of a copied model, which lead to its own modules
pruned_file      weights and plan in one safetensors file, and models read from it
config_file      models that are made from a config: files that need nothing of fxprune
feature_info     the widths of feature maps that a backbone states
attention        attention whose inner width is its own, for `nn.MultiheadAttention`
channel_sampler  a layer reads a part of a stream's channels while the stream keeps them all
"""
