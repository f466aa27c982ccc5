"""A plan: which channels stay, as a value. Applying it needs neither a graph nor the model that it was made from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace

from fxprune.errors import PlanError
from fxprune.plan.composition import check_composed, composed_fields
from fxprune.plan.file import fields_of, to_data
from fxprune.plan.slots import Ints, PlanFields, PlannedGroup, Scale, Slot
from fxprune.storage.files import accessing, checked_path, refuse_unmarked, write_whole
from fxprune.storage.html import table

__all__ = ["Ints", "Plan", "PlannedGroup", "Scale", "Slot"]

_LONGEST_TEXT = 2**26  # that of a transformer of 70 billion parameters is half as long
# What reading raises where data are not laid out like a plan.
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True, repr=False)
class Plan(PlanFields):
    """Which channels of which groups stay.

    Attributes:
        groups: the planned groups by name, in execution order.
        attributes: new values of int attributes that do not follow from tensor shapes: {module: {"groups": 16}}.
        shapes: the full shape of each tensor that the plan cuts or scales.
        scales: weights that take up a changed attention scale.
        orders: what stays of dims whose channels the smaller model's shuffles put in another order, in that order:
            {tensor: {dim: indices}}.
        aliases: further names of tensors in `shapes` that the model has under several: {name: name in `shapes`}.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> plan = fxprune.planners.Uniform(0.25)(groups, fxprune.scorers.L2Norm()(net, groups))
    >>> plan.kept_counts()
    {'0': 6}
    >>> fxprune.Plan.from_json(plan.to_json()) == plan
    True
    """

    def then(self, second: Plan) -> Plan:
        """The plan that does in one step what this one and then `second` do.

        Args:
            second: a plan for the model that this one leaves, `fxprune.rewrite(model, self)`.

        Returns:
            A plan for the full-size model.

        Raises:
            PlanError: `second` is for another model.

        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> first = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4))).plan({"0": [0, 2, 4, 6]})
        >>> small = fxprune.rewrite(net, first)
        >>> second = fxprune.find_groups(fxprune.trace(small, torch.zeros(1, 4))).plan({"0": [1, 3]})
        >>> first.then(second).groups["0"].kept.tolist()
        [2, 6]
        """
        check_plan(second)
        both = replace(self, **composed_fields(self, second))
        check_composed(self, second, both)
        return both

    def __repr__(self) -> str:
        stay, whole = (sum(f(g) for g in self.groups.values()) for f in (lambda g: len(g.kept), lambda g: g.size))
        return f"Plan({len(self.groups)} groups: {stay} of {whole} channels stay)"

    def _repr_html_(self) -> str:
        rows = ((g.name, g.size, len(g.kept), f"{len(g.kept) / g.size:.0%}") for g in self.groups.values())
        return table(repr(self), ("group", "channels", "stay", "part"), rows)

    def to_json(self) -> str:
        """Readable JSON, one group a paragraph."""
        return json.dumps(to_data(self), indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "the given text") -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            PlanError: the text is truncated, malformed or inconsistent.
        """
        _check_length(len(text), source)
        try:
            return cls(**fields_of(json.loads(text)))
        except PlanError as error:
            where = f"{error.where} of {source}" if error.where else source
            raise PlanError(error.what, where=where, seen=error.seen, remedy=error.remedy) from error
        except _MALFORMED as error:
            raise PlanError(
                "not a plan",
                where=source,
                seen=f"{type(error).__name__}: {error}",
                remedy="the file is damaged, cut short or of another kind; save the plan again",
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON; another plan's file is replaced whole or not at all.

        Raises:
            InputError: there is a file of something else.
            StorageError: the system does not let it be written.
        """
        file = checked_path(path)
        refuse_unmarked(file, '"fxprune_plan"')
        write_whole(file, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan written by `save`.

        Raises:
            PlanError: the file is truncated, malformed or inconsistent.
            StorageError: the system does not let it be read: there is no such file, or it is a folder.
        """
        file = checked_path(path)
        try:
            with accessing(file):
                _check_length(file.stat().st_size, str(path))
                text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PlanError(
                "not a plan", where=str(path), seen="binary data", remedy="give a plan's JSON file"
            ) from error
        return cls.from_json(text, str(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and to_data(self) == to_data(other)

    def __hash__(self) -> int:
        return hash(tuple(self.kept_counts().items()))


def _check_length(characters: int, source: str) -> None:
    if characters > _LONGEST_TEXT:
        raise PlanError(
            "not a plan: the text is longer than that of any plan",
            where=source,
            seen=f"{characters} characters",
            remedy=f"give a plan's JSON file, of at most {_LONGEST_TEXT} characters",
        )


def check_plan(plan: object) -> None:
    """Refuse what is not a plan.

    Raises:
        PlanError: it is none.
    """
    if not isinstance(plan, Plan):
        raise PlanError("the argument is not a plan", seen=type(plan).__name__, remedy="give what a planner returns")
