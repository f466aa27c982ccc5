"""The shape of the code itself: layers without cycles, short files and functions, a frozen surface, no model names."""

import ast
import re
import symtable
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

import fxprune
from fxprune import ops
from fxprune.tracing.functions import OF_NUMBERS, RELATIVE, SIZED

ROOT = Path(fxprune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES = 350
MOST_BODY_LINES = 60


def relative(path: Path) -> str:
    return path.relative_to(ROOT.parent).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(p): p for p in FILES}


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(autouse=True, scope="module")
def _forgotten() -> Iterator[None]:
    """The trees of all files are not kept for the tests that follow."""
    yield
    nodes_of.cache_clear()


@cache
def imported(path: Path) -> list[str]:
    """The fxprune modules that a file imports, at any depth; imports for annotations alone count."""
    return [name for node in nodes_of(path) for name in imports(node, path)]


def imports(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (a.name for a in node.names if a.name.partition(".")[0] == "fxprune")
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in {relative(path)}:{node.lineno}"
        if (node.module or "").partition(".")[0] == "fxprune":
            for a in node.names:
                inner = f"{node.module}.{a.name}"
                yield inner if inner in MODULES else str(node.module)


def test_imports_form_no_cycle() -> None:
    """Function-level imports count: they hide a cycle, they do not remove it."""
    graph = nx.DiGraph((name, other) for name, path in MODULES.items() for other in imported(path) if other != name)
    assert set(graph) <= set(MODULES), set(graph) - set(MODULES)
    assert list(nx.simple_cycles(graph)) == []


# The rooms right below fxprune/, from the ground up: the pipeline. A room imports from those that stand before it;
# the command alone may use the public names of `fxprune` itself.
ROOMS = """
errors interrupts optional storage module plan tracing analysis rewriting costs verification statistics reconstruction
scorers planners sparsity search report testing result prune_arguments pipeline training cli __main__
""".split()


def test_rooms_import_downwards_only() -> None:
    def room(name: str) -> str:
        return name.split(".")[1]

    inner = {name: path for name, path in MODULES.items() if name != "fxprune"}
    assert {room(name) for name in inner} == set(ROOMS)
    upwards = [
        f"{relative(path)} imports {other}"
        for name, path in inner.items()
        for other in imported(path)
        if (room(name) != "cli" if other == "fxprune" else ROOMS.index(room(other)) > ROOMS.index(room(name)))
    ]
    assert upwards == []


def test_imports_are_at_the_top() -> None:
    inner = [
        f"{relative(p)}:{n.lineno}"
        for p in FILES
        for f in nodes_of(p)
        if isinstance(f, ast.FunctionDef)
        for n in ast.walk(f)
        if isinstance(n, ast.Import | ast.ImportFrom) and "fxprune" in ast.unparse(n)
    ]
    assert inner == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST_LINES


def rooms(package: Path) -> set[str]:
    """The rooms that a package's docstring lists, a line each."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return set(re.findall(r"^ *(\w+)(?:\.py)? {2,}\S", docstring, re.M)) | set(
        re.findall(r"; (\w+)(?:\.py)?: ", docstring)
    )


@pytest.mark.parametrize("package", sorted({p.parent for p in FILES} - {ROOT}), ids=relative)
def test_the_map_of_a_package_is_complete(package: Path) -> None:
    inside = {p.parent.name for p in package.glob("*/__init__.py")}
    assert rooms(package) - inside == {p.stem for p in package.glob("*.py")} - {"__init__"}


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (n for n in nodes_of(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))  # type: ignore[misc]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_are_short(path: Path) -> None:
    """Lines of the body, docstring left out."""
    for f in functions(path):
        body = f.body[1:] if ast.get_docstring(f) and len(f.body) > 1 else f.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
        assert lines < MOST_BODY_LINES, f"{f.name}: {lines}"


def test_public_surface_is_the_reviewed_one() -> None:
    """To change it, change `public_api.txt` in the same commit."""
    reviewed = (Path(__file__).parent / "public_api.txt").read_text().split()
    assert sorted(fxprune.__all__) == reviewed
    assert all(hasattr(fxprune, name) for name in reviewed)


def test_nothing_else_is_public_at_the_top() -> None:
    own = {
        n
        for n, v in vars(fxprune).items()
        if not n.startswith("_") and getattr(v, "__module__", "").startswith("fxprune")
    }
    assert own <= set(fxprune.__all__), own - set(fxprune.__all__)


@pytest.mark.parametrize("name", [n for n in fxprune.__all__ if n not in ("planners", "scorers")])
def test_public_names_are_documented(name: str) -> None:
    assert (getattr(fxprune, name).__doc__ or "").strip()


# Names of architectures, their classes, and of the parameters that only they have.
FORBIDDEN = """
alexnet convnext densenet efficientnet googlenet inception maxvit mnasnet mobilenet mvit raft regnet resnet resnext
shufflenet squeezenet swin vgg vit wide_resnet deeplab deeplabv3 fcn lraspp fcos retinanet rcnn ssd s3d r3d mc3
yolo unet bert clip deit
basicblock bottleneck invertedresidual convbnactivation conv2dnormactivation squeezeexcitation encoderblock dropblock
frozenbatchnorm2d swintransformer visiontransformer cnblock fire firemodule inceptionaux denselayer
qkv downsample aux_classifier rpn roi_heads relative_position_bias_table class_token cls_token
torchvision.models torchvision.ops
""".split()
PATTERN = re.compile(r"(?<![a-z])(" + "|".join(re.escape(w) for w in FORBIDDEN) + r")(?![a-z])", re.IGNORECASE)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_architecture_is_named(path: Path) -> None:
    """Neither in code nor in docstrings or comments; `torchvision::` ops and `layer1.0.conv1` are fine."""
    found = [
        f"{i}: {m.group()}" for i, line in enumerate(path.read_text().splitlines(), 1) for m in PATTERN.finditer(line)
    ]
    assert found == []


def test_the_pattern_finds_names() -> None:
    for text in (
        "ResNet18",
        "a vit_b_16",
        "block.downsample.0",
        "self.qkv",
        "from torchvision.models import x",
        "swin3d_t",
    ):
        assert PATTERN.search(text), text
    for text in (
        "torchvision::nms",
        "layer1.0.conv1",
        "invite",
        "activity",
        "gravity",
        "upsample_nearest2d",
        "firefly",
    ):
        assert not PATTERN.search(text), text


def test_no_print_no_assert_on_input_no_bare_except() -> None:
    """Errors are fxprune's own; nothing is swallowed without a kind; nothing is printed."""
    for path in FILES:
        nodes = nodes_of(path)
        bare = [n.lineno for n in nodes if isinstance(n, ast.ExceptHandler) and n.type is None]
        called = [n.func for n in nodes if isinstance(n, ast.Call)]
        plain = [f for f in called if isinstance(f, ast.Name) or (isinstance(f, ast.Attribute) and f.attr == "load")]
        unwanted = [f.lineno for f in plain if ast.unparse(f) in ("print", "eval", "exec", "pickle.load")]
        assert not bare + unwanted, f"{relative(path)}:{bare + unwanted}"


# Files that may name ops or PyTorch's functions: the table of ops, that of functions, and kernels.
NAMING = re.compile(r"fxprune/(analysis/ops/|tracing/(functions|meta_kernels|plain_layers|chunked_convolution)\.py)")
# Names of ops that mean something else elsewhere: Python's operators, methods and words of settings and files.
OTHERWISE = set(
    "add sub mul pow floor sqrt eq ne lt le gt ge __getitem__ full narrow tensor "
    "sum mean max permute zero repeat fill where mode".split()
)


def named_ops(source: str) -> set[str]:
    """Names of ops and functions of PyTorch that stand in code as strings, and the namespace of ops."""
    known = {*SIZED, *RELATIVE, *OF_NUMBERS} | {n.rpartition("::")[2] for n in ops.OPS}
    nodes = list(ast.walk(ast.parse(source)))
    strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    words = {w.rpartition("::")[2].split(".")[0] for s in strings for w in (s, *(w for w in s.split() if "::" in w))}
    spaces = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and n.attr in ("ops", "aten")}
    return ((words & known) - OTHERWISE) | (spaces & {"torch.ops", "torch.ops.aten"})


