"""A pruned model's file: its weights and the plan that it was cut by, in one safetensors file. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fxprune.errors import InputError, PlanError, check_kind
from fxprune.module.tensors import check_initialised, tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewrite
from fxprune.storage.files import accessing, checked_path, of_others, write_whole

M = TypeVar("M", bound=nn.Module)

NAME = "model.safetensors"  # of the file in a folder
_NOTE, _SUM, _KINDS = "note:", "sha256", "buffers"
_SHOWN = 4  # names that an error lists of each kind


def save(path: Path, model: nn.Module, plan: Plan, notes: Mapping[str, str] | None = None) -> None:
    """Write `encoded` to a file, which is whole or not there."""
    write_whole(path, encoded(model, plan, notes))


def encoded(model: nn.Module, plan: Plan, notes: Mapping[str, str] | None = None) -> bytes:
    """A pruned model's `state_dict` and its plan, with a checksum of both, as a safetensors file holds them.

    Args:
        model: the pruned model.
        plan: what it was cut by.
        notes: texts by name that are kept in the file as well.

    Raises:
        InputError: the model's `state_dict` holds something other than tensors, or tensors that the format has no place
            for, such as sparse ones, or others than the model has; or a note is not a text.
    """
    _check_notes(notes)
    state = model.state_dict()
    _check_names(model, state)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            what = "the model's state_dict holds something other than tensors"
            raise InputError(what, where=name, seen=type(value).__name__, remedy=_OTHERWISE)
        if value.layout is not torch.strided or value.dtype == torch.complex128:
            seen = f"{value.layout}, {value.dtype}"
            raise InputError("the file has no place for tensors of this kind", where=name, seen=seen, remedy=_OTHERWISE)
    # Cloned, because the format refuses tensors that share memory.
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}
    texts = {_NOTE + name: text for name, text in (notes or {}).items()}
    texts |= {"plan": _as_it_is_now(plan, model, state).to_json(), _KINDS: json.dumps(_kinds(model))}
    try:
        return safetensors.torch.save(tensors, {**texts, _SUM: _digest(texts, tensors)})
    except SafetensorError as error:
        what, remedy = "the file has no place for this much text", "keep large notes in a file of their own"
        raise InputError(what, seen=str(error)[:200], remedy=remedy) from error


def _as_it_is_now(plan: Plan, model: nn.Module, state: Mapping[str, Tensor]) -> Plan:
    """The plan for an original whose dims that the plan does not cut are as long as they are by now: of a new head.

    Raises:
        InputError: a dim that it cuts is of another length than the plan leaves.
    """
    cuts, shapes, held = plan.cuts(), dict(plan.shapes), tensors_of(model)
    remedy = f"put back the layer that was pruned, by another of its kind at most; or {_OTHERWISE}"
    for name, full in plan.shapes.items():
        if name not in state:
            if name in held:
                continue
            raise InputError("the model is not as its plan leaves it", where=name, seen="no such tensor", remedy=remedy)
        own, now = cuts.get(name, {}), tuple(state[name].shape)
        if len(now) != len(full) or any(now[dim] != len(kept) for dim, kept in own.items()):
            raise InputError("the model is not as its plan leaves it", where=name, seen=f"shape {now}", remedy=remedy)
        shapes[name] = tuple(full[dim] if dim in own else n for dim, n in enumerate(now))
    return replace(plan, shapes=shapes)


def _kinds(model: nn.Module) -> dict[str, str]:
    """The types of buffers of fractions that no file holds, by which a model of half precision computes."""
    known = set(model.state_dict())
    rest = {name: str(b.dtype).removeprefix("torch.") for name, b in model.named_buffers() if name not in known}
    return {name: kind for name, kind in rest.items() if kind in _TYPES}


def _check_notes(notes: Mapping[str, str] | None) -> None:
    check_kind("notes=", {} if notes is None else notes, Mapping, "give {name: text}")
    for name, text in (notes or {}).items():
        if not isinstance(name, str) or not isinstance(text, str):
            seen, remedy = f"{name!r}: {type(text).__name__}", "give {name: text}, for instance by json.dumps"
            raise InputError("a note is not a text", seen=seen, remedy=remedy)
        try:
            f"{name}{text}".encode()
        except UnicodeEncodeError as error:
            seen, remedy = f"in {name!r}: {error}"[:200], "give text that UTF-8 can hold"
            raise InputError("a note holds half a character", seen=seen, remedy=remedy) from error


def _check_names(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse a `state_dict` that a hook has renamed or thinned out: the plan's names would not be found in the file."""
    own = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    for path, module in model.named_modules(remove_duplicate=False):
        kept = [name for name in module._buffers if name not in module._non_persistent_buffers_set]
        own |= {f"{path}.{n}" if path else n: tuple(t.shape) for n in kept if (t := module._buffers[n]) is not None}
    extra = nn.modules.module._EXTRA_STATE_KEY_SUFFIX
    held = {n: tuple(t.shape) for n, t in state.items() if isinstance(t, Tensor) and not n.endswith(extra)}
    if problems := list(_problems(own, held, lacks="it lacks", adds="it adds", differs="it has")):
        raise InputError(
            "the model's state_dict is not that of its parameters and buffers, as a hook of its own makes it",
            where=type(model).__name__,
            seen="; ".join(problems),
            remedy=_OTHERWISE,
        )


