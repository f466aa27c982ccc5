"""Ops are named in the table of ops; elsewhere only where a kernel is called, or answered on meta tensors."""

import re
from pathlib import Path

import fxprune

ROOT = Path(fxprune.__file__).parent
NAMES = re.compile(r"""_opname\S* *(==|in\b|not in\b)|aten\.\w+\.\w+|frozenset\(\["\w+_pool""")
KERNELS = {
    "tracing/meta_kernels.py",  # answers
    "tracing/plain_layers.py",  # the calls of layers that are recorded without being run
    "tracing/chunked_convolution.py",  # a convolution in pieces
}


def test_no_op_is_named_elsewhere() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for line in path.read_text().splitlines()
        if NAMES.search(line) and "'aten." not in line and "[dim" not in line
    }
    outside = {name for name in found if not name.startswith("analysis/ops/")}
    assert outside == KERNELS
