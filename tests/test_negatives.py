"""Negative sources: statistics, determinism and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intff_lightning.distortions import CutPaste, Erased, Warped
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelOverlay, LabelPlanes, NoLabel
from intff_lightning.negatives import (
    GaussianNoise,
    HardLabels,
    HybridImages,
    ImageNegatives,
    NegativeSource,
    Perturbed,
    RelabellingSource,
    Rotated,
)
from intff_lightning.pairs import PairedBatch
from intff_lightning.recipe import from_recipe, to_recipe

SOURCES = [
    *(HardLabels(2, 0.5), HybridImages(2, blurs=4), Rotated([90, 180]), Perturbed(0.2), GaussianNoise(0.4, 0.3)),
    *(CutPaste(2), Warped(0.1, 3, 20, 0.1, 0.1), Erased(1)),
]
ids = [type(source).__name__ for source in SOURCES]
every_source = pytest.mark.parametrize("source", SOURCES, ids=ids)
of_one_sample = pytest.mark.parametrize("source", [s for s in SOURCES if not isinstance(s, HybridImages)])
image_sources = pytest.mark.parametrize("source", SOURCES[1:], ids=ids[1:])


class _Model(torch.nn.Module):
    """Scores that depend on the image, as those of a network."""

    def __init__(self, classes=10):
        super().__init__()
        self.classes = classes

    def forward(self, image):
        flat = image.flatten(1).float()
        waves = torch.outer(torch.arange(1.0, self.classes + 1), torch.arange(flat.shape[1]))
        return flat @ waves.cos().T


def _data(size=12, shape=(1, 8, 8), classes=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(size, *shape, generator=generator).to(dtype)
    return image, torch.randint(classes, (size,), generator=generator)


def _call(source, image, target, encoder=LabelOverlay, seed=0, epoch=0, index=None, classes=10):
    """The network's negative inputs (B * k, *), and the labels that the source chose."""
    draws = Draws(seed, epoch, torch.arange(len(image)) if index is None else index)
    images, label = source(image, target, num_classes=classes, model=_Model(classes), generator=draws)
    made = encoder()
    made.setup(tuple(image.shape[1:]), classes)
    return made.negative(PairedBatch(image, target, images, label)), label


def _labels(source, target, model, draws=Draws, seed=0):
    """Labels for samples of noise; a list in place of a model is the scores of them all."""
    classes = len(model) if isinstance(model, list) else 10
    asked = (lambda image: torch.tensor(model).expand(len(image), -1)) if isinstance(model, list) else model
    image, generator = _data(len(target))[0], draws(seed, 0, torch.arange(len(target)))
    return source.labels(image, target, num_classes=classes, model=asked, generator=generator)


@every_source
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 12)], ids=["grey", "rgb"])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_dtype(source, shape, classes, dtype):
    image, target = _data(shape=shape, classes=classes, dtype=dtype)
    before = image.clone(), target.clone()
    negative, shown = _call(source, image, target, classes=classes)
    k = getattr(source, "k", 1)
    assert negative.shape == (12 * k, *shape)
    assert negative.dtype == dtype
    assert bool(((negative >= 0) & (negative <= 1)).all())
    if isinstance(source, RelabellingSource):
        assert shown.shape == (12, k)
    else:
        assert shown is None
    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])


@every_source
def test_negatives_are_k_for_each_sample(source):
    """Images (B, k, *), labels (B, k), or None for what the source leaves as it is."""
    image, target = _data(classes=5)
    k = getattr(source, "k", 1)
    draws = Draws(0, 0, torch.arange(12))
    images, label = source(image, target, num_classes=5, model=_Model(5), generator=draws)
    relabels = isinstance(source, RelabellingSource)
    assert (images is None, label is None) == (relabels, not relabels)
    assert (label if relabels else images).shape == ((12, k) if relabels else (12, k, 1, 8, 8))
    negative, shown = PairedBatch(image, target, images, label).negative
    assert negative.shape == (12, k, 1, 8, 8)
    assert (shown is None) == (not relabels)
    inputs, _ = _call(source, image, target, classes=5)
    encoder = LabelOverlay()
    encoder.setup((1, 8, 8), 5)
    for j in range(k):  # sample by sample: the k inputs of one sample stand side by side
        expected = encoder(negative[:, j], target if shown is None else shown[:, j])
        assert torch.equal(inputs.view(12, k, 1, 8, 8)[:, j], expected)


@every_source
def test_draws_depend_on_seed_epoch_and_index(source):
    image, target = _data(64)
    first = _call(source, image, target)[0]
    state = torch.get_rng_state()
    assert torch.equal(first, _call(source, image, target)[0])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, _call(source, image, target, seed=1)[0])
    assert not torch.equal(first, _call(source, image, target, epoch=1)[0])
    assert not torch.equal(first, _call(source, image, target, index=torch.arange(64) + 64)[0])