def test_ops_are_named_in_their_tables_only() -> None:
    naming = {relative(p): named_ops(p.read_text()) for p in FILES if not NAMING.match(relative(p))}
    assert {path: names for path, names in naming.items() if names} == {}


@pytest.mark.parametrize("code", ["x = torch.ops.aten.relu", "{'view'}", "'torchvision::nms'", "f == 'conv2d'"])
def test_a_named_op_is_found(code: str) -> None:
    assert named_ops(code)


def test_no_comprehension_binds_a_global_name_of_its_function() -> None:
    """CPython 3.12.0 to 3.12.3 take the global for a local variable in the function's other comprehensions."""
    found = []
    for path in sorted(p for room in ("fxprune", "zoo", "tools") for p in (ROOT.parent / room).rglob("*.py")):
        for table in _functions(symtable.symtable(path.read_text(), str(path), "exec")):
            inner = [t for t in table.get_children() if t.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")]
            bound = {s.get_name() for t in inner for s in t.get_symbols() if s.is_local()}
            read = {s.get_name() for t in (table, *inner) for s in t.get_symbols() if s.is_global()}
            found += [f"{path}:{table.get_lineno()} {name}" for name in sorted(bound & read)]
    assert not found


def _functions(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    if table.get_type() == "function":
        yield table
    for child in table.get_children():
        yield from _functions(child)
