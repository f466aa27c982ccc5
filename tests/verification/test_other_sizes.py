"""What is right for the example alone: code that goes by the sizes of its inputs is compared on others as well."""

from __future__ import annotations

import pytest
import torch
from oracle import deviation
from torch import Tensor, nn

import fxprune

_WIDTH = 16


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)


class _Chunks(_Base):
    def forward(self, x: Tensor) -> Tensor:
        parts = self.a(x).chunk(x.shape[2] // 2, 1)
        return self.o(self.b(torch.cat(parts[::-1], 1)))


class _Halves(_Base):
    def forward(self, x: Tensor) -> Tensor:
        y, k = self.a(x), x.shape[2]
        return self.o(self.b(torch.cat([y[:, k:], y[:, :k]], 1)))


class _First(_Base):
    """For the example the slice holds all channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.o(self.b(y) * y[:, : x.shape[2]].sum(1, keepdim=True))


class _Parts(_Base):
    def forward(self, x: Tensor) -> Tensor:
        parts = self.a(x).chunk(4 if x.shape[2] > 8 else 2, 1)
        return self.o(self.b(torch.cat(parts[::-1], 1)))


class _Scaled(_Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.o(y / y.shape[1] if x.shape[2] > 8 else y)


class _Mean(_Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.o(y - y.mean(1, keepdim=True) if x.shape[2] > 8 else y)


class _Global(_Base):
    def forward(self, x: Tensor) -> Tensor:
        y, k = self.b(self.a(x)), _WIDTH // 2
        return self.o(torch.cat([y[:, k:], y[:, :k]], 1) if x.shape[2] > 8 else y)


class _Named(_Base):
    """On longer images the pruned model fails: the code knows the width."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.o(y.flip(1).reshape(-1, _WIDTH, *y.shape[2:]) if x.shape[2] > 8 else y)


class _Pixel(nn.Module):
    """Five strides: 32 pixels end in one, where the reshape mixes no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Conv2d(16 if i else 3, 16, 3, 2, 1) for i in range(5)])
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = (y := self.body(x)).shape
        return self.head(y.reshape(b, h * w, c).mean(1))


_CASES: list[tuple[type[nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    (_Chunks, (2, 3, 8, 8), (2, 3, 4, 4)),
    (_Halves, (2, 3, 8, 8), (2, 3, 4, 4)),
    (_First, (2, 3, 20, 20), (2, 3, 6, 6)),
    (_Parts, (2, 3, 8, 8), (2, 3, 16, 16)),
    (_Scaled, (2, 3, 8, 8), (2, 3, 12, 12)),
    (_Scaled, (2, 3, 12, 12), (2, 3, 8, 8)),
    (_Mean, (2, 3, 8, 8), (2, 3, 12, 12)),
    (_Global, (2, 3, 8, 8), (2, 3, 12, 12)),
    (_Named, (2, 3, 8, 8), (2, 3, 12, 12)),
    (_Pixel, (2, 3, 32, 32), (2, 3, 64, 64)),
]


@pytest.mark.parametrize(("kind", "example", "other"), _CASES)
def test_groups_that_other_sizes_disprove_stay(
    kind: type[nn.Module], example: tuple[int, ...], other: tuple[int, ...]
) -> None:
    torch.manual_seed(1)  # of weights whose choice of channels is wrong for other sizes
    model = kind().eval()
    with pytest.warns(UserWarning, match="branch on sizes|another size or batch") as told:
        result = fxprune.prune(model, torch.randn(example), pruning_ratio=0.5)
    assert any("another size or batch than the example's" in str(w.message) for w in told)
    assert all(len(g.kept) < g.size for g in result.plan.groups.values())
    assert result.report.proof is not None
    assert result.report.proof.resized
    disproved = result.report.proof.disproved
    assert any("another size or batch" in fixed.reason for fixed in result.report.groups.fixed)
    groups = fxprune.find_groups(fxprune.trace(model, torch.randn(example)))
    halves = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert set(disproved) <= set(fxprune.find_faulty_groups(model, groups, halves, torch.randn(example)))
    for shape in (example, other):
        assert deviation(model, result.plan, (torch.randn(shape),)) < 1e-9


class _AllByBatch(_Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        return self.o(self.b(y) + y.view(c, b, h, w).transpose(0, 1))


def test_where_no_group_is_right_the_error_says_for_which_inputs() -> None:
    with pytest.raises(fxprune.ProofError, match=r"another size or batch.*larger example inputs"):
        fxprune.prune(_AllByBatch().eval(), torch.randn(1, 3, 8, 8), pruning_ratio=0.5)


class _Flat(nn.Module):
    """It takes images of one size alone, so that another batch is what can be tried."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        y = y - y.mean(1, keepdim=True) if x.shape[0] == 2 else y
        return self.head(y.reshape(x.shape[0], -1))


def test_another_batch_alone() -> None:
    torch.manual_seed(0)
    model = _Flat().eval()
    with pytest.warns(UserWarning, match="another size or batch"):
        result = fxprune.prune(model, torch.randn(1, 3, 4, 4), pruning_ratio=0.5)
    assert result.plan.kept_counts() == {"a": 4}
    assert deviation(model, result.plan, (torch.randn(2, 3, 4, 4),)) < 1e-9


class _Sequence(nn.Module):
    """Channels first or last, after an embedding or without; long inputs are centred over the channels."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.embed = kind, nn.Embedding(50, 6) if kind == "tokens" else nn.Identity()
        self.a, self.b, self.c = nn.Conv1d(6, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.b(self.a(x if self.kind == "signals" else x.mT).relu())
        return self.c(y - y.mean(1, keepdim=True) if y.shape[2] > 8 else y)


@pytest.mark.parametrize("kind", ["tokens", "vectors", "signals"])
def test_sequences(kind: str) -> None:
    torch.manual_seed(0)
    inputs = {"tokens": torch.randint(50, (2, 8)), "vectors": torch.randn(2, 8, 6), "signals": torch.randn(2, 6, 8)}
    with pytest.warns(UserWarning, match="another size or batch"):
        result = fxprune.prune(_Sequence(kind).eval(), inputs[kind], pruning_ratio=0.5, only=["a", "b"])
    assert result.plan.kept_counts() == {"a": 4}


def test_code_that_reads_no_size_is_compared_on_the_example_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(inputs: object) -> object:
        raise AssertionError(inputs)

    monkeypatch.setattr("fxprune.verification.judgement.other_inputs", refuse)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert fxprune.prune(net, torch.randn(2, 3, 8, 8), 0.5).report.proof
    with pytest.raises(AssertionError, match="tensor"):
        fxprune.prune(_Flat().eval(), torch.randn(1, 3, 4, 4), pruning_ratio=0.5)
