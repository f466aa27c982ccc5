"""Scores from gradients, against finite differences, explicit Jacobians and one sample at a time; all in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import CASES, Net
from torch import Tensor, nn

import fxprune
from fxprune.scorers import GroupTaylor, HessianDiagonal, Taylor


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss for outputs of any shape."""
    return ((outputs.flatten(1) - targets[:, None]) ** 2).mean()


def subject(name: str) -> tuple[Net, fxprune.Groups, Tensor, Tensor]:
    """A net, its groups, six inputs and targets."""
    model = CASES[name].build().double()
    (x,) = CASES[name].inputs(6)
    groups = fxprune.find_groups(fxprune.trace(model, x.double()))
    return model, groups, x.double(), torch.linspace(-1, 1, 6, dtype=torch.float64)


def slope(
    model: nn.Module, group: fxprune.Group, channel: int, slots: Any, loss: Callable[[nn.Module], float]
) -> float:
    """d loss / dt when all that the channel owns in the slots is multiplied by 1 + t, by finite differences."""
    step, values = 1e-5, []
    for t in (step, -step):
        moved = copy.deepcopy(model)
        tensors = dict(moved.named_parameters())
        with torch.no_grad():
            for s in slots:
                mine = torch.from_numpy(s.positions[s.channels == channel])
                if s.tensor in tensors:
                    tensors[s.tensor].index_copy_(s.dim, mine, tensors[s.tensor].index_select(s.dim, mine) * (1 + t))
            values.append(loss(moved))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize(
    "name", ["residual", "perceptron", "flatten_7x7", "depthwise", "grouped_by_width", "transposed"]
)
@pytest.mark.parametrize("kind", [Taylor, GroupTaylor])
def test_first_order_is_the_slope(name: str, kind: Any) -> None:
    """Mean over two batches, in proportion to their samples, of the squared slope of the batch's loss."""
    model, groups, x, y = subject(name)
    found = kind(squares)(model, groups, [(x[:4], y[:4]), (x[4:], y[4:])])
    for g in groups:
        slots = g.producers if kind is Taylor else g.slots
        for channel in range(0, g.size, 2):
            expected = sum(
                n / 6 * slope(model, g, channel, slots, lambda m, p=part: float(squares(m(x[p]), y[p]))) ** 2  # type: ignore[misc]
                for n, part in ((4, slice(4)), (2, slice(4, 6)))
            )
            assert float(found[g.name][channel]) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def by_sample(model: nn.Module, groups: fxprune.Groups, gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """½ Σ_w w² · mean of g², channel by channel, from the gradients of single samples."""
    tensors = dict(model.named_parameters())
    found = {}
    for g in groups:
        scores = torch.zeros(g.size, dtype=torch.float64)
        for s in g.producers:
            diagonal = torch.stack([one[s.tensor] ** 2 for one in gradients]).mean(0)
            terms = (diagonal * tensors[s.tensor].detach() ** 2 / 2).movedim(s.dim, 0).flatten(1).sum(1)
            for position, channel in zip(s.positions.tolist(), s.channels.tolist(), strict=True):
                scores[channel] += terms[position]
        found[g.name] = scores
    return found


def gradients_of(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


@pytest.mark.parametrize("loss", [None, squares])
@pytest.mark.parametrize("name", ["residual", "perceptron"])
def test_the_fisher_diagonal_is_exact_for_single_samples(name: str, loss: Any) -> None:
    model, groups, x, y = subject(name)
    targets = torch.tensor([0, 1, 0, 1, 1, 0]) if loss is None else y
    found = HessianDiagonal("given", loss=loss)(model, groups, list(zip(x.split(1), targets.split(1), strict=True)))
    measure = loss or F.cross_entropy
    each = [gradients_of(model, measure(model(x[i : i + 1]), targets[i : i + 1])) for i in range(6)]
    for g, expected in by_sample(model, groups, each).items():
        torch.testing.assert_close(found[g], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("loss", [None, squares])
def test_the_fisher_diagonal_of_whole_batches_is_right_on_average(loss: Any) -> None:
    """Random signs: one backward a batch, unbiased; without them, gradients of several samples would mix."""
    model, groups, x, y = subject("perceptron")
    targets = torch.tensor([0, 1, 0, 1, 1, 0]) if loss is None else y
    found = HessianDiagonal("given", draws=500, loss=loss)(model, groups, [(x, targets)])
    measure = loss or F.cross_entropy
    each = [gradients_of(model, measure(model(x[i : i + 1]), targets[i : i + 1])) for i in range(6)]
    for g, expected in by_sample(model, groups, each).items():
        torch.testing.assert_close(found[g], expected, rtol=0.2, atol=1e-9)


def test_sampled_labels_give_the_gauss_newton_diagonal() -> None:
    """diag Σ Jᵀ(diag p - ppᵀ)J from the Jacobian, and as the mean over draws of labels; the data has no targets."""
    model, groups, x, _ = subject("perceptron")
    found = HessianDiagonal(draws=200)(model, groups, [x[:3], x[3:]])
    each = []
    for i in range(6):
        (logits,) = model(x[i : i + 1])
        p = logits.softmax(0).detach()
        jacobian = [gradients_of(model, value) for value in logits]
        for c, weight in enumerate(p):  # Σ_c p_c (e_c - p)(e_c - p)ᵀ = diag p - ppᵀ
            row = torch.eye(len(p), dtype=p.dtype)[c] - p
            rows = {n: sum(r * j[n] for r, j in zip(row, jacobian, strict=True)) for n in jacobian[0]}
            each.append({n: t * (len(p) * weight) ** 0.5 for n, t in rows.items()})  # type: ignore[operator]
    for g, expected in by_sample(model, groups, each).items():
        torch.testing.assert_close(found[g], expected, rtol=0.15, atol=1e-9)


def test_cross_entropy_of_maps() -> None:
    """Segmentation: one label a position; Taylor takes the mean, as PyTorch does."""
    model, groups, x, _ = subject("depthwise")
    outputs = model(x)
    assert outputs.dim() == 4
    labels = torch.randint(outputs.shape[1], (6, *outputs.shape[2:]))
    implicit, explicit = (Taylor(loss)(model, groups, [(x, labels)]) for loss in (None, F.cross_entropy))
    assert all(torch.equal(implicit[n], explicit[n]) for n in implicit)
    for scorer in (HessianDiagonal(), HessianDiagonal("given")):
        assert all(bool((s > 0).any()) for s in scorer(model, groups, [(x, labels)]).values())


def test_outputs_of_any_form_with_a_loss_of_ones_own() -> None:
    model = Net(lambda m, x: {"out": m.b(m.a(x).relu())}, {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)})
    x = torch.randn(5, 3)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    data = [(x, {"first": torch.randn(5, 2)})]
    for scorer in (Taylor, GroupTaylor, lambda loss: HessianDiagonal("given", loss=loss)):
        scores = scorer(lambda o, t: F.mse_loss(o["out"], t["first"]))(model, groups, data)
        assert (scores["a"] > 0).any()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(context: Any) -> None:
    model, groups, x, y = subject("residual")
    expected = Taylor(squares)(model, groups, [(x, y)])
    with context():
        found = Taylor(squares)(model, groups, [(x, y)])
    assert all(torch.equal(found[n], expected[n]) for n in found)


def test_models_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        x = torch.randn(5, 3)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert (Taylor()(model, groups, [(x, torch.zeros(5, dtype=torch.long))])["0"] > 0).any()


@pytest.mark.parametrize("scorer", [Taylor(), HessianDiagonal("given")], ids=repr)
def test_labels_in_short_integers(scorer: Any) -> None:
    """As NumPy and data frames hold them."""
    model, groups, x, _ = subject("perceptron")
    labels = torch.arange(6) % 2
    expected = scorer(model, groups, [(x, labels)])
    for dtype in (torch.int32, torch.int16):
        assert all(torch.equal(v, expected[k]) for k, v in scorer(model, groups, [(x, labels.to(dtype))]).items())


def test_frozen_parameters_have_scores_too() -> None:
    model, groups, x, y = subject("residual")
    expected = Taylor(squares)(model, groups, [(x, y)])
    found = Taylor(squares)(model.requires_grad_(False), groups, [(x, y)])
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


DATA = [(torch.randn(2, 3), torch.tensor([0, 1]))]


@pytest.mark.parametrize(
    ("scorer", "data", "texts"),
    [
        (Taylor(), None, ("needs data", "(inputs, targets)")),
        (HessianDiagonal(), None, ("needs data",)),
        (Taylor(), [], ("holds no batch", "used up only once")),
        (Taylor(), [torch.randn(2, 3)], ("without targets", "in batch 1 of the data", "(inputs, targets)")),
        (HessianDiagonal("given"), [[torch.randn(2, 3)]], ("without targets", "in batch 1")),
        (Taylor(), [(torch.randn(2, 4), torch.tensor([0, 1]))], ("forward fails", "(2, 4)")),
        (Taylor(), [(torch.randn(2, 3), torch.tensor([0, 9]))], ("the loss fails", "IndexError", "give loss=")),
        (
            Taylor(),
            [*DATA, (torch.full((2, 3), torch.nan), torch.tensor([0, 1]))],
            ("not finite", "batch 2", "seen: nan", "NaN in data and weights"),
        ),
        (
            Taylor(),
            [*DATA, (torch.randn(2, 3), torch.full((2,), -100))],
            ("not finite", "batch 2", "seen: nan", "look at the targets"),
        ),
        (Taylor(lambda o, t: o), DATA, ("not a scalar tensor", "seen: shape (2, 2)", "return the mean")),
        (Taylor(lambda o, t: 1.0), DATA, ("not a scalar tensor", "seen: float")),  # type: ignore[arg-type, return-value]
        (Taylor(lambda o, t: o.detach().sum()), DATA, ("depends on no parameter", "detach")),
        (Taylor(lambda o, t: o[7].sum()), DATA, ("the loss fails", "IndexError")),
    ],
)
def test_unusable_data_and_losses(scorer: Any, data: Any, texts: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3)))
    with pytest.raises(fxprune.InputError) as caught:
        scorer(model, groups, data)
    assert all(t in str(caught.value) for t in texts), caught.value


