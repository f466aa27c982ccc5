"""Pruning while a model trains: at some epochs a part goes, in place, and optimizers and averages follow.

    pruner = fxprune.Gradual(model, example_inputs, epochs=[0, 2, 4], optimizer=optimizer, macs=0.5)
    for epoch in range(10):
        pruner.step(epoch)
        train_one_epoch(model, optimizer)

The rooms:

    gradual       the steps, and all that holds the model's weights
    averages      averages of the weights
    optimizers    parameters and state of optimizers
    postponed     the arguments of a Gradual, until a trainer has a model
    ranks         one decision for all processes that train together
    lightning     the same as a callback of Lightning
    transformers  the same as a callback of transformers' Trainer
"""
