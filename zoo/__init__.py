"""Networks to prune, and all that their training takes.

``networks`` builds models, ``data`` loads images, ``train`` fits and measures, ``tune`` prunes and fine-tunes,
``checkpoints`` keeps weights, ``adaptation`` fits to another domain and prunes for it. Each row in ``recipes`` names
one combination; ``train_recipe`` and ``adaptation.execute`` execute them, ``python -m zoo`` is the command line.

The library ``fxprune`` is used through its public names, but for files that must be whole (``fxprune.storage.files``,
``fxprune.storage.json_lines``), and knows nothing of the zoo.
"""