def test_outputs_that_cross_entropy_cannot_take() -> None:
    model = Net(lambda m, x: {"out": m.b(m.a(x))}, {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)})
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3)))
    for scorer in (Taylor(), HessianDiagonal(), HessianDiagonal("given")):
        with pytest.raises(
            fxprune.InputError, match=r"one output of shape \(batch, classes, ...\); seen: dict; remedy: give loss="
        ):
            scorer(model, groups, DATA)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HessianDiagonal("true"), "unknown choice of labels; seen: true; remedy: one of sampled, given"),  # type: ignore[arg-type]
        (lambda: HessianDiagonal(draws=0), "the number of draws must be a positive integer; seen: 0"),
        (lambda: HessianDiagonal(loss=squares), "cross-entropy only; seen: loss=; remedy: labels='given'"),
    ],
)
def test_options_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(fxprune.InputError, match=text):
        make()


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class OwnLoss(nn.Module):
    """Computes its loss itself where it is given labels, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.b(self.a(pixel_values).relu())
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


def by_hand(output: Output, batch: Any) -> Tensor:
    return F.cross_entropy(output.logits, batch["labels"])


@pytest.mark.parametrize("loss", [None, lambda output, batch: output.loss, by_hand])
def test_a_model_that_computes_its_loss(loss: Any) -> None:
    """All ways to the same loss, from a mapping that the model gets whole, and from (inputs, targets)."""
    torch.manual_seed(0)
    net, x, y = OwnLoss(), torch.randn(8, 4), torch.randint(0, 3, (8,))
    groups = fxprune.find_groups(fxprune.trace(net, x))
    expected = Taylor()(net, groups, [(x, y)])
    found = Taylor(loss=loss)(net, groups, [{"pixel_values": x, "labels": y}])
    assert all(torch.equal(found[name], scores) for name, scores in expected.items())
