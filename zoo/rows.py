"""Results of a comparison in a folder, a JSON line each, so that a run that was cut off goes on from there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.files import replacing

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
        ZooError: the folder has rows of other settings, or is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "settings.json", json.loads(json.dumps(settings)))
        self._path = folder / "rows.jsonl"
        self.by_key: dict[Key, Row] = {row.key: row for row in _read(self._path)}

    def __contains__(self, key: Key) -> bool:
        return key in self.by_key

    def add(self, row: Row) -> None:
        """Append a row, in the file too."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        self.by_key[row.key] = row


def _claim(path: Path, settings: Any) -> None:
    if not path.exists():
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if before != settings:
        names = [k for k in settings if not isinstance(before, dict) or before.get(k) != settings[k]]
        raise ZooError(f"{path}: is of a run with other settings ({', '.join(names)}); give another folder")


def _read(path: Path) -> list[Row]:
    """The rows at ``path``; a last line that a crash has cut off is dropped, in the file too."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise ZooError(f"{path}, line {number}: not a result ({error}); delete it to start over") from error
            with replacing(path) as scratch:
                scratch.write_text("".join(f"{good}\n" for good in lines[:-1]), encoding="utf-8")
    return rows
