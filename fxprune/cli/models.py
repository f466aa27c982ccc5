"""A model by its name on the command line, with weights and example inputs."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import math
import pickle
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fxprune.cli import libraries
from fxprune.cli.answer import CommandError
from fxprune.cli.libraries import Loaded, in_a_line
from fxprune.cli.options import ModelOptions

_DEFAULT_SHAPE = (1, 3, 224, 224)
_MOST_NUMBERS = 2**28  # of an input: a gigabyte
_PREFIX = "module."  # of names in the state_dict of a DistributedDataParallel


def load(options: ModelOptions) -> Loaded:
    """The model, on its device and in evaluation mode, and its example inputs.

    Raises:
        CommandError: there is no such model, or its weights do not fit.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = named(options.model, arguments(options.model_arg or ()), options.pretrained)
    if options.weights is not None:
        load_weights(found.model, options.weights)
        found = replace(found, is_random=False)
    inputs = example(options.input_shape or (), found.inputs)
    device, half = _device(options.device), _half(found.model)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, half if half and value.is_floating_point() else value.dtype)

    return replace(found, model=found.model.to(device), inputs=tree_map(moved, inputs))


def _half(model: nn.Module) -> torch.dtype | None:
    """The type of half precision that all weights have, and so the inputs, too; None if there is none."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return kinds.pop() if kinds in ({torch.float16}, {torch.bfloat16}) else None


def named(name: str, given: Mapping[str, Any], pretrained: bool = False) -> Loaded:
    """The model that a name stands for, in evaluation mode, with the example inputs that are known.

    Raises:
        CommandError: there is none, or it cannot be made.
    """
    library, _, inner = name.partition(":")
    if library in libraries.NAMES and inner:
        return libraries.load(library, inner, dict(given), pretrained)
    if pretrained:
        raise CommandError(f"'{name}' is of no library that has weights of its own; give --weights")
    if name.endswith(".pt2"):
        return _exported(Path(name))
    if ":" not in name:
        known = ", ".join(f"{n}:NAME" for n in libraries.NAMES)
        raise CommandError(f"'{name}' names no model; give {known}, file.py:FACTORY, module:FACTORY or a .pt2 file")
    held = attribute(name)
    if isinstance(held, nn.Module) and given:
        raise CommandError(f"{name} is a model already, and takes no arguments; seen: {', '.join(given)}")
    model = held if isinstance(held, nn.Module) else attempt(lambda: factory(name)(**given), name)
    if not isinstance(model, nn.Module):
        raise CommandError(f"{name} returned no nn.Module; seen: {type(model).__name__}")
    return Loaded(model.eval())


def _exported(path: Path) -> Loaded:
    """The module of an exported program, which is already in one mode, and its own example inputs."""
    if not path.is_file():
        raise CommandError(f"no such file: {path}")
    program = attempt(lambda: torch.export.load(path), str(path))
    args, kwargs = program.example_inputs or ((), {})
    if args and kwargs:
        raise CommandError(f"{path} was exported with inputs by place and by name; export it with one kind alone")
    unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    return Loaded(program.module(**unguarded), kwargs or args or None)


def factory(name: str) -> Callable[..., Any]:
    """The callable that `module:name` or `file.py:name` stands for.

    Raises:
        CommandError: there is none.
    """
    found = attribute(name)
    if not callable(found):
        raise CommandError(
            f"{name} is not callable; seen: {type(found).__name__}; give a function or class that returns an nn.Module"
        )
    return found  # type: ignore[no-any-return]


def attribute(name: str) -> Any:
    """The object that `module:name` or `file.py:name` stands for; modules are also looked for where we are.

    Raises:
        CommandError: there is none.
    """
    path, _, inner = name.partition(":")
    try:
        found: Any = _from_file(Path(path)) if path.endswith(".py") else _from_module(path)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"cannot import {path}: {error}; run where the module lies, or put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"importing {path} raised {in_a_line(error)}") from error
    for part in inner.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(inner, dir(found), 3)
            raise CommandError(f"{path} has no '{inner}'" + (f"; did you mean {', '.join(near)}?" if near else ""))
        found = getattr(found, part)
    return found


def _from_module(path: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(path)


def _from_file(path: Path) -> Any:
    """A module from a file, under the file's own name if that is free, so that what it defines can be pickled."""
    if not path.is_file():
        raise ModuleNotFoundError(f"no such file: {path}")
    file = str(path.resolve())
    name = path.stem if path.stem not in sys.modules else f"{path.stem} ({file})"
    loaded = sys.modules.get(path.stem), sys.modules.get(name)
    for module in loaded:
        if getattr(module, "__file__", None) == file:
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; a value is a Python literal, or else a text.

    >>> arguments(["num_classes=10", "act=relu"])
    {'num_classes': 10, 'act': 'relu'}
    """
    pairs = [text.partition("=") for text in given]
    for name, sign, _ in pairs:
        if not sign or not name.isidentifier():
            raise CommandError(f"not an argument: '{name}'; give NAME=VALUE, for instance num_classes=10")
    for name, count in Counter(name for name, _, _ in pairs).items():
        if count > 1:
            raise CommandError(f"--model-arg {name} is given {count} times; give it once")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def example(shapes: Sequence[str], stated: Any) -> Any:
    """Example inputs: of the given shapes, or as the model's library states them, or one image.

    Shapes for as many tensors as the library states keep its form and types: token ids stay integers.
    """
    leaves, form = tree_flatten(stated)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if not shapes:
        return torch.rand(_DEFAULT_SHAPE) if stated is None else stated
    if len(tensors) != len(shapes):
        return tuple(_drawn(text, torch.float32) for text in shapes)
    for i, text in zip(tensors, shapes, strict=True):
        leaves[i] = _drawn(text, leaves[i].dtype)
    return tree_unflatten(leaves, form)


def _drawn(text: str, kind: torch.dtype) -> Tensor:
    """A tensor of the shape `1,3,224,224`, or of integers: `1,12:int`."""
    sizes, _, wanted = text.partition(":")
    if wanted not in ("", "int", "float"):
        raise CommandError(f"not a type of numbers: '{wanted}'; give int or float, for instance 1,12:int")
    kind = {"int": torch.int64, "float": torch.float32}.get(wanted, kind)
    return torch.rand(shape(sizes)).to(kind)  # integers are 0, which every table of embeddings has


def shape(text: str) -> tuple[int, ...]:
    """A shape such as `1,3,224,224`.

    Raises:
        CommandError: it is none, or too large.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise CommandError(f"not a shape: '{text}'; give positive numbers with commas, for instance 1,3,224,224")
    if math.prod(found) > _MOST_NUMBERS:
        raise CommandError(f"too large an input: '{text}'; give one of at most {_MOST_NUMBERS} numbers")
    return found


