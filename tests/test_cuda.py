"""On a GPU, all that moves tensors about: the results are those of the CPU. Skipped where there is none.

python -m pytest tests/test_cuda.py -n 4
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fxprune
from fxprune import scorers
from fxprune.planners import Budget, ErrorCurves, Uniform
from fxprune.search import BeeColony, Bisection, MonotoneFit, Progressive
from zoo.checkpoints import load
from zoo.data import load as load_data
from zoo.train import accuracy
from zoo.train_recipe import WEIGHTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda", 0)

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({}, 64),
    "mobilenet_v3_small": ({}, 64),
    "densenet121": ({}, 64),
    "shufflenet_v2_x0_5": ({}, 64),
    "convnext_tiny": ({}, 64),
    "googlenet": ({"init_weights": False, "aux_logits": False}, 96),
    "swin_t": ({}, 64),
    "vit_b_32": ({"image_size": 64}, 64),
}


@pytest.fixture(autouse=True)
def _exact() -> Any:
    """No TF32, which rounds to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return load(WEIGHTS / "digits-resnet20.safetensors")[0].to(CUDA).eval()


@pytest.fixture(scope="module")
def splits() -> Any:
    return load_data("digits").map(lambda part: part.to(CUDA))


@pytest.mark.parametrize("name", NETWORKS)
def test_prune_makes_the_plan_and_the_model_of_the_cpu(name: str) -> None:
    options, size = NETWORKS[name]
    model, image = torchvision.models.get_model(name, weights=None, **options).eval(), torch.rand(2, 3, size, size)
    wanted = fxprune.prune(model, image, 0.4)
    found = fxprune.prune(copy.deepcopy(model).to(CUDA), image.to(CUDA), 0.4)
    assert found.plan == wanted.plan
    assert all(p.device == CUDA for p in found.model.parameters())
    torch.testing.assert_close(found.model(image.to(CUDA)).cpu(), wanted.model(image), rtol=1e-3, atol=1e-4)


def test_pruned_and_repaired_on_unlabelled_images(trained: nn.Module, splits: Any, tmp_path: Path) -> None:
    data = list(splits.train.images[:512].split(64))
    result = fxprune.prune(trained, data[0][:1], macs=0.25, data=data)
    right = accuracy(result.model, splits.test)
    assert right > 0.96
    assert accuracy(trained, splits.test) == pytest.approx(0.9944, abs=0.003), "the original is as it was"

    result.save(tmp_path / "small")
    again = fxprune.load(tmp_path / "small", copy.deepcopy(trained))
    assert accuracy(again.to(CUDA), splits.test) == right


def test_data_on_the_cpu_for_a_model_on_the_gpu(trained: nn.Module, splits: Any) -> None:
    data = list(splits.train.images[:128].cpu().split(64))
    with pytest.raises(fxprune.InputError, match=r"on different devices; .*\.to\('cuda:0'\)"):
        fxprune.prune(trained, data[0][:1], macs=0.5, data=data)
    result = fxprune.prune(trained, data[0][:1].to(CUDA), macs=0.5, data=data)
    assert all(p.device == CUDA for p in result.model.parameters())
    assert accuracy(result.model, splits.test) > 0.96


LABELLED: dict[str, Any] = {
    "Taylor": scorers.Taylor(nn.functional.cross_entropy),
    "GroupTaylor": scorers.GroupTaylor(nn.functional.cross_entropy),
    "HessianDiagonal": scorers.HessianDiagonal("given"),
}
PLAIN = (
    "LAMP NISP APoZ ActivationEntropy ActivationMean BatchNormScale GeometricMedian HRank JointElimination L1Norm "
    "L2Norm Lasso Random RefitLoss SampledPermutation ThiNet WeightPermutation"
).split()


