"""Accuracy with ties broken by cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.cli.quality import accuracy
from fxprune.search import Accuracy
from zoo.splits import Split
from zoo.train import accuracy as zoo_accuracy


def linear(*diagonal: float) -> nn.Module:
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data.copy_(torch.diag(torch.tensor(diagonal)))
    return layer


X, LABELS = torch.eye(3), torch.tensor([0, 1, 2])


def test_value_is_that_of_the_formula() -> None:
    model = linear(2.0, 1.0, -1.0)  # the third is wrong
    loss = float(F.cross_entropy(model(X), LABELS).detach())
    assert Accuracy([(X[:1], LABELS[:1]), (X[1:], LABELS[1:])])(model) == pytest.approx((2 + 1 / (2 * (1 + loss))) / 3)


def test_a_correct_sample_counts_more_than_any_loss() -> None:
    quality = Accuracy([(X, LABELS)])
    assert quality(linear(0.1, 0.1, 0.1)) > quality(linear(50.0, 50.0, -0.1)) > quality(linear(9.0, 9.0, -9.0))


def test_of_equals_any_cross_entropies_are_told_apart() -> None:
    """e to the minus 40 is lost beside a whole number."""
    quality = Accuracy([(X, LABELS)])
    assert quality(linear(9.0, 9.0, -120.0)) > quality(linear(9.0, 9.0, -135.0)) > quality(linear(9.0, 9.0, -900.0))


def test_no_number_is_no_right_answer() -> None:
    """PyTorch takes the first NaN for the largest output, and most samples may be of the first class."""
    first, some = torch.zeros(3, dtype=torch.long), linear(1.0, 1.0, 1.0)
    assert Accuracy([(X, first)])(linear(math.nan, math.nan, math.nan)) == 0
    some.weight.data[1] = math.nan
    assert Accuracy([(X, LABELS)])(some) == 0
    assert accuracy(some, [(X, LABELS)]).tolist() == [0, 0, 0]
    assert zoo_accuracy(nn.Sequential(nn.Flatten(), some), Split(X[:, :, None, None], LABELS)) == 0


def test_the_model_stays_as_it_is_and_is_judged_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 3)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    assert Accuracy([(X, LABELS)])(model) == Accuracy([(X, LABELS)])(model)
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_what_is_no_classification_is_named() -> None:
    with pytest.raises(
        fxprune.InputError, match=r"needs logits and class indices in batch 1 of the data; seen: \(3, 3\) and \(3, 3\)"
    ):
        Accuracy([(X, torch.eye(3).long())])(linear(1, 1, 1))
    with pytest.raises(fxprune.InputError, match="and NoneType"):
        Accuracy([(X,)])(linear(1, 1, 1))
    for label in (-100, 3):
        with pytest.raises(fxprune.InputError, match="a label is no class of the model in batch 1 of the data"):
            Accuracy([(X, torch.tensor([0, 1, label]))])(linear(1, 1, 1))


def test_labels_are_any_integers() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    model = torch.nn.Linear(3, 2)
    assert Accuracy([(x, y.int())])(model) == Accuracy([(x, y.byte())])(model) == Accuracy([(x, y)])(model)
