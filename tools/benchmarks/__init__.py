"""Programs that compare and time, each run as `PYTHONPATH=.:tools python -m benchmarks.NAME` in the repository's root.

analysis            trace and groups against Torch-Pruning, over torchvision's classification models
libraries           what `analysis` runs in a process of its own
bisection           simulated searches near the tolerance, plain and robust
lasso               one LARS path against searches for the penalty
latency             predicted and measured latency
progressive         whole progressive searches
scoring             weight permutation in closed form against the literal algorithm
scorers             accuracy straight after pruning trained networks, by scorer and treatment
scorer_contenders   the scorers that are compared
scorer_report       their points as tables, a plot, and in words
planners            accuracy at equal MACs after the same fine-tuning, and what a search costs
planner_contenders  the planners and searches that are compared
planner_report      their points as a table, a plot, and in words
untrained           accuracy and agreement without training, by scorer, planner and repair
untrained_subjects  the networks that it prunes, with calibration and test inputs
photographs         crops of the photographs that packages ship
lab                 a trained network of the zoo with all that a comparison needs
points              what is measured
comparison          a journal of points, names by pattern, a bar, a fixed sample
sources             which code made a measurement
"""