_OTHERWISE = "save model.state_dict() by torch.save, and the plan by plan.save(path)"


def load(path: str | os.PathLike[str], model: M | Callable[[], M]) -> M:
    """The pruned model that `Result.save` or a search wrote.

    Args:
        path: the file, or the folder that it is in.
        model: the full-size model, with any weights; or a function without arguments that makes it. A given model is
            untouched.

    Returns:
        A new model: `model` cut by the file's plan, with the file's weights and buffers, in the file's dtypes.

    Raises:
        InputError: there is no such file, it is damaged or of another kind, or `model` is not a model, or on the meta
            device.
        PlanError: the file is of another model; the error names the tensors that do not fit.

    >>> import tempfile, torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> result = fxprune.prune(make(), torch.zeros(1, 4), pruning_ratio=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(folder)
    ...     small = fxprune.load(folder, make)
    >>> x = torch.rand(3, 4)
    >>> torch.equal(small(x), result.model(x))
    True
    """
    file = _file(path)
    plan, tensors = _read(file)
    full: M = model if isinstance(model, nn.Module) else _made(model)  # type: ignore[assignment]
    _check_full(file, plan, tensors, full)
    empty = next((n for n, t in full.state_dict(keep_vars=True).items() if isinstance(t, Tensor) and t.is_meta), None)
    if empty is not None:
        remedy = 'make the model on a real device, or give model.to_empty(device="cpu")'
        raise InputError(
            "the model has no place for the file's weights", where=empty, seen="device meta", remedy=remedy
        )
    small = rewrite(full, plan)
    for name, t in small.state_dict(keep_vars=True).items():
        if isinstance(t, Tensor) and name in tensors and t.dtype != tensors[name].dtype:
            t.data = t.data.to(tensors[name].dtype)
    kinds = _noted_kinds(file)
    for name, buffer in small.named_buffers():
        if name in kinds and buffer.is_floating_point():
            buffer.data = buffer.data.to(kinds[name])
    small.load_state_dict(tensors)
    return small


def plan_of(path: str | os.PathLike[str]) -> Plan:
    """The plan of a pruned model's file.

    Raises:
        InputError: there is no such file, or it is damaged or of another kind.
    """
    return _read(_file(path))[0]


def notes_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """The notes in a pruned model's file.

    Raises:
        InputError: there is no such file, or it is damaged or of another kind.
    """
    metadata = _metadata(_file(path))
    return {name.removeprefix(_NOTE): text for name, text in metadata.items() if name.startswith(_NOTE)}


def refuse_others(file: Path) -> None:
    """Refuse to write over a file that is there and was not written by fxprune: a model's only weights, perhaps.

    Raises:
        InputError: there is one.
    """
    with accessing(file):
        is_there = file.is_file()
    if is_there:
        try:
            _metadata(file)
        except InputError as error:
            raise of_others(file, error.seen) from error


def _file(path: str | os.PathLike[str]) -> Path:
    given = checked_path(path)
    with accessing(given):
        return given / NAME if given.is_dir() else given


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            metadata = dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    if "plan" not in metadata:
        raise _unreadable(file, "a safetensors file without a plan")
    return metadata


