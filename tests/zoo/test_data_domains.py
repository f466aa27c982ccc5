"""Pairs of domains: blended images, equal classes, equal shapes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from zoo.adaptation.domains import load_pair, renumber
from zoo.data import load
from zoo.errors import ZooError
from zoo.sources.blend import blend
from zoo.sources.shifts import SHIFTS
from zoo.splits import Split, Splits, require_classes


def test_blending_takes_patches_of_the_photographs() -> None:
    """Black images come out as patches: each is found in one of the photographs."""
    patches = blend(torch.zeros(3, 1, 6, 6, dtype=torch.uint8), seed=5).numpy()
    for patch in patches:
        rows = patch.transpose(1, 2, 0)
        places = [
            (i, y, x)
            for i, photograph in enumerate(load_sample_images().images)
            for y, x in np.argwhere((photograph == rows[0, 0]).all(-1))
            if np.array_equal(photograph[y : y + 6, x : x + 6], rows)
        ]
        assert places


def test_blending_is_the_absolute_difference_and_seeded() -> None:
    black = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    patches = blend(black, seed=1).int()
    white = blend(black + 255, seed=1).int()
    assert torch.equal(white, 255 - patches)
    grey = blend(black + 100, seed=1).int()
    assert torch.equal(grey, (100 - patches).abs())
    assert not torch.equal(patches, blend(black, seed=2).int())


def test_a_blended_data_set_is_the_same_whatever_the_split() -> None:
    plain, mixed = load("digits", seed=4), load("digits-m", seed=4)
    assert torch.equal(plain.train.labels, mixed.train.labels)
    assert mixed.train.images.shape == (1077, 3, 8, 8)
    assert torch.equal(mixed.train.images, load("digits-m", seed=4).train.images)
    assert mixed.train.images.mean((0, 2, 3)).abs().max() < 1e-4


def test_grey_images_get_the_colours_of_the_other_domain() -> None:
    domains = load_pair("digits", "digits-m")
    assert domains.source.train.images.shape == domains.target.train.images.shape
    assert torch.equal(domains.source.test.images[:, 0], domains.source.test.images[:, 2])
    assert load_pair("digits", "digits").source.train.images.shape[1] == 1


def splits(*names: str) -> Splits:
    part = Split(torch.zeros(len(names), 1, 2, 2), torch.arange(len(names)))
    return Splits(part, part, part, names)


def test_labels_of_the_target_are_numbered_as_in_the_source() -> None:
    renumbered = renumber(splits("dog", "ant"), ("ant", "bee", "dog"), "toy")
    assert renumbered.names == ("ant", "bee", "dog")
    assert renumbered.train.labels.tolist() == [2, 0]


def test_domains_without_a_common_class_are_refused() -> None:
    with pytest.raises(ZooError) as caught:
        renumber(splits("cow", "dog"), ("ant", "bee"), "insects -> mammals")
    text = str(caught.value)
    assert text.startswith("insects -> mammals: the domains have no class in common (source: ant, bee; target: cow,")
    assert "name their classes (class folders) alike" in text


def test_a_class_that_only_the_target_has_is_named() -> None:
    with pytest.raises(ZooError, match=r"classes that the source has not \(cow\); remove their images"):
        renumber(splits("ant", "cow"), ("ant", "bee"), "toy")


def test_a_split_of_one_class_is_refused() -> None:
    with pytest.raises(ZooError, match=r"the training split has images of one class only \(all 3 labels are 7\)"):
        require_classes(Split(torch.zeros(3, 1, 2, 2), torch.full((3,), 7)), "training")


def test_shifts_by_hand() -> None:
    """A pixel, its mean with its neighbours, a quarter turn, and noise of the right size."""
    dot = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    dot[0, 0, 2, 2] = 180
    assert torch.equal(SHIFTS["inverted"](dot, 0).int(), 255 - dot.int())
    blurry = SHIFTS["blurred"](dot, 0)
    assert blurry[0, 0, 1:4, 1:4].eq(20).all()
    assert int(blurry.sum()) == 180
    assert torch.equal(SHIFTS["blurred"](dot * 0 + 77, 0), dot * 0 + 77)
    images = torch.full((500, 1, 8, 8), 128, dtype=torch.uint8)
    noise = SHIFTS["noisy"](images, 3).float() - 128
    assert abs(float(noise.std()) - 48) < 1.5
    assert torch.equal(SHIFTS["noisy"](images, 3), SHIFTS["noisy"](images, 3))
    line = torch.zeros(64, 1, 21, 21, dtype=torch.uint8)
    line[:, :, 10] = 255
    turned = SHIFTS["rotated"](line, 0).float()
    assert turned[:, 0, 10, 10].gt(150).all()  # the centre stays
    rows = torch.arange(21.0)
    heights = [(t[0, :, x] * rows).sum() / t[0, :, x].sum() - 10 for t in turned for x in (14,)]
    assert max(heights) < 4 * 0.58 + 0.5  # tan 30° = 0.577, four pixels from the centre
    assert min(heights) < -1.5
    assert max(heights) > 1.5


def test_a_shifted_data_set_has_the_same_labels() -> None:
    plain, other = load("digits", seed=4), load("digits-inverted", seed=4)
    assert torch.equal(plain.train.labels, other.train.labels)
    torch.testing.assert_close(plain.train.images, -other.train.images, atol=1e-4, rtol=1e-4)
