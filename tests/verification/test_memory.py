"""Memory: `prune` with its proof needs at most one and a half times the model's size beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

# The kernel's own account of a fresh process: Python's tools do not see what PyTorch allocates.
CODE = """
import sys, warnings
from pathlib import Path
import torch, torchvision, fxprune

warnings.simplefilter("ignore")
torch.set_num_threads(1)


def read(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


x = torch.rand(1, 3, 224, 224)
fxprune.prune(torchvision.models.resnet18(), x, 0.5)  # what is loaded once is not the model's
model = torchvision.models.get_model(sys.argv[1]).eval()
size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
before = read("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
result = fxprune.prune(model, x, 0.5)
assert result.report.deviation < 1e-6
print((read("VmHWM") - before) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
@pytest.mark.parametrize("name", ["resnet152", "densenet201"])
def test_peak_beside_the_model(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, name], check=True, capture_output=True, text=True)
    # The pruned model alone is a quarter of the full-size one.
    assert 0.2 < float(done.stdout) < 1.5
