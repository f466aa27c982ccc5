"""Rich tables of groups and of what is fixed, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import check_integer, check_kind
from fxprune.report.data import Pruned, fixed_rows, group_rows, parts_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def group_table(subject: Groups | Pruned, title: str = "") -> Table:
    """One line a group: name, channels, members by role, parameters, share of the MACs; of a result, what stays."""
    groups, plan = parts_of(subject)
    check_kind("the title", title, str, 'give a text; "" is the number of groups')
    rows = group_rows(groups, plan)
    caption = "MACs: the part of all MACs that the group's channels take part in; the parts overlap." if rows else None
    table = _table(title or f"{len(groups)} prunable groups", caption)
    table.add_column("group", overflow="fold", style="bold")
    table.add_column("channels", justify="right", no_wrap=True)
    if plan:
        table.add_column("stay", justify="right", no_wrap=True)
    table.add_column("members", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    notes = any(row.notes for row in rows)
    if notes:
        table.add_column("note", overflow="fold", ratio=1)
    for row in rows:
        figures = f"{row.parameters:,}", f"{row.share:.1%}"
        note = [_plain("\n".join(row.notes))] if notes else []
        stay = [] if row.kept is None else [str(row.kept)]
        table.add_row(_plain(row.group.name), str(row.group.size), *stay, row.members, *figures, *note)
    return table


def members_table(group: Group) -> Table:
    """One line a slot of `group`: tensor, dim, role, and how many indices a channel owns there."""
    check_kind("the group", group, Group, "give one of the groups of fxprune.find_groups")
    table = _table(f"{group.name}: {group.size} channels")
    table.add_column("tensor", overflow="fold")
    table.add_column("dim", justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("indices a channel", justify="right", no_wrap=True)
    for s in group.slots:
        table.add_row(_plain(s.tensor), str(s.dim), s.role, str(len(s.positions) // group.size))
    return table


def fixed_table(groups: Groups, examples: int = 3) -> Table:
    """One line a reason and place: how many dims it fixes, and the first of them."""
    check_integer("the number of examples", examples, 0, "3 is usual")
    rows = fixed_rows(groups)
    table = _table("What must stay, and why")
    table.add_column("reason", overflow="fold", style="bold", ratio=3)
    places = any(row.where for row in rows)
    if places:
        table.add_column("where", overflow="fold", ratio=3)
    table.add_column("dims", justify="right", no_wrap=True)
    table.add_column("for instance, with the number of indices", overflow="fold", ratio=4)
    for row in rows:
        more = ["..."] if len(row.dims) > examples else []
        where = [_plain(row.where)] if places else []
        table.add_row(_plain(row.reason), *where, str(len(row.dims)), _plain("\n".join(row.examples(examples) + more)))
    return table


def _table(title: str, caption: str | None = None) -> Table:
    from rich.table import Table

    return Table(
        title=_plain(title), caption=caption, title_justify="left", caption_justify="left", header_style="bold"
    )


def _plain(text: str) -> Text:
    """Text whose brackets are not read as markup."""
    from rich.text import Text

    return Text(text)
