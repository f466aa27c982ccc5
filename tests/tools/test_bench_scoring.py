"""The benchmark of weight-permutation scores: its literal algorithm is what the closed form is the mean of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import scoring as bench_scoring
from torch import nn

import fxprune


@pytest.fixture
def bench() -> bench_scoring.Bench:
    model = nn.Sequential(nn.Conv2d(2, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 2))
    data = [torch.randn(3, 2, 4, 4), torch.randn(2, 2, 4, 4)]
    return bench_scoring.Bench(model, fxprune.find_groups(fxprune.trace(model, data[0][:1])), data)


def test_the_literal_algorithm_has_the_closed_form_as_its_mean(bench: bench_scoring.Bench) -> None:
    exact = fxprune.scorers.WeightPermutation()(bench.model, bench.groups, bench.data)
    before = [p.clone() for p in bench.model.parameters()]
    for name, layer in bench_scoring.layers(bench).items():
        with bench_scoring.inputs_of(layer) as seen:
            bench.forward()
        runs = [bench_scoring.literal(layer, seen, range(len(layer.weight))) for _ in range(300)]
        mean = torch.tensor(runs, dtype=torch.float64).mean(0)
        torch.testing.assert_close(mean / mean.sum(), exact[name], rtol=0.15, atol=0)
    assert all(torch.equal(p, q) for p, q in zip(bench.model.parameters(), before, strict=True))


def test_figures(bench: bench_scoring.Bench) -> None:
    rows, exact = bench_scoring.measure(bench, 1)
    assert [r.way for r in rows] == ["forward", "closed form", "sampled"]
    seconds, _ = bench_scoring.estimate(bench, 2)
    assert set(seconds) == {"0", "3"}
    checked = bench_scoring.check(bench, seconds, exact)
    assert checked.kernels in (5, 6)
    assert -1 <= checked.agreement <= 1


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    bench_scoring.main("squeezenet1_1", size=48, batch=1, batches=1, kernels=1, repeats=1, device="cpu", out=out)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("forward", "closed form", "sampled", "literal *", "* scaled: 1 kernels"))
    assert '"scaled": true' in out.read_text()
