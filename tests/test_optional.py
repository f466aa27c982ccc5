"""What `import fxprune` costs, and that only what an extra brings needs that extra."""

import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from processes import python

# In a process that has imported PyTorch. Its compiler takes more than a second longer, and PyTorch
# imports it at the first call that a dispatch mode sees.
FRESH = """
import sys, warnings, torch
before = set(sys.modules)
import fxprune
print({lazy} & (set(sys.modules) - before), "=" * 20)

warnings.simplefilter("ignore")
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3))
x = torch.rand(2, 3, 8, 8)
fxprune.prune(net, x, pruning_ratio=0.5)
print("torch._dynamo" in sys.modules, "=" * 20)

sys.modules.update(dict.fromkeys({extras}))  # an import of what is None fails as if it were not installed
from fxprune import scorers, search
"""
LAZY = {"scipy.stats", "scipy.sparse", "networkx", "sklearn", "joblib", "cloudpickle", "rich"}
EXTRAS = {
    "sklearn", "joblib", "cloudpickle", "torch_pruning", "torchvision", "matplotlib", "tensorboard",
    "accelerate", "dask", "ray", "jaxtyping", "hypothesis", "pytest",
}  # fmt: skip


# Pruning, scores of every kind, reconstruction, a search, a report and a plan's file.
BASE = """
assert fxprune.prune(net, x, 0.5).model(x).shape == (2, 4, 4, 4)
groups = fxprune.find_groups(fxprune.trace(net, x))
scores = scorers.Normalised(scorers.L1Norm(), "rank")(net, groups)
plan = fxprune.planners.Budget(0.5)(groups, scores)
assert fxprune.verify(net, plan, x) < 1e-5
small = fxprune.rewrite(net, plan)
fxprune.reconstruct(net, small, plan, [x])
assert fxprune.Plan.from_json(plan.to_json()) == plan
found = search.Bisection()(net, groups, lambda model: 1.0)
assert found.plan.kept_counts()["0"] < 8
from rich.console import Console
from fxprune.report import group_table
Console().print(group_table(groups))
print("=" * 20)
"""
NEEDING = {
    "scorers.Lasso()(net, fxprune.find_groups(fxprune.trace(net, x)), [x])": ("sklearn", "lasso"),
    "search.Workers(2)": ("joblib", "workers"),
    "scorers.TorchPruning(lambda group: None)(net, fxprune.find_groups(fxprune.trace(net, x)))": (
        "torch_pruning",
        "peer",
    ),
}


@cache
def printed() -> list[str]:
    """What an import loads, whether `prune` has loaded the compiler, then what is printed of the base and of what needs
    more where only the base dependencies are found.
    """
    tries = (f"try:\n    {use}\nexcept fxprune.InputError as error:\n    print(error)\n" for use in NEEDING)
    code = FRESH.format(lazy=LAZY, extras=EXTRAS) + BASE + "".join(tries)
    done = python(code, folder=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return [part.strip() for part in done.stdout.split("=" * 20)]


def test_importing_loads_no_library_that_few_calls_need() -> None:
    assert printed()[0] == "set()"


def test_the_compiler_is_not_imported() -> None:
    assert printed()[1] == "False"


def test_the_base_dependencies_suffice() -> None:
    assert "1 prunable group" in printed()[2]


def test_a_missing_extra_is_named() -> None:
    told = printed()[3].splitlines()
    for message, (library, extra) in zip(told, NEEDING.values(), strict=True):
        assert message.startswith(f"{library} cannot be imported")
        assert f"pip install 'fxprune[{extra}]'" in message


def cpu_seconds(module: str) -> float:
    """Of a fresh process that imports a module: user and system time, median of seven."""
    code = f"import {module}, resource as r; u = r.getrusage(r.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(7)]
    return statistics.median(float(run.stdout) for run in runs)


@pytest.mark.slow
def test_importing_takes_little_longer_than_torch() -> None:
    assert cpu_seconds("fxprune") <= 1.3 * cpu_seconds("torch")
