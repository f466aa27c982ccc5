"""The command `fxprune`. Nobody imports this room; its functions call what `fxprune` offers to everybody.

app          the commands, registered
answer       what a command gives back, and how it is shown: tables or JSON, errors in a line, exit codes
options      options that several commands share
models       a model by its name on the command line, with weights and example inputs
libraries    models of torchvision, timm, transformers and ultralytics
origin       how the original of a pruned model is made again
data         batches by their name on the command line: a folder of images, or an object of the caller's
groups       `inspect`
prune        `prune` and `search`
prove        `verify` and `latency`
export       `export`
compare      `compare`: what original and pruned model give and take
quality      what models make of data: accuracy, agreement, difference, or a function of the caller's
engines      a model in eager mode, compiled, and in ONNX Runtime
"""