@of_one_sample
def test_draws_do_not_depend_on_the_batch(source):
    image, target = _data(40)
    k = getattr(source, "k", 1)
    whole = _call(source, image, target)[0].view(40, k, 1, 8, 8)
    for chosen in (torch.arange(7, 19), torch.tensor([39, 3]), torch.tensor([5])):
        part = _call(source, image[chosen], target[chosen], index=chosen)[0]
        assert torch.allclose(part.view(-1, k, 1, 8, 8), whole[chosen], atol=1e-6)


@every_source
def test_recipes_rebuild_the_source(source):
    again = from_recipe(to_recipe(source))
    assert type(again) is type(source)
    assert to_recipe(again) == to_recipe(source)
    image, target = _data()
    assert torch.equal(_call(again, image, target)[0], _call(source, image, target)[0])
    assert from_recipe(to_recipe(type(source)())).__dict__.keys() == source.__dict__.keys()  # and with the defaults


@image_sources
def test_the_true_label_is_shown_where_any_is(source):
    image, target = _data()
    k = getattr(source, "k", 1)
    planes, _ = _call(source, image, target, LabelPlanes)
    plain, _ = _call(source, image, target, NoLabel)
    assert torch.equal(planes[:, :1], plain)
    assert torch.equal(planes[:, 1:].mean((2, 3)).argmax(1), target.repeat_interleave(k))
    empty, _ = _call(source, image[:0], target[:0])
    assert empty.shape == (0, 1, 8, 8)


def test_bases_are_abstract():
    image, target = _data()
    for base in (NegativeSource(), RelabellingSource(), ImageNegatives()):
        with pytest.raises(NotImplementedError):
            _call(base, image, target)


@pytest.mark.parametrize("kind", [HardLabels, HybridImages])
@pytest.mark.parametrize("k", [0, -2])
def test_no_negatives_are_refused(kind, k):
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\(k={k}\).*at least 1"):
        kind(k=k)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.floats(1e-30, 1e6), st.data())
def test_hard_labels_are_wrong_and_distinct(classes, temperature, data):
    k = data.draw(st.integers(1, classes - 1))
    value = st.floats(-(2.0**99), 2.0**99, width=32) | st.just(float("-inf"))
    scores = data.draw(st.lists(value, min_size=classes, max_size=classes))
    target = torch.arange(40) % classes
    label = _labels(HardLabels(k, temperature), target, scores, seed=data.draw(st.integers(0, 1000)))
    assert bool((label != target[:, None]).all())
    assert bool(((label >= 0) & (label < classes)).all())
    assert all(len(row.unique()) == k for row in label)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 1e6])
def test_hard_labels_follow_the_softmax(temperature):
    scores, size = [0.3, 9.0, 1.5, -0.4, 2.0, 0.3], 30000
    counts = (
        _labels(HardLabels(1, temperature), torch.full((size,), 1), scores).flatten().bincount(minlength=6).double()
    )
    wrong = [0, 2, 3, 4, 5]
    weights = np.exp(np.array(scores)[wrong] / temperature)
    expected = torch.tensor(size * weights / weights.sum())
    assert counts[1] == 0
    chi2 = float(((counts[wrong] - expected) ** 2 / expected).sum())
    assert chi2 < 18.5  # 0.999 quantile at 4 degrees of freedom


def test_hard_labels_are_drawn_without_replacement():
    """Pairs, in order: the second by the softmax over what the first left (the law of Plackett and Luce)."""
    scores, size = [0.5, 0.0, 1.5, -0.5], 40000
    label = _labels(HardLabels(2), torch.full((size,), 1), scores)
    weights = {c: np.exp(scores[c]) for c in (0, 2, 3)}
    chi2 = 0.0
    for a in weights:
        for b in weights.keys() - {a}:
            share = weights[a] / sum(weights.values()) * weights[b] / (sum(weights.values()) - weights[a])
            count = int(((label[:, 0] == a) & (label[:, 1] == b)).sum())
            chi2 += (count - size * share) ** 2 / (size * share)
    assert chi2 < 20.5  # 0.999 quantile at 5 degrees of freedom


@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_a_low_temperature_takes_the_highest_wrong_scores(temperature):
    image, target = _data(200)
    label = _labels(HardLabels(3, temperature), target, _Model())
    scores = _Model()(image).numpy().copy()
    scores[np.arange(200), target] = -np.inf
    expected = np.argsort(-scores, axis=1)[:, :3]
    share = (label.numpy() == expected).mean()
    assert share == 1 if temperature == 1e-30 else share > 0.99


