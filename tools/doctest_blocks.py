"""An extension of mkdocstrings: examples in docstrings become code; Markdown would take them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A paragraph that starts with a prompt, with the output and the further prompts that belong to it.
_EXAMPLE = re.compile(r"^>>> .*(?:\n\S.*|\n +\S.*)*", re.M)


class DoctestBlocks(griffe.Extension):
    """Wraps every example of a docstring in a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(lambda m: f"```pycon\n{m.group()}\n```", obj.docstring.value)
