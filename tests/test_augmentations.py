"""Augmentations against exact geometry."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from intff_lightning.augmentations import Cutout, HorizontalFlip, InOrder, RandomAffine, RandomShift
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError


def _draws(size=200):
    return Draws(0, 0, torch.arange(size))


class _Fixed:
    """Draws of a given value."""

    def __init__(self, *values):
        self.values = torch.tensor(values)

    def uniform(self, *shape):
        return ((self.values + 1) / 2).unsqueeze(0)


def test_nothing_to_change_changes_nothing():
    image = torch.rand(200, 3, 8, 6)
    torch.testing.assert_close(RandomAffine(0, 0, 0)(image, generator=_draws()), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [-1.0, 0.4])
@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
def test_a_rotation_is_scipys(turn, shape):
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    turned = RandomAffine(30, 0, 0)(image, generator=_Fixed(turn, 0, 0, 0))
    expected = ndimage.rotate(image[0, 0].numpy(), 30 * turn, reshape=False, order=1, mode="grid-constant")
    torch.testing.assert_close(turned[0, 0], torch.as_tensor(expected), atol=1e-5, rtol=0)


def test_a_shift_of_whole_pixels():
    image = torch.rand(1, 2, 10, 20)
    moved = RandomAffine(0, 0, 0.1)(image, generator=_Fixed(0, 0, 1, -1))
    expected = torch.zeros_like(image)
    expected[:, :, 1:, :-2] = image[:, :, :-1, 2:]  # two columns to the left, one row down
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_a_scale_enlarges():
    image = torch.zeros(1, 1, 20, 20)
    image[:, :, 5:15, 5:15] = 1
    larger = RandomAffine(0, 0.5, 0)(image, generator=_Fixed(0, 1, 0, 0))
    assert 200 < float(larger.sum()) < 250  # 15 by 15


def test_half_of_the_images_are_mirrored():
    image = torch.rand(200, 1, 3, 4)
    flipped = HorizontalFlip()(image, generator=_draws())
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(flipped, image, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, image, strict=True)])
    assert torch.equal(mirrored, ~kept)
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_a_shift_is_a_crop_of_numpys_padded_image(border, mode):
    image = torch.rand(100, 2, 6, 7)
    shifted = RandomShift(3, border)(image, generator=_draws(100))
    padded = torch.as_tensor(np.pad(image.numpy(), [(0, 0), (0, 0), (3, 3), (3, 3)], mode))
    offsets = _draws(100).integers(7, 2)
    for number, (row, column) in enumerate(offsets.tolist()):
        assert torch.equal(shifted[number], padded[number, :, row : row + 6, column : column + 7])
    assert len(offsets.unique(dim=0)) > 30


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_is_a_square_around_any_pixel(size):
    image = torch.rand(2000, 2, 6, 5) + 0.1
    cut = Cutout(size)(image, generator=_draws(2000))
    draws, seen = _draws(2000), set()
    rows, columns = draws.integers(6, 1)[:, 0].tolist(), draws.integers(5, 1)[:, 0].tolist()
    for number, (row, column) in enumerate(zip(rows, columns, strict=True)):
        expected, top, left = image[number].clone(), row - size // 2, column - size // 2
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
        assert torch.equal(cut[number], expected)
        seen.add((row, column))
    assert len(seen) == 30


def test_in_order_is_one_after_the_other():
    image = torch.rand(50, 1, 6, 6)
    draws = _draws(50)
    expected = HorizontalFlip()(RandomShift(1)(image, generator=draws), generator=draws)
    assert torch.equal(InOrder([RandomShift(1), HorizontalFlip()])(image, generator=_draws(50)), expected)


@pytest.mark.parametrize("options", [{"degrees": -1}, {"scale": 1.0}, {"shift": -0.1}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ConfigurationError, match="give 0 or more"):
        RandomAffine(**options)
    with pytest.raises(ConfigurationError, match="1 pixel or more"):
        Cutout(0)
    with pytest.raises(ConfigurationError, match="needs larger images, not 3x4"):
        RandomShift(3, "reflect")(torch.rand(2, 1, 3, 4), generator=_draws(2))