def test_a_draw_of_zero_costs_no_label_its_place():
    class Zeros(Draws):  # one draw in 16 million
        def uniform(self, *shape):
            return torch.cat([torch.zeros(len(self.state), 1), torch.full((len(self.state), *shape), 0.5)[:, 1:]], 1)

    label = _labels(HardLabels(1, 1e-3), torch.zeros(3, dtype=torch.int64), [5.0, 2.0, 1.0, 0.0], Zeros)
    assert label.tolist() == [[1]] * 3


def test_hard_labels_refusals():
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="above 0"):
            HardLabels(temperature=temperature)
    image, target = _data(classes=3)
    with pytest.raises(ConfigurationError, match=r"HardLabels\(k=3\): of 3 classes only 2 are wrong"):
        _call(HardLabels(3), image, target, classes=3)
    with pytest.raises(ConfigurationError, match="needs the scores of a network"):
        _labels(HardLabels(), target, None)


def test_hard_labels_of_a_network_in_training(digits, trainer, network):
    """Within a fit: the labels are those that the network, as it then is, scores highest among the wrong ones."""
    data = digits(negatives=HardLabels(2, 1e-6))
    module = network([20], input_shape=None, num_classes=None)
    seen = []
    step = module.training_step

    def watch(batch, batch_idx):
        with torch.no_grad():
            scores = module(batch.image)
        scores.scatter_(1, batch.target[:, None], -1.0)  # goodness is never below zero
        chosen = scores.gather(1, batch.negative_target)
        seen.append(bool(torch.allclose(chosen, scores.topk(2, dim=1).values, atol=1e-4)))
        assert module.training  # the mode is given back
        return step(batch, batch_idx)

    module.training_step = watch
    trainer(limit_train_batches=4, limit_val_batches=1).fit(module, data)
    assert seen == [True] * 4


