"""Search: models are cut, tuned and judged, one candidate after another or many at once; the rooms of all searches.

    bisection    the smallest model that loses at most so much accuracy
    bee_colony   artificial bee colony over the widths of all groups
    driver       what all searches do alike, from the arguments to the result
    trial        one candidate: cut, tune, evaluate, under its own seed
    workers      where candidates run: in this process, in others, on a cluster (joblib)
    acceptance   whether a candidate is good enough: one evaluation, or as many as it takes to tell
    checkpoint   a plan and its weights in one file
    folder       the directory of a search: settings, a journal with a line for each candidate, checkpoints, plan
    describe     settings and models in words, to tell one search from another
    evaluator    all of it together: what a search asks for candidates' fitness
    result       what a search returns
    distributed  one search in several processes that train together

A search is a deterministic function of its settings, its seed and what it is told of its candidates. So it needs no
state of its own on disk: started again, it asks for the same candidates, and the journal answers for those that are
done.
"""

from fxprune.search.acceptance import PLAIN, ROBUST, Acceptance
from fxprune.search.bee_colony import BeeColony
from fxprune.search.bisection import Bisection, Probe, fastest
from fxprune.search.checkpoint import plan_of, restore
from fxprune.search.distributed import run_distributed
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.progressive.search import Progressive, Step
from fxprune.search.result import Search, Trial
from fxprune.search.trial import Candidate, Task
from fxprune.search.workers import Workers

__all__ = [
    "PLAIN",
    "ROBUST",
    "Acceptance",
    "BeeColony",
    "Bisection",
    "Candidate",
    "Driver",
    "Evaluator",
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
