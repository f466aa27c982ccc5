"""Wrappers: modules around a model that run it compiled, or on several devices."""

from __future__ import annotations

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.module.tensors import walk


def check_unwrapped(model: nn.Module) -> None:
    """Refuse a wrapper: what it calls is compiled, or belongs to other devices and processes; its names are others.

    A `DataParallel` is refused without devices as well, so that what works does not depend on the machine.

    Raises:
        InputError: a part of the model is wrapped, or scripted.
    """
    for path, module in walk(model):
        check_python(path, module)
        compiled = "_orig_mod" in module._modules and type(module).__module__.startswith("torch._dynamo")
        if compiled or isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = f"{path or 'model'}.{'_orig_mod' if compiled else 'module'}"
            give = f"give {inner}" if not path else f"put {inner} in the place of {path}"
            raise InputError(
                "the model is compiled" if compiled else "the model is wrapped to run on several devices",
                where=path or type(model).__name__,
                seen=type(module).__name__,
                remedy=f"{give}, and {'compile the smaller model' if compiled else 'wrap the smaller model again'}",
            )


def check_python(path: str, module: nn.Module) -> None:
    """Refuse a scripted module.

    Raises:
        InputError: it is one.
    """
    if isinstance(module, torch.jit.ScriptModule):
        remedy = "give the module that torch.jit.script or trace was given"
        where = path or type(module).__name__
        raise InputError("a scripted module has no Python code to follow", where=where, remedy=remedy)