@pytest.mark.parametrize("name", [*PLAIN, *sorted(LABELLED)])
def test_scores_are_those_of_the_cpu(name: str, trained: nn.Module, splits: Any) -> None:
    pairs = [(splits.train.images[i : i + 64], splits.train.labels[i : i + 64]) for i in (0, 64)]
    scorer = LABELLED[name] if name in LABELLED else getattr(scorers, name)()
    found = []
    for where in (torch.device("cpu"), CUDA):
        model = copy.deepcopy(trained).to(where)
        data: list[Any] = [(x.to(where), y.to(where)) if name in LABELLED else x.to(where) for x, y in pairs]
        groups = fxprune.find_groups(fxprune.trace(model, data[0][0][:1] if name in LABELLED else data[0][:1]))
        found.append(scorer(model, groups, data))
    assert set(found[0]) == set(found[1])
    for group, wanted in found[0].items():
        seen, wanted = found[1][group].double().cpu(), wanted.double()
        torch.testing.assert_close(seen, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


@pytest.mark.parametrize("planner", [Uniform(0.5), Budget(0.4), ErrorCurves(0.4)], ids=lambda p: type(p).__name__)
def test_planners_take_scores_on_the_gpu(planner: Any, trained: nn.Module, splits: Any) -> None:
    groups = fxprune.find_groups(fxprune.trace(trained, splits.train.images[:1]))
    data = list(splits.train.images[:128].split(64))
    plan = planner(groups, scorers.JointElimination()(trained, groups, data))
    small = fxprune.repair(trained, fxprune.rewrite(trained, plan), plan, data, progress=False)
    assert fxprune.verify(trained, plan, data[0][:1]) < 1e-6
    assert accuracy(small, splits.test) > 0.9


@pytest.mark.parametrize(
    "search",
    [
        BeeColony(sources=2, cycles=1, keep=0.5, progress=False),
        Bisection(tolerance=0.02, precision=0.2, progress=False),
        MonotoneFit(0.02, tunings=4, baselines=1, progress=False),
        Progressive(0.7, step=0.2, top=0.5, progress=False),
    ],
    ids=lambda s: type(s).__name__,
)
def test_searches(search: Any, trained: nn.Module, splits: Any) -> None:
    data = list(splits.train.images[:128].split(64))
    groups = fxprune.find_groups(fxprune.trace(trained, data[0][:1]))
    scorer = scorers.Lasso() if isinstance(search, Progressive) else scorers.L1Norm()
    tune = None if isinstance(search, Progressive) else lambda model: fxprune.recalibrate_batchnorm(model, data)
    found = search(trained, groups, lambda m: accuracy(m, splits.val), scorer=scorer, data=data, tune=tune)
    assert all(p.device == CUDA for p in found.model.parameters())
    assert accuracy(found.model, splits.test) > 0.5


def test_gradual_pruning_cuts_the_optimizer_along(trained: nn.Module, splits: Any) -> None:
    model = copy.deepcopy(trained)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    pruning = fxprune.Gradual(model, splits.train.images[:1], range(2), optimizer=optimizer, macs=0.5)
    for epoch in range(2):
        pruning.step(epoch)
        for i in (0, 64, 128):
            optimizer.zero_grad()
            x, y = splits.train.images[i : i + 64], splits.train.labels[i : i + 64]
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    moments = [s for state in optimizer.state.values() for s in state.values() if s.dim()]
    assert moments
    assert all(s.device == CUDA for s in moments)
    assert {s.shape for s in moments} == {p.shape for p in model.parameters()}
    assert sum(p.numel() for p in model.parameters()) < 0.8 * sum(p.numel() for p in trained.parameters())


def test_latency_table_and_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = torchvision.models.resnet18(weights=None).to(CUDA).eval()
    images = torch.rand(32, 3, 160, 160, device=CUDA)
    result = fxprune.prune(model, images, latency=0.6, round_to=16, verify=False)
    assert result.report.after.macs < 0.8 * result.report.before.macs
    whole, small = fxprune.latency.by_turns([model, result.model], images)
    assert median(small) < 0.8 * median(whole)


def test_wrapped_for_several_devices_is_refused(trained: nn.Module, splits: Any) -> None:
    with pytest.raises(fxprune.InputError, match=r"DataParallel; remedy: give model\.module"):
        fxprune.prune(nn.DataParallel(trained), splits.train.images[:1], 0.5)


def test_compiled_and_half_precision(trained: nn.Module, splits: Any) -> None:
    small = fxprune.prune(trained, splits.train.images[:1], 0.3).model
    image = splits.test.images[:64]
    wanted = small(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler has advice on TF32
        torch.testing.assert_close(torch.compile(small)(image), wanted, rtol=1e-3, atol=1e-3)
        half = fxprune.prune(copy.deepcopy(trained).half(), image[:1].half(), 0.3).model
        agree = (half(image.half()).argmax(1) == wanted.argmax(1)).float().mean()
    assert agree > 0.9


def test_a_model_over_two_devices_is_refused_or_pruned() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3).to(CUDA), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.to(CUDA)).cpu())

    model, image = Split().eval(), torch.rand(1, 3, 8, 8)
    small = fxprune.prune(model, image, 0.5).model
    assert small.first.out_channels == 4
    assert next(small.first.parameters()).device == CUDA
    assert small(image).shape == model(image).shape


@pytest.mark.parametrize("model_on", ["cuda", "cpu"])
def test_under_a_default_device(model_on: str) -> None:
    """As `torch.set_default_device("cuda")`, wherever the model is."""
    model = load(WEIGHTS / "digits-resnet20.safetensors")[0].to(model_on).eval()
    images = torch.rand(128, 1, 8, 8, device=model_on)
    wanted = fxprune.prune(model, images[:1], 0.5)
    with torch.device(CUDA):
        found = fxprune.prune(model, images[:1], 0.5)
        repaired = fxprune.prune(model, images[:1], macs=0.5, data=list(images.split(32)))
    assert found.plan == wanted.plan
    assert found.report.deviation < 1e-6
    assert {p.device.type for m in (found.model, repaired.model) for p in m.parameters()} == {model_on}
