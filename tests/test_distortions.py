"""Negatives made of normal images: what is changed, and how much of it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from intff_lightning.distortions import Chained, CutPaste, Erased, Filled, OneOf, Superposed, Warped
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.negatives import GaussianNoise, HybridImages, Perturbed, Rotated, WrongLabels
from intff_lightning.recipe import from_recipe, to_recipe


def _made(source, image, seed=0):
    draws = Draws(seed, 0, torch.arange(len(image)))
    return source.images(image, torch.zeros(len(image), dtype=torch.int64), draws)


def _places(size, height, width):
    """Images in which every pixel has another value."""
    return torch.arange(float(height * width)).view(1, 1, height, width).expand(size, 2, -1, -1)


def test_a_rectangle_is_copied_and_nothing_else_changes():
    height, width, area, ratio = 20, 30, (0.05, 0.2), 4.0
    image, shares, proportions = _places(400, height, width), [], []
    for before, after in zip(image, _made(CutPaste(area=area, ratio=ratio), image)[:, 0], strict=True):
        assert torch.equal(after[0], after[1])  # both channels alike
        rows, columns = (after[0] != before[0]).nonzero().unbind(1)
        if not len(rows):  # pasted where it was
            continue
        top, left, high, wide = rows.min(), columns.min(), len(rows.unique()), len(columns.unique())
        assert len(rows) == high * wide
        origin = after[0, top : top + high, left : left + wide]
        first = int(origin[0, 0])
        expected = before[0, first // width :, first % width :][:high, :wide]
        assert torch.equal(origin, expected)
        shares.append(len(rows) / (height * width))
        proportions.append((high / height) / (wide / width))
    assert min(shares) >= 0.8 * area[0]
    assert max(shares) <= 1.2 * area[1]
    assert sum(shares) / len(shares) == pytest.approx(sum(area) / 2, rel=0.1)
    assert min(proportions) >= 0.7 / ratio
    assert max(proportions) <= 1.4 * ratio
    assert sum(p > 1 for p in proportions) / len(proportions) == pytest.approx(0.5, abs=0.1)


def test_more_patches_change_more():
    image = _places(200, 20, 20)
    one, four = ((_made(CutPaste(n), image)[:, 0] != image).float().mean() for n in (1, 4))
    assert 2 < four / one < 4


def _coordinates(size, side):
    """Images whose two channels are the row and the column of each pixel, as shares of the side."""
    line = torch.arange(side) / side
    return torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(size, -1, -1, -1)


def test_displacements_have_the_given_standard_deviation():
    image = _coordinates(3000, 33)
    moved = _made(Warped(strength=0.04, grid=3), image)[:, 0, :, 16, 16]  # the middle is a point of the grid
    assert (moved - image[:, :, 16, 16]).std(0).tolist() == pytest.approx([0.04, 0.04], rel=0.05)
    assert (moved - image[:, :, 16, 16]).mean(0).abs().max() < 0.003
    assert torch.corrcoef(moved.T)[0, 1].abs() < 0.06


def test_neighbours_move_together_on_a_coarse_grid():
    image = _coordinates(500, 33)
    change = {}
    for grid in (2, 8):
        moved = _made(Warped(strength=0.04, grid=grid), image)[:, 0] - image
        change[grid] = (moved[:, :, 16, 17] - moved[:, :, 16, 16]).std()
    assert change[2] < 0.3 * change[8]


def test_no_strength_leaves_the_image_and_a_turn_is_that_of_its_corners():
    image = torch.rand(50, 3, 12, 12)
    torch.testing.assert_close(_made(Warped(strength=0.0), image)[:, 0], image, atol=1e-5, rtol=0)
    image = _coordinates(400, 41)
    turned = _made(Warped(strength=0.0, degrees=30), image)[:, 0]
    across, down = turned[:, 1, 20, 25] - turned[:, 1, 20, 20], turned[:, 0, 20, 25] - turned[:, 0, 20, 20]
    angle = torch.rad2deg(torch.atan2(down, across))
    assert 29 < angle.abs().max() <= 30.01
    assert angle.std() == pytest.approx(30 / 3**0.5, rel=0.1)  # uniform
    torch.testing.assert_close((across**2 + down**2).sqrt(), torch.full((400,), 5 / 41))
    wide = _made(Warped(strength=0.0, scale=0.2, shift=0.1), image)[:, 0]
    step = (wide[:, 1, 20, 25] - wide[:, 1, 20, 20]) / (5 / 41)
    assert (1 / step).min() == pytest.approx(0.8, abs=0.01)
    assert (1 / step).max() == pytest.approx(1.2, abs=0.01)


def test_erased_regions_are_zero_and_the_rest_stays():
    image = 0.5 + torch.rand(300, 3, 28, 28) / 2
    erased = _made(Erased(), image)[:, 0]
    gone = erased == 0
    assert torch.equal(erased[~gone], image[~gone])
    assert torch.equal(gone[:, :1].expand_as(gone), gone)  # all channels alike
    share = gone.float().mean((1, 2, 3))
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert bool(((share > 0) & (share < 1)).all())


def test_gaps_are_filled_as_by_the_filters_of_scipy():
    image = torch.rand(60, 2, 12, 15)
    sides = []
    for before, after in zip(image, _made(Filled([3, 5]), image)[:, 0], strict=True):
        closed = {}
        for side in (3, 5):
            size = (1, side, side)
            widest = ndimage.maximum_filter(before.numpy(), size, mode="constant", cval=-np.inf)
            closed[side] = torch.from_numpy(ndimage.minimum_filter(widest, size, mode="constant", cval=np.inf))
        (found,) = [side for side, expected in closed.items() if torch.equal(after, expected)]
        sides.append(found)
    assert 15 < sides.count(3) < 45
    gap = torch.ones(1, 1, 9, 9)
    gap[..., 3:6] = 0.0  # three wide
    assert torch.equal(_made(Filled([3]), gap)[:, 0], gap)
    assert torch.equal(_made(Filled([5]), gap)[:, 0], torch.ones(1, 1, 9, 9))


def test_sources_one_after_the_other():
    image = torch.rand(6, 1, 9, 9)
    made = _made(Chained([Rotated([90]), Rotated([180])]), image)
    assert torch.equal(made[:, 0], torch.rot90(image, 3, (-2, -1)))


def test_the_second_image_is_of_another_sample():
    image = torch.rand(8, 1, 9, 9)
    other = torch.rot90(image, 2, (-2, -1))
    partners = []
    for i, made in enumerate(_made(Superposed(Rotated([180])), image)[:, 0]):
        (partner,) = [j for j in range(8) if torch.equal(made, torch.maximum(image[i], other[j]))]
        partners.append(partner)
    assert sorted(partners) == list(range(8))
    assert all(i != j for i, j in enumerate(partners))
    assert torch.equal(_made(Superposed(Rotated([180])), image[:1])[0, 0], torch.maximum(image[0], other[0]))


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_sources_are_drawn_in_proportion_to_their_weights(weights):
    image = torch.rand(4000, 1, 5, 5)
    made = _made(OneOf([Rotated([90]), Rotated([180])], k=2, weights=weights), image)
    turned = [torch.rot90(image, k, (-2, -1)).unsqueeze(1) for k in (1, 2)]
    which = torch.stack([(made == t).all(-1).all(-1).all(-1) for t in turned])  # (2, B, k)
    assert bool((which.sum(0) == 1).all())
    share = which[1].float().mean(0)
    assert share.tolist() == pytest.approx([0.5, 0.5] if weights is None else [0.75, 0.75], abs=0.03)
    both = which[1].all(1).float().mean()  # the two negatives of a sample are drawn apart
    assert both == pytest.approx(float(share.prod()), abs=0.03)


COMBINED = OneOf([Chained([HybridImages(), Erased(2)]), Superposed(Warped()), Perturbed()], k=3)


def test_combined_sources_depend_on_seed_and_sample_alone_and_have_recipes():
    image = torch.rand(20, 1, 8, 8)
    assert torch.equal(_made(COMBINED, image), _made(from_recipe(to_recipe(COMBINED)), image))
    assert not torch.equal(_made(COMBINED, image), _made(COMBINED, image, seed=1))
    assert _made(COMBINED, image[:0]).shape == (0, 3, 1, 8, 8)
    whole = _made(OneOf([Warped(), CutPaste(), Erased(2)]), image)
    part = OneOf([Warped(), CutPaste(), Erased(2)]).images(image[5:9], image, Draws(0, 0, torch.arange(5, 9)))
    torch.testing.assert_close(part, whole[5:9])


SOURCES = [
    Warped(degrees=90),
    Superposed(Chained([Warped(), Erased(2)])),
    Superposed(HybridImages()),
    Erased(2),
    Filled([3, 5]),
    CutPaste(2),
    HybridImages(),
    GaussianNoise(),
    Rotated(),
    Perturbed(),
    COMBINED,
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
@pytest.mark.parametrize("rows", [[], [3], [7, 2, 2]], ids=str)
def test_negatives_of_some_samples_are_those_of_all(source, rows):
    image, target, rows = torch.rand(9, 1, 8, 8), torch.arange(9), torch.tensor(rows, dtype=torch.int64)
    of_all, of_some = (Draws(3, 1, torch.arange(9)) for _ in range(2))
    expected = source.images(image, target, of_all)[rows]
    torch.testing.assert_close(source.images_of(rows, image, target, of_some), expected, rtol=0, atol=1e-6)
    assert torch.equal(of_some.uniform(), of_all.uniform())  # both go on from the same place


def test_a_source_is_picked_as_from_the_negatives_of_all_sources():
    image, target, draws = torch.rand(30, 1, 8, 8), torch.arange(30), Draws(5, 2, torch.arange(30))
    made = OneOf(SOURCES).images(image, target, Draws(5, 2, torch.arange(30)))[:, 0]
    number = (draws.uniform(1) * len(SOURCES)).long()  # (B, 1)
    every = torch.stack([source.images(image, target, draws)[:, 0] for source in SOURCES], 1)
    torch.testing.assert_close(made, every[torch.arange(30), number[:, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutPaste(0), "1 patch or more"),
        (lambda: CutPaste(area=(0.2, 0.1)), "the smaller one first"),
        (lambda: Warped(-1.0), "give 0 or more"),
        (lambda: Warped(grid=1), "2 grid points"),
        (lambda: Erased(-1), "0 or more"),
        (lambda: Filled([4]), "odd numbers above 1"),
        (lambda: Chained([]), "combines sources of negative images"),
        (lambda: OneOf([WrongLabels()]), r"given \['WrongLabels'\]"),
        (lambda: OneOf([Erased()], k=0), "at least 1"),
        (lambda: OneOf([Erased()], weights=[0.0]), "a number above 0"),
        (lambda: _made(CutPaste(), torch.rand(3, 5)), r"needs images \(C, H, W\)"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
