"""Every model of torchvision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision_models as tv

from suites import Case

PACKAGE = "torchvision"
names = tv.names


def case(name: str) -> Case:
    size = tv.image_size(name)
    return Case(
        family=tv.family(name),
        build=partial(tv.build, name),
        example=partial(tv.example, name),
        larger=partial(tv.example, name, size=size + (64 if "raft" in name else 32)),
        training=partial(_training, name, 3 if size < 224 else 2),
        free_dims=int(tv.family(name) == "detection"),
    )


def _training(name: str, batch: int) -> Any:
    inputs = tv.example(name, batch)
    return (inputs, tv.targets(name, inputs)) if isinstance(inputs, list) else inputs
