"""Small trained networks to prune: data, networks, training, recipes and their weights.

``data`` loads images, ``networks`` builds models, ``train`` fits and measures, ``checkpoints`` keeps weights.
A recipe in ``recipes`` names one combination, ``cook`` executes it, ``python -m zoo`` is the command line.

Nothing here imports ``fxprune``: the zoo is what the library is tried on, not a part of it.
"""
