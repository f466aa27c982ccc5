"""Results of a comparison in a folder, a JSON line each, so that a run that was cut off goes on from there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fxprune.storage.files import claim
from fxprune.storage.json_lines import Lines

Key = tuple[str, int, float]


@dataclass(frozen=True)
class Row:
    """One pruned network; accuracies are those on test images, in [0, 1], which decided nothing.

    Args:
        contender: its name.
        seed: of data, full network, search and fine-tuning.
        reduction: of the MACs that was asked for; 1 for the full network.
        macs, parameters: what is left.
        part: of the full network's MACs.
        source, target: accuracy after the fine-tuning.
        source_before, target_before: accuracy before it.
        commit: of the code.
    """

    contender: str
    seed: int
    reduction: float
    macs: int
    parameters: int
    part: float
    source: float
    target: float
    source_before: float
    target_before: float
    commit: str | None = None

    @property
    def key(self) -> Key:
        """What it is a result of."""
        return self.contender, self.seed, self.reduction


class Rows:
    """The rows of a folder.

    Args:
        folder: made if it is not there.
        settings: plain data of what all rows share.

    Raises:
        InputError: the folder has rows of other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder / "settings.json", settings)
        self._lines = Lines(folder / "rows.jsonl", lambda line: Row(**line))
        self.by_key: dict[Key, Row] = {row.key: row for row in self._lines.values}

    def __contains__(self, key: Key) -> bool:
        return key in self.by_key

    def add(self, row: Row) -> None:
        """Append a row, in the file too."""
        self._lines.append(asdict(row))
        self.by_key[row.key] = row
