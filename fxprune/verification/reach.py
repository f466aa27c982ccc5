"""Reach: what of a model the recorded forward has called and read, and by what."""

from __future__ import annotations

from torch import nn

from fxprune.module.tensors import walk
from fxprune.tracing.provenance import is_torchs
from fxprune.tracing.trace import Graph
from fxprune.verification.randomise import is_leaf


def reads_sizes(graph: Graph) -> bool:
    """Whether the model's code, not PyTorch's, reads sizes of activations."""
    return graph.run is not None and any(not is_torchs(code) for _, code in graph.run.reads)


def called(graph: Graph) -> frozenset[str]:
    """The parametrised modules that issued calls."""
    issued = {n.meta["module"] for n in graph.fx.nodes if n.op == "call_function" and not n.meta["extra"]}
    return frozenset(path for path, module in walk(graph.model) if path in issued and is_leaf(module))


def read_by(graph: Graph) -> frozenset[str]:
    """The tensors that the recorded forward used."""
    return frozenset(n.meta.get("elsewhere", str(n.target)) for n in graph.fx.nodes if n.op == "get_attr")


def unreached(graph: Graph) -> tuple[str, ...]:
    """The names of modules whose own parameters the recorded forward did not use, though they have some; and of single
    parameters that it did not use, of modules that it reached (`mask_token`), and of the model itself.
    """
    used = read_by(graph)
    names = {id(t): name for name, t in graph.tensors.items()}

    def idle(path: str, module: nn.Module) -> list[str]:
        own = [names[id(p)] for p in module._parameters.values() if p is not None]
        unread = [name for name in own if name not in used]
        return [path] if path and own and unread == own else unread

    return tuple(dict.fromkeys(name for path, module in walk(graph.model) for name in idle(path, module)))
