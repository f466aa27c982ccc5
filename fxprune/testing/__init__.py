"""What authors of their own scorers test them with: `check_scorer` runs the contract on small networks.

from fxprune.testing import check_scorer

def test_my_scorer():
    check_scorer(MyScorer())
"""

from fxprune.testing.scorer import PROMISES, BrokenPromiseError, check_scorer
from fxprune.testing.subjects import SUBJECTS, Subject

__all__ = ["PROMISES", "SUBJECTS", "BrokenPromiseError", "Subject", "check_scorer"]
