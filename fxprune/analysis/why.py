"""Why a part of a model can or cannot shrink: its groups, what holds the rest, where, and what would free it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx, nn

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.grouping.partial_reads import NOT_READ, REPLACED, UNTRAINED
from fxprune.analysis.grouping.reasons import IGNORED, FixedDim, place
from fxprune.analysis.labels.dims import AS_BUFFER, ELSEWHERE, OVERLAPS, UNREGISTERED
from fxprune.errors import InputError
from fxprune.module.names import matches, names_of
from fxprune.module.parametrizations import REMEDY, computed_weights
from fxprune.plan.slots import Slot
from fxprune.storage.html import table
from fxprune.tracing.trace import Graph

_STEPS = 6  # of a way that are shown at each end


class _Groups(Protocol):
    """What is asked of `fxprune.Groups`, whose methods are answered here."""

    @property
    def graph(self) -> Graph: ...
    @property
    def fixed(self) -> Sequence[FixedDim]: ...
    @property
    def ties(self) -> Sequence[frozenset[str]]: ...
    def __iter__(self) -> Iterator[Group]: ...
    def __getitem__(self, name: str, /) -> Group: ...


@dataclass(frozen=True)
class Held:
    """Indices of a parameter's dim that must stay.

    Attributes:
        dim: the dim, how many of its indices are held, and why.
        way: the modules between the parameter and what holds it, in order.
        code: where the code stands that holds it, as `file:line (class.forward)`; empty if unknown.
        remedy: what would free it; empty if nothing does.
    """

    dim: FixedDim
    way: tuple[str, ...]
    code: str
    remedy: str

    def __str__(self) -> str:
        lines = [f"{self.dim.tensor}[dim {self.dim.dim}]: {self.dim.count} indices stay: {self.dim.reason}"]
        lines += [f"  held by: {self.dim.where}"] if self.dim.where else []
        lines += [f"  the way there: {' > '.join(self.way)}"] if self.way else []
        lines += [f"  code: {self.code}"] if self.code else []
        lines += [f"  what would free it: {self.remedy}"] if self.remedy else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Why:
    """What is known of a module, a parameter or a group.

    Attributes:
        name: what was asked for.
        groups: {group: the slots of it that lie in what was asked for}.
        notes: ties of these groups, and ops that run over all their channels.
        held: what must stay.
    """

    name: str
    groups: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    held: tuple[Held, ...]

    def __str__(self) -> str:
        found = [f"{slot} belongs to group {group}" for group, slots in self.groups.items() for slot in slots]
        return "\n".join([f"{self.name}:", *found, *self.notes, *map(str, self.held)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        slots = ((slot, f"group {group}", "", "", "") for group, found in self.groups.items() for slot in found)
        held = (
            (f"{h.dim.tensor}[dim {h.dim.dim}]", f"stays: {h.dim.reason}", " > ".join(h.way), h.code, h.remedy)
            for h in self.held
        )
        head = ("dim", "belongs to, or stays because", "the way there", "code", "what would free it")
        return table(self.name, head, (*slots, *held), self.notes)


def explained(groups: _Groups, part: str | nn.Module) -> Why:
    """What is known of a part of the model; see `Groups.why`."""
    (name,) = names_of(groups.graph.model, part)
    slots = {
        g.name: tuple(f"{s} ({len(s.positions)} of {s.length})" for s in g.slots if _asked(name, g.name, s.tensor))
        for g in groups
    }
    found = {group: mine for group, mine in slots.items() if mine}
    fixed = [d for d in groups.fixed if matches(d.tensor, name)]
    if not found and not fixed:
        raise _unknown(groups.graph.model, name)
    ways = _Ways(groups.graph)
    noted = tuple(note for group in found for note in notes(groups, group))
    return Why(name, found, noted, tuple(_held(groups, d, ways) for d in fixed))


def _unknown(model: nn.Module, name: str) -> InputError:
    """What is wrong with a name of which nothing is known."""
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if module is None:
        remedy = "give the name of a module, a parameter or a group"
        return InputError("nothing in the model has the name", seen=name, remedy=remedy)
    bare = next(module.parameters(), None) is None and next(module.buffers(), None) is None
    what = "the module has no parameters" if bare else "no dim of the module's parameters is longer than 1"
    remedy = "ask for the layer that makes its channels; only dims of parameters belong to groups"
    return InputError(what, where=name, seen=type(module).__name__, remedy=remedy)


def _asked(name: str, group: str, tensor: str) -> bool:
    return matches(tensor, name) or (name == group and not any(c in name for c in "*?["))


def notes(groups: _Groups, name: str) -> list[str]:
    """What else is known of a group: its ties, and an op that runs over all its channels; a sentence each."""
    found = [
        f"group {name} keeps the same part of its channels as {', '.join(sorted(tie - {name}))}"
        for tie in groups.ties
        if name in tie
    ]
    mixed = groups[name].mixed_by
    return [*found, *([f"{mixed} runs over all channels of group {name}"] if mixed else [])]


def as_html(groups: _Groups) -> str:
    """All groups as a table."""
    head = ("group", "channels", "made by", "read by", "notes")
    rows = (
        (g.name, g.size, _tensors(g.producers), _tensors(g.consumers), "\n".join(notes(groups, g.name))) for g in groups
    )
    return table(repr(groups), head, rows)


def _tensors(slots: Sequence[Slot]) -> str:
    return "\n".join(s.tensor for s in slots)


def _held(groups: _Groups, dim: FixedDim, ways: _Ways) -> Held:
    nodes = ways.between(dim)
    modules = list(dict.fromkeys(n.meta.get("module") or str(n.target) for n in nodes if n.op != "get_attr"))
    shown = modules if len(modules) <= 2 * _STEPS else [*modules[:_STEPS], "...", *modules[-_STEPS:]]
    end = nodes[-1] if nodes else None
    return Held(dim, tuple(shown), "" if end is None else _code(groups.graph.model, end), _remedy(groups, dim, nodes))


class _Ways:
    """Shortest ways through the recorded calls, in either direction, from a parameter to what holds it."""

    def __init__(self, graph: Graph) -> None:
        import networkx as nx

        self._graph: Any = nx.Graph([(a, n) for n in graph.fx.nodes for a in n.all_input_nodes])
        self._nodes = list(graph.fx.nodes)

    def between(self, dim: FixedDim) -> list[fx.Node]:
        """The calls on the way; empty if none is known."""
        start = next((n for n in self._nodes if n.op == "get_attr" and n.target == dim.tensor), None)
        ends = {n for n in self._nodes if self._holds(n, dim)} & set(self._graph)
        if start is None or start not in self._graph or not ends:
            return []
        import networkx as nx

        ways = nx.single_source_shortest_path(self._graph, start)
        return min((ways[end] for end in ends if end in ways), key=len, default=[])

    @staticmethod
    def _holds(node: fx.Node, dim: FixedDim) -> bool:
        if dim.reason == "model input":
            return node.op == "placeholder"
        if dim.reason.startswith("model output"):
            return node.op == "output"
        return bool(dim.where) and place(node) == dim.where


def _code(model: nn.Module, node: fx.Node) -> str:
    """Where the module's own forward stands; for a layer of PyTorch's, that of the module that calls it."""
    path = str(node.meta.get("module", ""))
    parts = path.split(".") if path else []
    callers = (model.get_submodule(".".join(parts[:k])) for k in range(len(parts), -1, -1))
    module = next((m for m in callers if not type(m).__module__.startswith("torch.nn")), None)
    if module is None:
        return ""
    forward = type(module).forward
    try:
        file, line = inspect.getsourcefile(forward), inspect.getsourcelines(forward)[1]
    except (TypeError, OSError):
        return ""
    return f"{file}:{line} ({type(module).__name__}.forward)"


def _remedy(groups: _Groups, dim: FixedDim, way: Sequence[fx.Node]) -> str:
    model = groups.graph.model
    if always := next((remedy for reason, remedy in _ALWAYS.items() if dim.reason.startswith(reason)), ""):
        return always
    if dim.reason.startswith("model output"):
        return _output_remedy(model, dim.reason.removeprefix("model output").strip())
    if dim.reason == REPLACED:
        return (
            f"write into {dim.where} (copy_, slices), or make it large enough at first, in place of assigning it anew"
        )
    if dim.reason == UNTRAINED:
        return f"example inputs that the model takes in training mode, where it failed: {groups.graph.untrained[:200]}"
    if dim.reason.endswith(AS_BUFFER):
        return "make that tensor once, and register it as a buffer (register_buffer)"
    module = dim.tensor.rpartition(".")[0]
    weight = computed_weights(model).get(module)
    if weight and REMEDY in dim.reason:
        layer, _, name = weight.rpartition(".")
        return f'{REMEDY}(model.get_submodule("{layer}"), "{name}")'
    attention = [n for n in way if _inside_attention(model, str(n.meta.get("module", "")))]
    if attention:
        return "fxprune.untie_attention(model), after which heads shrink while the stream stays"
    module = (weight or dim.tensor).rpartition(".")[0]
    if dim.dim == 1 and dim.reason not in ("model input", NOT_READ) and module:
        return f'fxprune.add_samplers(model, ["{module}"]): it then reads a part of its input, which stays whole'
    return ""


_ALWAYS = {
    IGNORED: "take it out of ignored=",
    UNREGISTERED: "hold layers in nn.ModuleList or nn.ModuleDict, parameters in nn.ParameterList",
    OVERLAPS: "make the view in the forward (self.conv.weight[:8]), or hold the parameter itself twice, to tie both",
    ELSEWHERE: "take it from its module (self.weight), where a smaller one is put in its place",
}
"""What frees a dim, by what its reason begins with, whatever the model."""


def _output_remedy(model: nn.Module, name: str) -> str:
    which = f"the output {name}" if name else "an output"
    remedy = (
        f"outputs keep their widths; where {which} carries hidden states that nobody needs, a wrapper that drops it"
    )
    cached = getattr(getattr(model, "config", None), "use_cache", False)
    cache = " (for a cache of keys and values: model.config.use_cache = False)" if cached else ""
    return f"{remedy} frees them{cache}"


def _inside_attention(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    paths = (".".join(parts[:k]) for k in range(1, len(parts) + 1))
    return any(isinstance(model.get_submodule(p), nn.MultiheadAttention) for p in paths if p)
