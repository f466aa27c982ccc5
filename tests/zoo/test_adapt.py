"""Adversarial domain adaptation: its parts against hand-computed ones, and that it carries a task over."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import write_fashion, write_images
from torch import Generator, nn
from typer.testing import CliRunner
from zoo_toys import Tiny, bright_or_dark, weights

import fxprune
from zoo.__main__ import app
from zoo.adaptation.adapt import adapt
from zoo.adaptation.execute import adapted, load_domains
from zoo.adaptation.reversal import Adversary, DomainHead, Tap, reverse
from zoo.errors import ZooError
from zoo.recipe import Change
from zoo.recipes import ADAPTATIONS
from zoo.run import Run
from zoo.splits import Split
from zoo.train import accuracy, fit


def test_the_gradient_is_reversed_and_scaled() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert torch.equal(reverse(x, 0.3), x)
    plain = torch.autograd.grad((x**2).sum(), x)[0]
    turned = torch.autograd.grad((reverse(x, 0.3) ** 2).sum(), x)[0]
    assert torch.allclose(turned, -0.3 * plain)


def test_the_strength_rises_as_published() -> None:
    # 2 / (1 + e^(−10 p)) − 1 = tanh(5 p)
    p = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert [Adversary(strength=2.0).at(v) for v in p.tolist()] == pytest.approx((2 * torch.tanh(5 * p)).tolist())


def test_the_tap_shows_what_the_classifier_reads_and_is_taken_off() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with Tap(model) as tap:
        model(torch.ones(5, 1, 2, 2))
        assert torch.equal(tap.seen, model[:3](torch.ones(5, 1, 2, 2)))
    assert not model[3]._forward_pre_hooks
    assert Tap(model, "1").width == 4
    with pytest.raises(ZooError, match=r"Sequential has no linear layer '2' as its classifier; it has 1, 3"):
        Tap(model, "2")
    with pytest.raises(ZooError, match="it has none"):
        Tap(nn.Flatten())


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"strength": -1.0}, {"backbone": float("inf")}])
def test_an_impossible_adversary_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="hidden must be >= 1, strength and backbone finite and >= 0"):
        Adversary(**wrong)  # type: ignore[arg-type]


# A toy: the label is in pixel 0 of both domains; pixel 1 says it more loudly, in the source only.


def toy(samples: int, target: bool, seed: int) -> Split:
    draw = Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (samples,), generator=draw)
    sign = 2.0 * labels - 1
    images = 0.3 * torch.randn(samples, 1, 1, 3, generator=draw)
    images[:, 0, 0, 0] += 0.6 * sign  # the same in both
    images[:, 0, 0, 1] += 0 if target else 1.0 * sign  # louder, in the source only
    return Split(images, labels)


def toy_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def quick(model: nn.Module, source: Split, target: Split, **changes: object) -> list:
    numbers = {"epochs": 3, "batch_size": 16, "progress": False, "adversary": Adversary(hidden=16)}
    return adapt(model, source, target, **{**numbers, **changes})  # type: ignore[arg-type]


def test_features_that_only_the_source_has_are_given_up() -> None:
    source, target, test = toy(512, False, 0), toy(512, True, 1), toy(1000, True, 2)
    numbers = {"epochs": 20, "batch_size": 32, "lr": 0.05, "schedule": "annealed", "warmup": 0.0, "weight_decay": 0.0}
    alone, both = toy_net(), toy_net()
    fit(alone, source, **numbers, progress=False)  # type: ignore[arg-type]
    quick(both, source, target, **numbers)
    assert accuracy(both, test) > accuracy(alone, test) + 0.05
    assert accuracy(both, test) > 0.93  # pixel 0 alone gives at best Φ(0.6 / 0.3) = 0.977


def test_labels_of_the_target_are_not_read() -> None:
    source, target = bright_or_dark(), bright_or_dark(48)
    first, second = Tiny(), Tiny()
    quick(first, source, target)
    quick(second, source, target.with_labels(torch.full((48,), -7)))
    assert torch.equal(weights(first), weights(second))


def test_the_domain_head_learns_and_is_dropped() -> None:
    model = Tiny()
    names = list(model.state_dict())
    quick(model, bright_or_dark(), bright_or_dark(20), val=bright_or_dark())
    assert list(model.state_dict()) == names
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert DomainHead(5, 7)(torch.ones(3, 5)).shape == (3, 1)


def test_the_backbone_learns_slower_than_the_classifier() -> None:
    model = Tiny()
    before = {name: p.clone() for name, p in model.named_parameters()}
    quick(model, bright_or_dark(), bright_or_dark(), adversary=Adversary(hidden=16, backbone=0.0), weight_decay=0.0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"body.3.weight", "body.3.bias"}


def test_it_is_seeded_and_leaves_no_footprints() -> None:
    first, second, third = Tiny(), Tiny(), Tiny().eval()
    torch.manual_seed(12)
    before = torch.get_rng_state()
    quick(third, bright_or_dark(), bright_or_dark(40))
    assert torch.equal(torch.get_rng_state(), before)
    assert not third.training
    torch.rand(3)
    quick(first, bright_or_dark(), bright_or_dark(40))
    quick(second, bright_or_dark(), bright_or_dark(40), seed=1)
    assert torch.equal(weights(first), weights(third))
    assert not torch.equal(weights(first), weights(second))
    assert all(parameter.grad is None for parameter in first.parameters())


def test_it_goes_on_from_its_state_as_if_never_stopped(tmp_path: Path) -> None:
    """The domain head, its batch norm and both momenta are part of the state."""
    source, target, state = bright_or_dark(), bright_or_dark(40), tmp_path / "run.state"
    whole, cut = Tiny(), Tiny()
    logs = quick(whole, source, target)

    def stops(images: torch.Tensor, generator: Generator) -> torch.Tensor:
        if generator.initial_seed() == 3:  # seed 0 in epoch 3
            raise KeyboardInterrupt
        return images

    with pytest.raises(KeyboardInterrupt):
        quick(cut, source, target, state=state, augment=stops)
    resumed = quick(cut := Tiny(), source, target, state=state)
    assert [log.loss for log in resumed] == [log.loss for log in logs]
    assert torch.equal(weights(cut), weights(whole))


def test_a_pruned_model_is_adapted_too() -> None:
    source, target = toy(64, False, 0), toy(64, True, 1)
    small = fxprune.prune(toy_net(), source.images[:2], 0.5).model
    quick(small, source, target)
    assert small[3].in_features == 4


def test_bad_data_is_refused() -> None:
    source = bright_or_dark()
    with pytest.raises(ZooError, match="the target split is empty"):
        quick(Tiny(), source, bright_or_dark(0))
    with pytest.raises(ZooError, match="the source split has images of one class only"):
        quick(Tiny(), source[source.labels == 0], source)
    with pytest.raises(ZooError, match=re.escape("images of the source are (1, 4, 4), those of the target (1, 1, 3)")):
        quick(Tiny(), source, toy(8, True, 0))
    broken = bright_or_dark()
    broken.images[:] = torch.nan
    with pytest.raises(ZooError, match="the loss became nan"):
        quick(Tiny(), source, broken)


def test_a_recipe_is_adapted_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ADAPTATIONS["fashion-to-fashion-m"]
    short = replace(recipe, images=64, settings=replace(recipe.settings, epochs=1))
    monkeypatch.setitem(ADAPTATIONS, recipe.name, short)  # type: ignore[arg-type]
    options = ["--source", "digits", "--target", "digits-m", "--seeds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["adapt", recipe.name, *options])
    assert result.exit_code == 0, result.output
    assert "source only" in result.output
    assert "±" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{recipe.name}-{seed}.safetensors" for seed in (0, 1)]


def test_image_files_are_adapted_as_office_31_is(tmp_path: Path) -> None:
    """The recipe of Office-31 on tiny files, with a small backbone without pretrained weights."""
    for domain in ("amazon", "dslr", "webcam"):
        write_images(tmp_path / domain / "images", {"bike": 10, "mug": 10})
    recipe = ADAPTATIONS["office-amazon-webcam-resnet50"]
    small = replace(
        recipe,
        arguments={"name": "resnet18", "classes": 2, "bottleneck": 8},
        settings=replace(recipe.settings, epochs=1, batch_size=8),
        change=Change(crop=32, flip=True),
    )
    run = Run(tmp_path, progress=False)
    reached = adapted(small, load_domains(small, run, 0), run, 0)
    assert 0 <= reached.target_test <= 1
    assert reached.model.fc.fc.in_features == 8


def test_domains_without_a_common_class_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    recipe = replace(ADAPTATIONS["fashion-to-fashion-m"], source="digits")
    with pytest.raises(ZooError, match="digits -> fashion-mnist-m: the domains have no class in common"):
        load_domains(recipe, Run(tmp_path), 0)
