"""Networks to prune, and all that their training takes.

``networks`` builds models, ``data`` loads images, ``train`` fits and measures, ``adapt`` fits to another domain,
``tune`` prunes and fine-tunes, ``checkpoints`` keeps weights. Each module in ``recipes`` names one combination;
``train_recipe`` and ``adaptation`` execute them, ``python -m zoo`` is the command line.

The library ``fxprune`` is used through its public names, but for files that must be whole (``fxprune.files``,
``fxprune.lines``), and knows nothing of the zoo.
"""
