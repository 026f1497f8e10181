"""Corruptions: what they change, how much of it, and that nothing but (seed, sample) decides it."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, DenseUnit
from intff_lightning.corruptions import GaussianPixels, LabelNoise, NoiseImages, PaperMixture, UnloadedRows
from intff_lightning.datamodules import DigitsDataModule, MNISTDataModule, PairedDataModule
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError

KINDS = [GaussianPixels, UnloadedRows, NoiseImages, LabelNoise]


def _set(size=6000, side=28, classes=10):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (size, 1, side, side), generator=generator, dtype=torch.uint8)
    return image, torch.randint(classes, (size,), generator=generator)


def _corrupted(corruption, image, target, seed=0):
    return corruption.of_set(image, target, num_classes=10, seed=seed)


def test_gaussian_pixels_have_their_standard_deviation_and_nothing_else_changes():
    image, target = _set()
    worse, label = _corrupted(GaussianPixels(std=0.1), image, target)
    noise = worse - image.float() / 255
    assert torch.equal(label, target)
    assert noise.mean().abs() < 5 * 0.1 / noise.numel() ** 0.5
    assert abs(noise.std() - 0.1) < 5 * 0.1 / (2 * noise.numel()) ** 0.5
    # normal beyond the second moment, and independent from pixel to pixel and from sample to sample
    assert abs(noise.div(0.1).pow(4).mean() - 3) < 0.02
    flat = noise.flatten()
    for lag in (1, 28, 784):
        assert (flat[:-lag] * flat[lag:]).mean().abs() < 5 * 0.01 / flat.numel() ** 0.5


def test_unloaded_rows_are_the_last_1_to_27_uniformly():
    image, target = _set()
    worse, label = _corrupted(UnloadedRows(), image, target)
    assert torch.equal(label, target)
    unloaded = (worse[:, 0] == 0).all(2)  # (N, H); every pixel of the images is above zero
    count = unloaded.sum(1)
    assert torch.equal(unloaded, torch.arange(28) >= (28 - count).unsqueeze(1))
    kept = ~unloaded[:, None, :, None].expand_as(worse)
    assert torch.equal(worse[kept], (image.float() / 255)[kept])
    frequency = count.bincount(minlength=29)
    assert frequency[0] == frequency[28] == 0
    expected = 6000 / 27
    assert ((frequency[1:28] - expected).square() / expected).sum() < 54.1  # chi-squared, 26 degrees, p = 0.001
    assert (_corrupted(UnloadedRows(most=3), image, target)[0][:, 0, :25] > 0).all()


def test_noise_images_show_nothing_and_their_labels_say_nothing():
    image, target = _set()
    worse, label = _corrupted(NoiseImages(), image, target)
    assert abs(worse.mean() - image.float().mean() / 255) < 1e-3
    assert abs(worse.std() - 0.1) < 1e-3
    assert abs((label == target).float().mean() - 0.1) < 5 * (0.09 / 6000) ** 0.5
    frequency = label.bincount(minlength=10)
    assert ((frequency - 600.0).square() / 600).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001


def test_label_noise_is_wrong_at_its_rate_and_uniform_over_the_wrong_labels():
    image, target = _set()
    worse, label = _corrupted(LabelNoise(0.4), image, target)
    assert torch.equal(worse, image.float() / 255)
    wrong = label != target
    assert abs(wrong.float().mean() - 0.4) < 5 * (0.24 / 6000) ** 0.5
    distance = ((label - target) % 10)[wrong].bincount(minlength=10)
    assert distance[0] == 0
    expected = wrong.sum() / 9
    assert ((distance[1:] - expected).square() / expected).sum() < 26.1  # chi-squared, 8 degrees, p = 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_a_share_of_the_samples(kind):
    image, target = _set()
    for rate in (0.0, 0.3, 1.0):
        worse, label = _corrupted(kind(rate), image, target)
        changed = ((worse - image.float() / 255).abs().flatten(1).amax(1) > 0) | (label != target)
        assert abs(changed.float().mean() - rate) <= 5 * (rate * (1 - rate) / 6000) ** 0.5
    with pytest.raises(ConfigurationError, match=f"{kind.__name__}.rate=1.5"):
        kind(1.5)


@pytest.mark.parametrize("kind", [*KINDS, PaperMixture])
def test_only_the_seed_and_the_sample_decide(kind):
    image, target = _set(500)
    first = _corrupted(kind(0.5), image, target, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, _corrupted(kind(0.5), image, target, seed=3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, _corrupted(kind(0.5), image, target, seed=4), strict=True))
    # in any company, and on the fly as well as in memory
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    floats = image.float() / 255
    whole = kind(0.5).of_batch(floats, target, num_classes=10, seed=3)
    for part in (*order.split(77), order[:1]):
        got = kind(0.5).of_batch(floats[part], target[part], num_classes=10, seed=3)
        assert torch.equal(got[0], whole[0][part])
        assert torch.equal(got[1], whole[1][part])
    dark = torch.cat([floats[:3], torch.zeros(5, *floats.shape[1:])])  # other company, of another brightness
    got = kind(0.5).of_batch(dark, target[:8], num_classes=10, seed=3)
    assert torch.equal(got[0][:3], whole[0][:3])


def test_a_noise_image_has_the_mean_of_its_own_sample_if_the_set_is_not_in_memory():
    image, target = torch.rand(50, 1, 28, 28) * torch.linspace(0.1, 1, 50).view(-1, 1, 1, 1), torch.zeros(50).long()
    noise, _ = NoiseImages(1.0, std=0.1).of_batch(image, target, num_classes=10, seed=0)
    difference = noise.mean((1, 2, 3)) - image.mean((1, 2, 3))
    assert difference.abs().max() < 5 * 0.1 / 28
    half, _ = NoiseImages(1.0, std=0.1).of_batch(image.half(), target, num_classes=10, seed=0)
    assert half.dtype is torch.float16


@pytest.mark.slow
def test_the_papers_mixture_is_20_000_of_each_kind(real_data):
    data = MNISTDataModule(real_data, val_size=0, seed=0, corruption=PaperMixture())
    data.prepare_data()  # it may be packed
    corrupted = data.dataset("train")
    whole = MNISTDataModule(real_data, val_size=0).dataset("train")
    assert len(corrupted) == 80_000
    clean, noisy, rows, noise = corrupted.image.split(20_000)
    floats = whole.image.float() / 255
    assert torch.equal(clean, floats[:20_000])
    assert torch.equal(corrupted.target[:60_000], whole.target)
    assert abs((noisy - floats[20_000:40_000]).std() - 0.1) < 1e-4
    assert (rows <= floats[40_000:]).all()
    assert (rows[:, :, -1] == 0).all()
    assert torch.equal(rows[:, :, 0], floats[40_000:, :, 0])
    assert abs(noise.mean() - floats.mean()) < 1e-4
    assert abs((corrupted.target[60_000:] == whole.target[:20_000]).float().mean() - 0.1) < 0.011


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_mixture_at_other_shares(rate):
    image, target = _set(3000)
    worse, label = _corrupted(PaperMixture(rate), image, target)
    added = len(label) - 3000
    assert abs(added - len(label) * rate / 3) < 1  # noise images are added, a third of the corrupted
    same = (worse[:3000] == image.float() / 255).flatten(1).all(1)
    assert abs(same.float().mean() * 3000 - len(label) * (1 - rate)) < 3


def test_validation_and_test_data_stay_clean():
    clean, corrupted = DigitsDataModule(), DigitsDataModule(corruption=NoiseImages(1.0))
    for part in ("val", "test"):
        assert torch.equal(clean.dataset(part).image, corrupted.dataset(part).image)
        assert torch.equal(clean.dataset(part).target, corrupted.dataset(part).target)
    assert not torch.equal(clean.dataset("train").image, corrupted.dataset("train").image)


@pytest.mark.parametrize("order", [("train", "val"), ("val", "train")])
def test_data_given_in_parts_is_corrupted_once(order):
    digits = DigitsDataModule()
    parts = {name: TensorDataset(digits.dataset(name).image, digits.dataset(name).target) for name in ("train", "val")}
    data = PairedDataModule(**parts, corruption=GaussianPixels(1.0, std=0.1), num_classes=10, seed=0)
    for name in order:
        data.dataset(name)
    noise = data.dataset("train").image - digits.dataset("train").image
    assert abs(noise.std() - 0.1) < 2e-3
    assert torch.equal(data.dataset("val").image, digits.dataset("val").image)


class _Loaders(DigitsDataModule):
    """Somebody's own datamodule: a shuffling loader of plain pairs."""

    def train_dataloader(self):
        data = self.dataset("train")
        return DataLoader(TensorDataset(data.image, data.target), batch_size=64, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


def test_any_datamodule_is_corrupted_the_same_way_in_every_epoch(trainer):
    seen = []

    class Watcher(BackpropModule):
        def training_step(self, batch, batch_idx):
            seen.append((self.current_epoch, batch.image.sum((1, 2, 3)), batch.target))
            return super().training_step(batch, batch_idx)

    data = PairedDataModule(_Loaders(), corruption=LabelNoise(0.5), num_classes=10, seed=0)
    trainer(max_epochs=2, limit_val_batches=0).fit(Watcher(DenseUnit([8])), data)
    epochs = []
    for epoch in (0, 1):
        pixels = torch.cat([s for e, s, _ in seen if e == epoch])
        labels = torch.cat([t for e, _, t in seen if e == epoch])
        epochs.append((pixels, labels, pixels.double().argsort()))
    (pixels0, labels0, order0), (pixels1, labels1, order1) = epochs
    assert torch.equal(pixels0[order0], pixels1[order1])
    distinct = pixels0[order0].unique(return_counts=True)[1] == 1
    single = distinct.repeat_interleave(pixels0[order0].unique(return_counts=True)[1])
    assert torch.equal(labels0[order0][single], labels1[order1][single])  # shuffled, and yet the same noise
    truth = DigitsDataModule().dataset("train")
    true = truth.target[truth.image.sum((1, 2, 3)).double().argsort()]
    assert abs((labels0[order0][single] != true[single]).float().mean() - 0.5) < 0.08


def test_normal_draws():
    draw = Draws(0, 0, torch.arange(200_000)).normal(2)
    assert draw.mean().abs() < 0.01
    assert abs(draw.std() - 1) < 0.01
    assert abs((draw.abs() > 1.959964).float().mean() - 0.05) < 0.002
    assert torch.corrcoef(draw.T)[0, 1].abs() < 0.01
    assert draw.isfinite().all()