def _noted_kinds(file: Path) -> dict[str, torch.dtype]:
    """The types of buffers that the file does not hold."""
    try:
        noted = json.loads(_metadata(file).get(_KINDS, "{}"))
        return {str(name): _TYPES[kind] for name, kind in noted.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _unreadable(file, f"types of buffers that are none: {error}"[:200]) from error


_TYPES = {str(t).removeprefix("torch."): t for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def _read(file: Path) -> tuple[Plan, dict[str, Tensor]]:
    metadata = _metadata(file)
    tensors = safetensors.torch.load_file(file)
    texts = {name: text for name, text in metadata.items() if name != _SUM}
    if metadata.get(_SUM) != _digest(texts, tensors):
        if _SUM not in metadata:
            Plan.from_json(metadata["plan"], str(file))  # of a file of an earlier version it says so
        raise _unreadable(file, "a checksum that differs: the file was changed or damaged")
    return Plan.from_json(metadata["plan"], str(file)), tensors


def _unreadable(file: Path, seen: str) -> InputError:
    remedy = "give a file or folder that result.save or a search wrote"
    return InputError("not a pruned model's file", where=str(file), seen=seen, remedy=remedy)


def _digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the texts and, in the order of their names, of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256("\n".join(f"{name} {texts[name]}" for name in sorted(texts)).encode())
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"\n{name} {t.dtype} {list(t.shape)}\n".encode())
        digest.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _made(factory: Any) -> Any:
    if not callable(factory):
        check_kind("the model", factory, nn.Module, "give the full-size model, or a function that makes it")
    made = factory()
    check_kind("what the function makes", made, nn.Module, "give a function that returns the full-size model")
    return made


def _check_full(file: Path, plan: Plan, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse a model whose tensors, once cut, would not be those of the file, before anything is copied."""
    held = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    check_initialised(held)
    full = {n: tuple(t.shape) for n, t in held.items()}
    whole = {n: plan.shapes.get(plan.aliases.get(n, n), tuple(t.shape)) for n, t in tensors.items()}
    problems = list(_problems(whole, full, lacks="the model lacks", adds="the file lacks", differs="the model has"))
    if problems:
        cut = {n: tuple(t.shape) for n, t in tensors.items()}
        remedy = (
            "give the model at full size, as it was before pruning"
            if full == cut
            else "build the model with the arguments, and prepare it by the calls (add_samplers, untie_attention), "
            "that it had before pruning"
        )
        raise PlanError("the file is of another model", where=str(file), seen=f"{'; '.join(problems)}", remedy=remedy)
    if misfits := [*_misfits(plan, tensors, held), *_otherwise_tied(plan, tensors, held)]:
        seen = f"the file has {', '.join(misfits[:_SHOWN])}{_and_more(misfits)}"
        remedy = "give a file as result.save wrote it, and the model with numbers of the kind and tied as it had them"
        raise PlanError("the file is of another model", where=str(file), seen=seen, remedy=remedy)


def _misfits(plan: Plan, tensors: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> Iterator[str]:
    """What of a file is not as its own plan leaves it, or of numbers of another kind than the model's."""
    cuts, kept = plan.cuts(), {}
    for name, t in full.items():
        own = cuts.get(plan.aliases.get(name, name), {})
        kept[name] = tuple(len(own.get(dim, range(size))) for dim, size in enumerate(t.shape))
    other = [f"{n} {tuple(t.shape)} instead of {kept[n]}" for n, t in tensors.items() if tuple(t.shape) != kept[n]]
    kinds = [(n, t.dtype, full[n].dtype) for n, t in tensors.items() if _kind(t) != _kind(full[n])]
    yield from other
    yield from (f"{n} in {of_file} where the model has {of_model}" for n, of_file, of_model in kinds)


def _otherwise_tied(plan: Plan, tensors: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> Iterator[str]:
    """Tensors that are one in the model and differ in the file, or the other way round where the plan cuts them."""
    first: dict[int, str] = {}
    for name, t in full.items():
        one = first.setdefault(id(t), name)
        if one != name and name in tensors and one in tensors and _bytes(tensors[name]) != _bytes(tensors[one]):
            yield f"numbers of {name} and of {one} that differ, which are one tensor in the model"
    cuts = plan.cuts()
    for name, one in plan.aliases.items():
        if one in cuts and name in full and one in full and full[name] is not full[one]:
            yield f"one tensor for {name} and {one}, which are two in the model"


def _bytes(tensor: Tensor) -> bytes:
    """What tells NaN from NaN as well."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Whether a tensor holds fractions, complex numbers or truths: one kind is not given for another."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _problems(
    wanted: Mapping[str, tuple[int, ...]], seen: Mapping[str, tuple[int, ...]], *, lacks: str, adds: str, differs: str
) -> Iterator[str]:
    missing, extra = sorted(wanted.keys() - seen.keys()), sorted(seen.keys() - wanted.keys())
    other = [f"{n} {seen[n]} instead of {wanted[n]}" for n in sorted(wanted) if seen.get(n, wanted[n]) != wanted[n]]
    for what, names in ((lacks, missing), (adds, extra), (differs, other)):
        if names:
            yield f"{what} {', '.join(names[:_SHOWN])}{_and_more(names)}"


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
