"""What authors of plug-ins test them with, and what they build them from.

`check_scorer`, `check_planner` and `check_search` run the contract on small networks:

from fxprune.testing import check_scorer

def test_my_scorer():
    check_scorer(MyScorer())

`isolated` gives a copy of a caller's model to run, and leaves the model as it was; `observe` hands over what its layers
read and give on data; `batches` are data in any form as inputs of a model.

    scorer     the contract of a scorer, as promises
    planner    that of a planner
    search     that of a search
    promises   what the contracts have in common
    subjects   small networks whose groups have every form
    footprint  what a scorer must leave as it was
"""

from fxprune.module.batches import Batch, batches
from fxprune.module.isolation import isolated
from fxprune.statistics.observe import Contraction, observe
from fxprune.testing.planner import PLANNER_PROMISES, check_planner
from fxprune.testing.promises import BrokenPromiseError
from fxprune.testing.scorer import PROMISES, check_scorer
from fxprune.testing.search import SEARCH_PROMISES, check_search
from fxprune.testing.subjects import SUBJECTS, Subject

__all__ = [
    "PLANNER_PROMISES",
    "PROMISES",
    "SEARCH_PROMISES",
    "SUBJECTS",
    "Batch",
    "BrokenPromiseError",
    "Contraction",
    "Subject",
    "batches",
    "check_planner",
    "check_scorer",
    "check_search",
    "isolated",
    "observe",
]
