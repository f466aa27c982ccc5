"""Driver: what all searches do alike, from the arguments to the result."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from torch import nn

from fxprune import scorers
from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import check_called, check_flag, check_function, check_of_model, check_option
from fxprune.interrupts import interrupts_kept
from fxprune.module.data import check_batches
from fxprune.optional import progress_bar
from fxprune.planners.goals import check_callable
from fxprune.scorers.base import Scorer
from fxprune.scorers.norms import L2Norm
from fxprune.search.evaluator import Evaluator
from fxprune.search.result import Search
from fxprune.search.trial import Evaluate, Task, Tune
from fxprune.search.workers import Runner

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True)
class Progressed(Generic[T]):
    """One entry of a search's history, and how far the search is with it.

    Attributes:
        entry: the candidate or iteration, as the history shows it.
        done: part of the search that is done, in [0, 1].
        text: of the progress bar.
    """

    entry: T
    done: float
    text: str


class Driver(ABC, Generic[T]):
    """A search: `steps` asks an evaluator for the fitness of candidates, everything else is done here.

    A search of your own is a frozen dataclass with the fields `progress` (whether to show a bar) and `seed`, and the
    method `steps`. It should be a deterministic function of its fields and of the evaluator's answers, since a
    search that was killed is started again and gets the same answers from its folder.
    `fxprune.testing.check_search` checks the contract.
    """

    if TYPE_CHECKING:  # fields of the frozen dataclasses

        @property
        def progress(self) -> bool: ...
        @property
        def seed(self) -> int: ...

    @abstractmethod
    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[T]]:
        """Try candidates: `evaluator.run` gives their fitness, `evaluator.keep` notes the best so far."""

    def default_scorer(self) -> Scorer:
        """Which channels matter, if the caller gives no scorer."""
        return L2Norm()

    def __call__(
        self,
        model: M,
        groups: Groups,
        evaluate: Evaluate,
        *,
        scorer: Scorer | None = None,
        data: Iterable[Any] | None = None,
        tune: Tune | None = None,
        folder: str | os.PathLike[str] | None = None,
        workers: Runner | None = None,
        on_interrupt: Literal["raise", "return"] = "raise",
        resume: bool = False,
    ) -> Search[M, T]:
        """
        Args:
            model: the original; untouched.
            groups: its groups.
            evaluate: the quality of a model, higher is better: a number, or a tensor of one number per sample, of which
                the mean counts. Use validation data, not the test set.
            scorer: which channels matter; default `default_scorer()`.
            data: batches of training inputs for the scorer, and for refits; read several times.
            tune: trains a pruned model in place (fine-tuning, or re-calibration of BatchNorm); None for none. It should
                draw from the global generators only; they are seeded for it (`torch.initial_seed()` is the seed).
            folder: a directory that remembers every candidate; a search that was killed goes on from it, if it is given
                the same data, which are not compared.
            workers: where candidates run; default is this process.
            on_interrupt: what Ctrl-C does. "raise" saves the best so far in the folder, if there is one, and raises
                KeyboardInterrupt, which says where; "return" returns the best so far, with `finished` False.
            resume: go on from the folder also if `evaluate` or `tune` has another name, or other code, than when it was
                begun.

        Raises:
            InputError: unusable arguments or scores, or a folder of another search.
            KeyboardInterrupt: it was interrupted.
        """
        check_groups(groups, model)
        check_called("evaluate", evaluate, "give a function of a model, higher is better")
        check_of_model("evaluate", evaluate, "give a function of a model, higher is better")
        check_callable("scorer", scorer, scorers, "fxprune.scorers.L2Norm()")
        if data is not None:
            check_batches(data)
        check_of_model("tune", tune, "give a function that trains a model in place, or None")
        check_function("workers", workers, "give fxprune.search.Workers(2) for two processes, or None for this one", 2)
        check_flag("resume", resume)
        check_option("on_interrupt", on_interrupt, ("raise", "return"))
        task = Task(model, groups, evaluate, scorer or self.default_scorer(), data, tune)
        return self.run(task, folder, workers, on_interrupt, resume)

    def run(
        self,
        task: Task[M],
        folder: str | os.PathLike[str] | None = None,
        workers: Runner | None = None,
        on_interrupt: Literal["raise", "return"] = "raise",
        resume: bool = False,
    ) -> Search[M, T]:
        """Search; the arguments are those of a call, of which the first ones make the task."""
        history: list[T] = []
        with Evaluator(task, self, folder, workers, resume) as evaluator:
            try:
                with interrupts_kept(), _bar(type(self).__name__, shown=self.progress) as show:
                    for step in self.steps(evaluator):
                        history.append(step.entry)
                        show(step.done, step.text)
            except KeyboardInterrupt as interrupt:
                if on_interrupt == "return":
                    return evaluator.result(history, finished=False)
                raise _interrupted(evaluator, history, folder) from interrupt
            return evaluator.result(history, finished=True)


def _interrupted(
    evaluator: Evaluator[Any], history: list[Any], folder: str | os.PathLike[str] | None
) -> KeyboardInterrupt:
    """The interruption, after the best so far was saved, in words."""
    if folder is None:
        return KeyboardInterrupt("the search was interrupted and nothing is saved; folder= keeps what was tried")
    evaluator.result(history, finished=False)
    return KeyboardInterrupt(
        f"the search was interrupted; what was tried and the best so far are in {os.fspath(folder)}, "
        "from where the same call goes on"
    )


@contextmanager
def _bar(name: str, *, shown: bool) -> Iterator[Callable[[float, str], None]]:
    with progress_bar(shown) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda done, text: bar.update(task, completed=done, description=text)
