"""The recipes, one file each: a module here that has a ``RECIPE`` is one, under the name that it gives."""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module

from zoo.recipe import Adaptation, Recipe


def _found() -> Iterator[Recipe | Adaptation]:
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        yield import_module(f"{__name__}.{module}").RECIPE


_ALL = tuple(_found())

RECIPES: Mapping[str, Recipe] = {r.name: r for r in _ALL if isinstance(r, Recipe)}
"""Every recipe of plain training by its name."""

ADAPTATIONS: Mapping[str, Adaptation] = {r.name: r for r in _ALL if isinstance(r, Adaptation)}
"""Every recipe of domain adaptation by its name."""
