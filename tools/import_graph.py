"""Print which rooms of fxprune import which others, floor by floor: tools/import_graph.py [FOLDER]

A room is a module or a package right below fxprune/; `--deep` takes every package for a room of its own. A room's floor
is one above the highest floor that it imports from; rooms of a cycle share a floor. Imports for annotations count.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx


def imports(path: Path, modules: set[str]) -> Iterator[str]:
    """The modules of the same package that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{a.name}" for a in node.names)
            yield from (name if name in modules else node.module for name in inner if node.module in modules)


def graph(folder: Path, deep: bool) -> nx.DiGraph:
    """Rooms, and arrows to the rooms that they import."""
    files = {".".join(p.relative_to(folder.parent).with_suffix("").parts): p for p in folder.rglob("*.py")}
    modules = {name.removesuffix(".__init__") for name in files} - {folder.name}

    def room(name: str, package: bool = False) -> str:
        parts = name.split(".")[1:]
        is_module = (folder / Path(*parts)).with_suffix(".py").exists() and not package
        return ".".join(parts[:-1] if is_module and len(parts) > 1 else parts) if deep else parts[0]

    found: nx.DiGraph = nx.DiGraph()
    for name, path in files.items():
        if name == f"{folder.name}.__init__":
            continue
        own = room(name.removesuffix(".__init__"), name.endswith(".__init__"))
        found.add_node(own)
        found.add_edges_from((own, other) for other in map(room, imports(path, modules)) if other != own)
    return found


def floors(rooms: nx.DiGraph) -> dict[str, int]:
    """The floor of each room."""
    cycles = nx.condensation(rooms)
    heights: dict[int, int] = {}
    for c in reversed(list(nx.topological_sort(cycles))):
        heights[c] = 1 + max((heights[below] for below in cycles.successors(c)), default=0)
    return {room: heights[c] for c, data in cycles.nodes(data=True) for room in data["members"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "fxprune")
    parser.add_argument("--deep", action="store_true", help="every package is a room")
    given = parser.parse_args()
    rooms = graph(given.folder.resolve(), given.deep)
    floor = floors(rooms)
    for room in sorted(rooms, key=lambda r: (-floor[r], r)):
        print(f"{floor[room]:3}  {room:40} imports {', '.join(sorted(rooms.successors(room))) or 'nothing'}")
    cycles = [c for c in nx.strongly_connected_components(rooms) if len(c) > 1]
    print(f"{len(rooms)} rooms, {max(floor.values())} floors, {rooms.number_of_edges()} arrows, {len(cycles)} cycles")


if __name__ == "__main__":
    main()
