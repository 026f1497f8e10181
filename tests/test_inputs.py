"""What the network is shown: label overlay, negative sources, augmentation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intff_lightning import LabelOverlay, PairedBatch, ShuffledLabels, WrongLabels
from intff_lightning.augmentations import RandomShift
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError


def _encoder(classes=10, **options):
    encoder = LabelOverlay(**options)
    encoder.setup((1, 5, 5), classes)
    return encoder


def test_overlay_by_hand():
    image = torch.tensor([[[[0.5, 0.2], [0.3, 0.8]]], [[[0.1, 0.1], [0.1, 0.4]]]])
    overlaid = _encoder(3)(image, torch.tensor([2, 0]))
    expected = torch.tensor([[[[0.0, 0.0], [0.8, 0.8]]], [[[0.4, 0.0], [0.0, 0.4]]]])
    assert torch.equal(overlaid, expected)
    assert torch.equal(_encoder(3)(image, None)[0, 0], torch.tensor([[0.0, 0.0], [0.0, 0.8]]))
    assert float(_encoder(3, intensity=1.0)(image, torch.tensor([1, 1]))[0, 0, 0, 1]) == 1.0
    assert image[0, 0, 0, 0] == 0.5  # the image itself is untouched


def test_overlay_of_rgb_takes_the_first_pixels_of_the_first_channel():
    image = torch.rand(4, 3, 6, 6)
    overlaid = _encoder(10)(image, torch.arange(4))
    assert torch.equal(overlaid[:, 1:], image[:, 1:])
    assert torch.equal(overlaid[:, 0].flatten(1)[:, :10].argmax(1), torch.arange(4))


def test_overlay_refuses_small_images():
    with pytest.raises(ConfigurationError, match="9 pixels"):
        LabelOverlay().setup((1, 3, 3), 10)
    LabelOverlay().setup((1, 3, 4), 10)


@given(st.integers(2, 12), st.data())
def test_wrong_labels_are_wrong_and_distinct(classes, data):
    k = data.draw(st.integers(1, classes - 1))
    seed = data.draw(st.integers(0, 1000))
    target = torch.arange(30) % classes
    image = torch.rand(30, 1, 5, 5)
    encoder = _encoder(classes)
    draws = Draws(seed, 0, torch.arange(30))
    images, label = WrongLabels(k)(image, target, num_classes=classes, model=None, generator=draws)
    assert images is None  # the same ones
    negative = encoder.negative(PairedBatch(image, target, None, label))
    assert label.shape == (30, k)
    assert bool((label != target[:, None]).all())
    assert bool(((label >= 0) & (label < classes)).all())
    assert all(len(row.unique()) == k for row in label)
    for j in range(k):  # a sample's negatives stand in a row, each under its own label
        assert torch.equal(negative.view(30, k, 1, 5, 5)[:, j], encoder(image, label[:, j]))


def test_wrong_labels_are_uniform_over_the_wrong_ones():
    target = torch.full((18000,), 4)
    draws = Draws(0, 0, torch.arange(18000))
    _, label = WrongLabels(2)(torch.rand(18000, 1, 4, 4), target, num_classes=10, model=None, generator=draws)
    counts = label.flatten().bincount(minlength=10)
    assert counts[4] == 0
    expected = 4000.0
    chi2 = float(((counts[counts > 0] - expected) ** 2 / expected).sum())
    assert chi2 < 26.1  # 0.999 quantile at 8 degrees of freedom


@pytest.mark.parametrize("k", [0, -1])
def test_wrong_labels_refuses_no_negatives(k):
    with pytest.raises(ConfigurationError, match="at least 1"):
        WrongLabels(k)


def test_wrong_labels_refuses_more_than_there_are():
    draws = Draws(0, 0, torch.arange(2))
    with pytest.raises(ConfigurationError, match="only 2 are wrong"):
        WrongLabels(3)(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), num_classes=3, model=None, generator=draws)


def test_shuffled_labels_collide_as_documented():
    target = torch.randint(10, (20000,), generator=torch.Generator().manual_seed(0))
    draws = Draws(0, 0, torch.arange(20000))
    image = torch.rand(20000, 1, 4, 4)
    _, label = ShuffledLabels()(image, target, num_classes=10, model=None, generator=draws)
    assert torch.equal(label.flatten().bincount(), target.bincount())  # a shuffle keeps every label's count
    assert 0.09 < float((label.flatten() == target).float().mean()) < 0.11
    negative = _encoder().negative(PairedBatch(image, target, None, label))
    assert torch.equal(negative.flatten(1)[:, :10].argmax(1), label.flatten())


def test_random_shift_moves_whole_images():
    image = torch.rand(200, 2, 5, 6)
    shifted = RandomShift(1)(image, generator=Draws(0, 0, torch.arange(200)))
    padded = torch.nn.functional.pad(image, [1] * 4)
    seen = set()
    for i in range(200):
        matches = [
            (r, c) for r in range(3) for c in range(3) if torch.equal(shifted[i], padded[i, :, r : r + 5, c : c + 6])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 9  # every shift happens
    assert torch.equal(RandomShift(0)(image, generator=Draws(0, 0, torch.arange(200))), image)