def _blurred(bits, blurs):
    """Masks before their cut, by a convolution with the outer product of the filter."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row)[None, None]
    for _ in range(blurs):
        bits = torch.nn.functional.conv2d(torch.nn.functional.pad(bits, [1] * 4, mode="replicate"), kernel)
    return bits


def test_masks_are_blurred_random_bits():
    image, _ = _data(20, (3, 28, 28))
    mask = HybridImages(k=3).masks(image, Draws(5, 0, torch.arange(20)))
    bits = (Draws(5, 0, torch.arange(20)).uniform(3, 28, 28) < 0.5).float()
    blurred = _blurred(bits.view(60, 1, 28, 28), 10).view(20, 3, 28, 28)
    clear = (blurred - 0.5).abs() > 1e-5
    assert torch.equal(mask[clear], (blurred > 0.5)[clear])
    assert float(clear.float().mean()) > 0.99


def test_mask_regions_are_large():
    image, _ = _data(200, (1, 28, 28))

    def borders(blurs):
        mask = HybridImages(blurs=blurs).masks(image, Draws(0, 0, torch.arange(200)))
        return float((mask[..., 1:] != mask[..., :-1]).float().mean()), float(mask.float().mean())

    share, ones = borders(10)
    assert share < 0.15
    assert 0.47 < ones < 0.53
    assert borders(0)[0] == pytest.approx(0.5, abs=0.01)  # the bits themselves
    assert borders(3)[0] > share > borders(40)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 30), st.integers(0, 1000))
def test_masks_always_mix(height, width, blurs, seed):
    image = torch.rand(30, 1, height, width)
    mask = HybridImages(blurs=blurs).masks(image, Draws(seed, 0, torch.arange(30)))
    flat = mask.flatten(1)
    assert bool((flat.any(1) & ~flat.all(1)).all())


@pytest.mark.parametrize("shape", [(1, 10, 10), (3, 7, 9), (6, 8)])
@pytest.mark.parametrize("k", [1, 3])
def test_hybrids_hold_the_pixels_of_two_images(shape, k):
    size = 16
    image = torch.arange(size).view(-1, *[1] * len(shape)).expand(size, *shape) / size + 1e-3 * torch.rand(shape)
    target = torch.zeros(size, dtype=torch.int64)
    negative, _ = _call(HybridImages(k), image, target, NoLabel)
    masks = HybridImages(k).masks(image, Draws(0, 0, torch.arange(size)))
    partners = torch.empty(size, k, dtype=torch.int64)
    for i in range(size):
        for j in range(k):
            hybrid, mask = negative[i * k + j], masks[i, j].expand(shape)
            assert torch.equal(hybrid[mask], image[i][mask])
            others = [p for p in range(size) if torch.equal(hybrid[~mask], image[p][~mask])]
            assert len(others) == 1
            partners[i, j] = others[0]
    assert bool((partners != torch.arange(size)[:, None]).all())  # never with itself
    assert all(len(row.unique()) == k for row in partners)  # k partners
    assert all(torch.equal(column.sort().values, torch.arange(size)) for column in partners.T)  # each asked once
    if k > 1:  # one random circle, walked further for each hybrid
        assert torch.equal(partners[partners[:, 0], 0], partners[:, 1])


def test_hybrids_in_small_batches():
    image, target = _data(2)
    pair, _ = _call(HybridImages(5), image, target, NoLabel)
    assert bool((pair.view(2, 5, -1) != image.view(2, 1, -1)).any(2).all())  # more hybrids than partners
    alone, _ = _call(HybridImages(2), image[:1], target[:1], NoLabel)
    assert torch.equal(alone, image[:1].repeat(2, 1, 1, 1))  # as documented


def test_hybrid_refusals():
    with pytest.raises(ConfigurationError, match="0 or more"):
        HybridImages(blurs=-1)
    for source in (HybridImages(), Rotated()):
        with pytest.raises(ConfigurationError, match=r"needs images \(C, H, W\)"):
            _call(source, torch.rand(3, 64), torch.zeros(3, dtype=torch.int64))


def test_rotations_are_exact_and_uniform():
    image, target = _data(3000, (2, 5, 5))
    negative, _ = _call(Rotated(), image, target, NoLabel)
    turns = [torch.from_numpy(np.rot90(image.numpy(), t, axes=(2, 3)).copy()) for t in (1, 2, 3)]
    matches = torch.stack([(negative == turned).flatten(1).all(1) for turned in turns])
    assert bool((matches.sum(0) == 1).all())
    counts = matches.sum(1)
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 13.9  # 0.999 quantile at 2 degrees of freedom


def test_rotation_by_one_angle():
    image, target = _data(4, (3, 4, 7))
    half, _ = _call(Rotated([180]), image, target, NoLabel)
    assert torch.equal(half, image.flip(2, 3))
    square, _ = _call(Rotated([-90]), *_data(4), NoLabel)
    assert torch.equal(square, _data(4)[0].transpose(2, 3).flip(3))  # clockwise


def test_rotation_refusals():
    for angles in ([], [45], [0], [90, 360]):
        with pytest.raises(ConfigurationError, match="90, 180 and 270"):
            Rotated(angles)
    with pytest.raises(ConfigurationError, match="4x7 pixels can turn by 180"):
        _call(Rotated(), *_data(4, (1, 4, 7)))


def _clamped_normal(mean, std):
    """Mean and mean square of a normal variable cut to [0, 1], by numerical integration."""
    z = np.linspace(-8, 8, 200001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    value = np.clip(mean + std * z, 0, 1)
    return float((value * density).sum()), float((value**2 * density).sum())


def test_gaussian_noise_has_the_statistics_and_nothing_of_the_image():
    image, target = _data(4000)
    noise, _ = _call(GaussianNoise(0.3, 0.4), image, target, NoLabel)
    other, _ = _call(GaussianNoise(0.3, 0.4), torch.zeros_like(image), target, NoLabel)
    assert torch.equal(noise, other)
    mean, square = _clamped_normal(0.3, 0.4)
    assert float(noise.double().mean()) == pytest.approx(mean, abs=0.004)
    assert float(noise.double().square().mean()) == pytest.approx(square, abs=0.004)
    assert float(noise.flatten(1).double().mean(1).std()) == pytest.approx((square - mean**2) ** 0.5 / 8, rel=0.1)


@pytest.mark.parametrize(("level", "std"), [(0.5, 0.05), (0.0, 0.5), (1.0, 0.2)])
def test_perturbed_images_are_around_the_image(level, std):
    image, target = torch.full((3000, 1, 8, 8), level), torch.zeros(3000, dtype=torch.int64)
    noisy, _ = _call(Perturbed(std), image, target, NoLabel)
    mean, square = _clamped_normal(level, std)
    assert float(noisy.double().mean()) == pytest.approx(mean, abs=0.004)
    assert float(noisy.double().square().mean()) == pytest.approx(square, abs=0.004)


@pytest.mark.parametrize("kind", [Perturbed, GaussianNoise])
@pytest.mark.parametrize("std", [0, -1.0, float("nan")])
def test_no_noise_is_refused(kind, std):
    with pytest.raises(ConfigurationError, match="standard deviation above 0"):
        kind(std=std)


@image_sources
def test_real_digits_are_spoiled_in_a_fit(source, digits, trainer, network):
    module = network([20], input_shape=None, num_classes=None)
    data = digits(negatives=source)
    seen = []
    step = module.training_step

    def watch(batch, batch_idx):
        k = getattr(source, "k", 1)
        assert batch.negative_target is None
        positive, negative = module.encoder.positive(batch), module.encoder.negative(batch)
        seen.append((negative != positive.repeat_interleave(k, 0)).flatten(1).any(1).float().mean())
        return step(batch, batch_idx)

    module.training_step = watch
    trainer(limit_train_batches=3, limit_val_batches=1).fit(module, data)
    assert len(seen) == 3
    assert min(seen) > 0.95  # a digit may be its own rotation; a hybrid may mix what is black in both
