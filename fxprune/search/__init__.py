"""Search: candidates are cut, tuned and evaluated, one after another or in parallel; the rooms of all searches.

    bisection    the smallest model that loses at most so much accuracy
    monotone     the same from a monotone fit to all tunings
    bee_colony   artificial bee colony over the widths of all groups
    driver       what all searches do alike, from the arguments to the result
    trial        one candidate: cut, tune, evaluate, under its own seed
    accuracy     a quality for classifiers, in which cross-entropy breaks ties
    workers      where candidates run: in this process, in others, on a cluster (joblib)
    acceptance   whether a candidate is good enough: one evaluation, or several where one cannot decide
    checkpoint   a plan and its weights in one file
    folder       the directory of a search: settings, a journal with a line for each candidate, checkpoints, plan
    describe     settings and models as plain data, to tell one search from another
    evaluator    gives a search the fitness of its candidates
    result       what a search returns
    distributed  one search in several processes that train together

A search is a deterministic function of its settings, its seed and the fitness of its candidates. Therefore a search
keeps no state of its own on disk: when it is started again, it asks for the same candidates, and the journal has the
fitness of those that were evaluated before.
"""

from fxprune.search.acceptance import PLAIN, ROBUST, Acceptance
from fxprune.search.accuracy import Accuracy
from fxprune.search.bee_colony import BeeColony, CurveFitness
from fxprune.search.bisection import Bisection, Probe, fastest
from fxprune.search.checkpoint import plan_of, restore
from fxprune.search.distributed import run_distributed
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.monotone import MonotoneFit
from fxprune.search.progressive.layer_by_layer import LayerByLayer
from fxprune.search.progressive.search import Progressive, Step
from fxprune.search.result import Search, Trial
from fxprune.search.trial import Candidate, Task
from fxprune.search.workers import Workers

__all__ = [
    "PLAIN",
    "ROBUST",
    "Acceptance",
    "Accuracy",
    "BeeColony",
    "Bisection",
    "Candidate",
    "CurveFitness",
    "Driver",
    "Evaluator",
    "LayerByLayer",
    "MonotoneFit",
    "Probe",
    "Progressed",
    "Progressive",
    "Search",
    "Step",
    "Task",
    "Trial",
    "Workers",
    "fastest",
    "plan_of",
    "restore",
    "run_distributed",
]