def attempt(build: Callable[[], Any], what: str) -> Any:
    """Call the user's code.

    Raises:
        CommandError: it raises something.
    """
    try:
        return build()
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(f"{what} raised {in_a_line(error)}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a `state_dict` from a file of tensors.

    Raises:
        CommandError: there is no such file, it holds more than tensors, or it does not fit.
    """
    state = _state(path)
    if state and all(name.startswith(_PREFIX) for name in state):
        state = {name.removeprefix(_PREFIX): t for name, t in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CommandError(f"{path} does not fit the model: {' '.join(str(error).split())[:400]}") from error


def _state(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        raise CommandError(f"{path} is a folder; give the file of weights in it")
    if not path.is_file():
        raise CommandError(f"no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _tensors(path, torch.load(path, map_location="cpu", weights_only=True))
    except CommandError:
        raise
    except Exception as error:
        hint = "files that hold more than tensors are not read, since reading them runs what they contain"
        raise CommandError(f"cannot read {path}: {_unread(error)}; {hint}") from error


def _unread(error: Exception) -> str:
    """What is in the way of reading a file of weights, without PyTorch's advice to read it in the unsafe way."""
    if not isinstance(error, pickle.UnpicklingError):
        return in_a_line(error)
    found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    return f"it holds {found[1]}" if found else "it is no file of tensors"


def _tensors(path: Path, data: Any) -> dict[str, Tensor]:
    """The `state_dict` in what a checkpoint holds: all of it, or the only entry that is one."""
    parts = [data, *data.values()] if isinstance(data, dict) else []
    found = [p for p in parts if isinstance(p, dict) and p and all(isinstance(t, Tensor) for t in p.values())]
    if len(found) != 1:
        seen = ", ".join(map(str, list(data)[:8])) if isinstance(data, dict) else type(data).__name__
        raise CommandError(f"{path} holds {len(found)} state_dicts, not one; seen: {seen}")
    return found[0]


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except Exception as error:
        raise CommandError(f"no device {name}: {in_a_line(error)}") from error
