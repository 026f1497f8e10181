"""The 15 kinds of MNIST-C: against scipy, scikit-image and plain loops, and as test data of any datamodule."""

import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import get_args

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from matplotlib.axes import Axes
from PIL import Image
from scipy import ndimage
from scipy.stats import poisson
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, DenseUnit, IntFFModule
from intff_lightning.callbacks import LinearProbe
from intff_lightning.cli import main
from intff_lightning.corruptions import (
    MNIST_C,
    SEVERITIES,
    Brightness,
    CannyEdges,
    DottedLine,
    Fog,
    GaussianPixels,
    GlassBlur,
    ImpulseNoise,
    LabelNoise,
    MotionBlur,
    NoiseImages,
    PaperMixture,
    Rotate,
    Scale,
    Shear,
    ShotNoise,
    Spatter,
    Stripe,
    Translate,
    Zigzag,
)
from intff_lightning.corruptions.images import gaussian_blur
from intff_lightning.corruptions.weather import plasma_fractal
from intff_lightning.datamodules import DigitsDataModule, MNISTCDataModule, MNISTDataModule, PairedDataModule
from intff_lightning.datamodules.mnist_c import Kind
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.reproduce import kinds

each_kind = pytest.mark.parametrize("kind", MNIST_C.values(), ids=MNIST_C)


def _smooth(size=6, side=28, channels=1, seed=0):
    """Images of blobs in [0, 1], which differ from sample to sample."""
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.random((size, channels, side, side)), (0, 0, 1.5, 1.5))
    low, high = image.min((1, 2, 3), keepdims=True), image.max((1, 2, 3), keepdims=True)
    return torch.tensor((image - low) / (high - low), dtype=torch.float32)


def _changed(kind, image, seed=0, first=0):
    return kind.of_test_images(image, torch.arange(first, first + len(image)), seed=seed)


# -------------------------------------------------------------------- all kinds


@each_kind
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (28, 28), (1, 10, 10), (2, 20, 33)])
def test_shape_range_dtype_and_label(kind, shape):
    image, target = torch.rand(4, *shape), torch.arange(4)
    for severity in SEVERITIES:
        worse, label = kind(severity).of_batch(image, target, num_classes=10, seed=0)
        assert worse.shape == image.shape
        assert worse.dtype == image.dtype
        assert 0 <= worse.min() <= worse.max() <= 1
        assert torch.equal(label, target)
        assert not torch.equal(worse, image)
    assert _changed(kind(), image.half()).dtype is torch.float16


@each_kind
def test_only_seed_and_sample_decide(kind):
    image = _smooth(8)
    whole = _changed(kind(4), image)
    assert torch.equal(whole, _changed(kind(4), image))
    for part in (slice(2, 5), slice(7, 8)):  # in any company
        assert torch.allclose(_changed(kind(4), image[part], first=part.start), whole[part], atol=1e-6)
    drawn = kind not in (Scale, Brightness, Stripe, CannyEdges)
    assert torch.equal(whole, _changed(kind(4), image, seed=1)) != drawn
    same = _changed(kind(4), image[:1].repeat(8, 1, 1, 1))
    assert (same == same[:1]).all() != drawn  # samples differ in their draws


@each_kind
def test_a_higher_severity_changes_more(kind):
    image = _smooth(64) * (_smooth(64, seed=1) > 0.5)
    change = [(_changed(kind(severity), image) - image).abs().mean() for severity in SEVERITIES]
    if kind is GlassBlur:  # its second severity has fewer exchanges than the first
        change = [change[0], *change[2:]]
    if kind in (Spatter, Fog):  # drops become smaller and more, and fog thicker and less smooth
        change = [change[0], change[-1]]
    assert change == sorted(change)
    assert change[-1] > 1.1 * change[0]


@each_kind
def test_the_default_is_the_severity_of_mnist_c(kind):
    image = _smooth(4)
    assert torch.equal(_changed(kind(), image), _changed(kind(kind.mnist_c_severity), image))


@each_kind
def test_a_rate_is_a_share_of_the_samples(kind):
    image = _smooth(1).repeat(64, 1, 1, 1)
    worse = _changed(kind(5, rate=0.5), image)
    share = (worse != image).flatten(1).any(1).float().mean()
    assert 0.25 < share < 0.75


@pytest.mark.parametrize("severity", [0, 6, 3.0, True, "3"])
def test_severities_that_are_refused(severity):
    with pytest.raises(ConfigurationError, match=r"Fog\(severity=.*choose from 1 to 5"):
        Fog(severity)


def test_rows_of_tables_are_refused():
    with pytest.raises(ConfigurationError, match=r"Shear needs images .* not of shape \(7,\)"):
        _changed(Shear(), torch.rand(3, 7))


# -------------------------------------------------------------------- against other libraries


def test_gaussian_blur_is_scipys():
    image = _smooth(3, channels=2)
    for sigma in (0.7, 1.5, 4.0):  # the widest filter is larger than the image
        expected = ndimage.gaussian_filter(image.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
        assert np.abs(gaussian_blur(image, sigma).numpy() - expected).max() < 1e-5


def _warped(image, matrix, shift=(0, 0)):
    """Read each pixel at ``matrix @ (x, y) + shift`` from the centre, by scipy."""
    height, width = image.shape
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    flipped = np.array(matrix)[::-1, ::-1]  # scipy counts rows first
    offset = centre - flipped @ centre + np.array(shift)[::-1]
    return ndimage.affine_transform(image, flipped, offset, order=1, mode="grid-constant")


@pytest.mark.parametrize("shape", [(28, 28), (20, 33)])
@pytest.mark.parametrize("kind", [Shear, Rotate, Scale, Translate])
def test_affine_kinds_are_scipys(kind, shape):
    image = _smooth(12, 40)[:, :, : shape[0], : shape[1]].contiguous()
    unit = min(shape) / 28
    for severity in SEVERITIES:
        c = 0.2 * severity
        options = {
            Shear: [([[1, -math.sin(s * c)], [0, math.cos(s * c)]], (0, 0)) for s in (1, -1)],
            Rotate: [([[math.cos(c), -s * math.sin(c)], [s * math.sin(c), math.cos(c)]], (0, 0)) for s in (1, -1)],
            Scale: [(np.eye(2) / (1 - 0.1 * severity), (0, 0))],
            Translate: [(np.eye(2), (a * severity * unit, b * severity * unit)) for a in (1, -1) for b in (1, -1)],
        }[kind]
        found = set()
        for before, after in zip(image[:, 0].double().numpy(), _changed(kind(severity), image)[:, 0], strict=True):
            errors = [np.abs(_warped(before, *option) - after.numpy()).max() for option in options]
            assert min(errors) < 1e-4
            found.add(int(np.argmin(errors)))
        assert found == set(range(len(options)))  # every direction is drawn


def test_shot_noise_has_scipys_poisson_distribution():
    level, photons = 0.4, 12
    counts = (_changed(ShotNoise(3), torch.full((200, 1, 28, 28), level)) * photons).round()
    expected = poisson.pmf(np.arange(photons), level * photons)
    expected = np.append(expected, 1 - expected.sum()) * counts.numel()  # white or brighter
    found = counts.long().flatten().bincount(minlength=photons + 1).numpy()
    assert ((found - expected) ** 2 / expected).sum() < 32.9  # chi-squared, 12 degrees, p = 0.001
    assert (_changed(ShotNoise(3), torch.zeros(2, 1, 28, 28)) == 0).all()


def test_impulse_noise_is_half_salt():
    worse = _changed(ImpulseNoise(5), torch.full((100, 1, 28, 28), 0.5))
    for value in (0, 1):
        assert abs((worse == value).float().mean() - 0.135) < 5 * (0.135 / worse.numel()) ** 0.5
    assert worse.unique().tolist() == [0, 0.5, 1]


def test_canny_edges_are_scikit_images():
    feature = pytest.importorskip("skimage.feature")
    image = _smooth(40)
    expected = np.stack([feature.canny(picture) for picture in image[:, 0].double().numpy()])
    found = CannyEdges().of_test_images(image, torch.arange(40), seed=0)[:, 0].numpy() > 0.5
    assert expected.sum() > 1000
    assert (found != expected).mean() < 1e-4  # ties of gradients may be rounded to another side


# -------------------------------------------------------------------- against plain loops and values by hand


def test_glass_blur_exchanges_pixels_one_after_the_other():
    image, height, width, reach = torch.rand(3, 1, 9, 11), 9, 11, 1
    place = GlassBlur._exchanged(image, reach, 2, Draws(0, -1, ~torch.arange(3)))
    assert torch.equal(place.sort(0).values, torch.arange(99).unsqueeze(1).expand(-1, 3))  # nothing is lost
    draws = Draws(0, -1, ~torch.arange(3))
    expected = np.arange(99).reshape(9, 11, 1).repeat(3, 2)
    for _ in range(2):
        for row in range(height - reach, reach, -1):
            columns = list(range(width - reach, reach, -1))
            chosen, offset = draws.integers(2, len(columns)), draws.integers(2, len(columns), 2) - 1
            for number, column in enumerate(columns):
                for sample in range(3):
                    if chosen[sample, number]:
                        r, c = row + int(offset[sample, number, 0]), column + int(offset[sample, number, 1])
                        mine, theirs = expected[row, column, sample], expected[r, c, sample]
                        expected[row, column, sample], expected[r, c, sample] = theirs, mine
    assert (place.numpy() == expected.reshape(99, 3)).all()


def test_motion_blur_of_a_point_is_half_a_gaussian():
    image = torch.zeros(500, 1, 28, 28)
    image[:, 0, 14, 20] = 1
    worse = _changed(MotionBlur(2), image)[:, 0]  # radius 15, standard deviation 5
    weights = torch.exp(-0.5 * (torch.arange(31) / 5.0) ** 2)
    weights /= weights.sum()
    flat = worse[(worse[:, 14] > 0).sum(1) == 21]  # moved along the row
    assert len(flat)
    for picture in flat:
        assert torch.allclose(picture[14, :21].flip(0), weights[:21], atol=1e-6)
        picture[14, :21] = 0
        assert (picture == 0).all()
    assert torch.allclose(worse.sum((1, 2)).max(), torch.tensor(1.0), atol=1e-3)  # in every direction
    assert torch.allclose(_changed(MotionBlur(2), torch.full((2, 1, 28, 28), 0.3)), torch.tensor(0.3))


def test_brightness_adds_to_the_largest_channel():
    image = torch.tensor([0.2, 0.4, 0.1]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    worse = _changed(Brightness(2), image)[0, :, 0, 0]
    assert torch.allclose(worse, torch.tensor([0.3, 0.6, 0.15]))
    assert torch.allclose(_changed(Brightness(5), torch.zeros(1, 1, 2, 2)), torch.tensor(0.5))
    assert torch.allclose(_changed(Brightness(5), torch.full((1, 1, 2, 2), 0.7)), torch.tensor(1.0))


def test_stripes_are_inverted():
    image = torch.full((1, 1, 28, 28), 0.25)
    worse = _changed(Stripe(), image)[0, 0, 0]
    assert worse.tolist() == [0.75] * 7 + [0.25] * 14 + [0.75] * 7


def test_plasma_fractals_by_a_plain_loop():
    """The diamond-square algorithm, point by point."""
    side, decay = 8, 1.5
    found = plasma_fractal(side, decay, Draws(0, 0, torch.arange(2)))
    draws, heights = Draws(0, 0, torch.arange(2)), np.zeros((2, side, side))
    step, amplitude = side, 100.0
    while step >= 2:
        half, count = step // 2, side // step
        noise = (amplitude**2 * draws.coarse(3, count, count)).double().numpy()
        for i in range(count):
            for j in range(count):
                rows, columns = (i * step, (i + 1) * step % side), (j * step, (j + 1) * step % side)
                corners = sum(heights[:, r, c] for r in rows for c in columns)
                heights[:, i * step + half, j * step + half] = corners / 4 + noise[:, 0, i, j]
        for i in range(count):
            for j in range(count):
                top, left = (i * step, j * step + half), (i * step + half, j * step)
                for kind, (r, c) in ((1, top), (2, left)):
                    around = [
                        ((r + a) % side, (c + b) % side) for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))
                    ]
                    heights[:, r, c] = sum(heights[:, a, b] for a, b in around) / 4 + noise[:, kind, i, j]
        step, amplitude = half, amplitude / decay
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    assert np.abs(found.numpy() - heights).max() < 1e-5


def test_fog_leaves_the_brightest_pixel_in_range_and_black_images_black():
    image = _smooth(4)
    worse = _changed(Fog(1), image)
    assert (worse >= image / (1 + 1.5) - 1e-6).all()
    assert worse.max() <= 1
    assert (_changed(Fog(1), torch.zeros(2, 1, 28, 28)) == 0).all()


def test_spatter_is_dark_grey():
    worse = _changed(Spatter(5), torch.ones(32, 1, 28, 28))
    assert 0.01 < (worse < 0.5).float().mean() < 0.5
    assert worse.min() >= 63 / 255 - 1e-6


def _line(c0, r0, c1, r1):
    """A line of MNIST-C on 28x28 pixels, as their paper's code defines it."""
    column, row = np.meshgrid(np.arange(28), np.arange(28))
    distance = np.abs(row - ((r1 - r0) / (c1 - c0) * (column - c0) + r0))
    bright = np.log(1 - np.clip(distance, 0, 2.29) / 2.3) + 1
    return np.clip(bright, 0, 1) * (column >= np.floor(c0)) * (column < np.ceil(c1))


def test_dotted_lines_by_hand():
    worse = _changed(DottedLine(), torch.zeros(5, 1, 28, 28))
    draws = Draws(0, -1, ~torch.arange(5))
    draws.uniform()  # for the rate
    ends = draws.integers(27, 2).tolist()
    dots = np.arange(28) // 2 % 2 == 1
    for picture, (r0, r1) in zip(worse[:, 0].numpy(), ends, strict=True):
        assert np.abs(picture - dots * _line(0, r0, 27, r1)).max() < 1e-4


def test_zigzags_by_a_plain_loop():
    worse = _changed(Zigzag(), torch.zeros(30, 1, 28, 28))
    draws = Draws(0, -1, ~torch.arange(30))
    draws.uniform()  # for the rate
    rows, rises = draws.integers(27).tolist(), (draws.integers(10) - 5).tolist()
    for picture, row, rise in zip(worse[:, 0].numpy(), rows, rises, strict=True):
        angle = np.arctan(rise / 23)
        length = 23 / np.cos(angle)
        points = [(0.0, 0.0)]
        for turn in range(int((length - 2) // 4) + 1):
            points.append(((2 * turn + 1) * 2.0, (-1) ** turn * 2.0))
        points.append((length, points[-1][1] / (2 * (length - 4 * (length // 4)))))
        turned = [
            (2 + np.cos(angle) * c - np.sin(angle) * r, row + np.sin(angle) * c + np.cos(angle) * r) for c, r in points
        ]
        expected = np.zeros((28, 28))
        for start, end in pairwise(turned):
            expected = np.clip(expected + _line(*start, *end), 0, 1)
        assert np.abs(picture - expected).max() < 1e-3


# -------------------------------------------------------------------- as test data


class _Watcher(BackpropModule):
    """Keeps the images that it gets."""

    seen = None

    def _keep(self, name, image):
        self.seen = self.seen or {}
        self.seen.setdefault(name, []).append(image.clone())

    def training_step(self, batch, batch_idx):
        self._keep("train", batch.image)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self._keep("val", batch.image)
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self._keep("test", batch.image)
        return super().test_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self._keep("predict", batch)
        return super().predict_step(batch, batch_idx)


def _seen(data, trainer):
    module = _Watcher(DenseUnit([8]))
    trainer(max_epochs=1).fit(module, data)
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    return {name: torch.cat(batches) for name, batches in module.seen.items()}


def _all_of(seen):
    return seen.flatten(1).sort(0).values


def test_tests_and_predictions_alone_are_corrupted(digits, trainer):
    clean = _seen(digits(seed=3), trainer)
    worse = _seen(digits(seed=3, test_corruption=Rotate(3)), trainer)
    for name in ("train", "val"):
        assert torch.equal(_all_of(worse[name]), _all_of(clean[name]))
    expected = Rotate(3).of_test_images(clean["test"], torch.arange(len(clean["test"])), seed=3)
    assert torch.equal(worse["test"], expected)
    assert torch.equal(worse["predict"], expected)


def _foreign(digits, batch_size):
    """Somebody's own datamodule, whose loaders give no indices."""

    def loader(part):
        data = digits().dataset(part)
        return lambda self: DataLoader(TensorDataset(data.image, data.target), batch_size=batch_size)

    return type(
        "Foreign", (L.LightningDataModule,), {f"{part}_dataloader": loader(part) for part in ("train", "test")}
    )()


def test_other_datamodules_are_corrupted_by_their_pixels(digits, trainer):
    seen = []
    for batch_size in (100, 360):
        data = PairedDataModule(_foreign(digits, batch_size), num_classes=10, seed=0, test_corruption=ImpulseNoise(3))
        module = _Watcher(DenseUnit([8]), input_shape=[1, 10, 10], num_classes=10)
        trainer().test(module, data, verbose=False)
        seen.append(torch.cat(module.seen["test"]))
    assert torch.equal(*seen)
    assert abs(((seen[0] != digits().dataset("test").image).float().mean() / 0.09) - 0.7) < 0.3


def test_a_probe_is_fitted_on_clean_data(digits, trainer):
    probed = []

    class Probe(LinearProbe):
        def _embed(self, module, image):
            probed.append(image)
            return super()._embed(module, image)

    module = IntFFModule([DenseUnit([8])], input_shape=[1, 10, 10], num_classes=10)
    data = digits(test_corruption=Stripe(), batch_size=360)
    trainer(callbacks=[Probe(epochs=1)]).test(module, data, verbose=False)
    *fitted, tested = probed
    assert len(fitted) == len(data.dataset("train")) // 360
    assert all((image[:, 0, :, 0] == 0).all() for image in fitted)  # the border of digits is black
    assert (tested[:, 0, :, 0] == 1).all()


@pytest.mark.parametrize("corruption", [LabelNoise(), NoiseImages(), PaperMixture()])
def test_corruptions_of_labels_are_for_training_data(digits, corruption):
    with pytest.raises(ConfigurationError, match=f"test_corruption: {type(corruption).__name__} makes labels wrong"):
        digits(test_corruption=corruption)
    digits(test_corruption=GaussianPixels())


def test_a_corruption_without_test_data_is_refused(digits):
    data = digits().dataset("train")
    pairs = TensorDataset(data.image, data.target)
    with pytest.raises(ConfigurationError, match="test_corruption has no effect: there are no data for tests"):
        PairedDataModule(train=pairs, test_corruption=Fog())
    PairedDataModule(train=pairs, test=pairs, test_corruption=Fog())
    PairedDataModule(predict=pairs, test_corruption=Fog())
    loaders = {"train_dataloader": lambda self: DataLoader(pairs)}
    with pytest.raises(ConfigurationError, match="test_corruption has no effect"):
        PairedDataModule(type("Foreign", (L.LightningDataModule,), loaders)(), test_corruption=Fog())


@pytest.mark.slow
def test_the_command_line_records_it_and_checkpoints_keep_it(blank_figures, capsys):
    config = "{class_path: Rotate, init_args: {severity: 5}}"
    stripe = "{class_path: Stripe, init_args: {severity: 2}}"
    run = ["--config", "digits", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"]
    assert main(["fit", *run, "--data.test_corruption", config]) == 0
    (folder,) = Path("lightning_logs").glob("version_0")
    recorded = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["test_corruption"]
    assert recorded == {
        "class_path": "intff_lightning.corruptions.Rotate",
        "init_args": {"severity": 5, "rate": 1.0},
    }
    (best,) = (folder / "checkpoints").glob("best*.ckpt")
    module = IntFFModule.load_from_checkpoint(best).eval()
    image = DigitsDataModule().dataset("test").image
    for options, expected in (
        ([], Rotate(5).of_test_images(image, torch.arange(len(image)), seed=0)),
        (["--data.test_corruption", "null"], image),
        (["--data.test_corruption", stripe], Stripe(2).of_test_images(image, torch.arange(len(image)), seed=0)),
    ):
        assert main(["predict", "--ckpt_path", str(best), *options]) == 0
        table = max(Path("lightning_logs").glob("version_*/predictions.csv"), key=lambda path: path.stat().st_mtime_ns)
        scores = np.loadtxt(table, delimiter=",", skiprows=1)[:, 2:]
        with torch.no_grad():
            assert np.abs(scores - module(expected).numpy()).max() < 1e-4
    capsys.readouterr()


def test_pictures_of_your_own_are_corrupted_with_a_warning(tmp_path, capsys):
    picture = np.zeros((28, 28), np.uint8)
    picture[4:24, 12:16] = 255
    Image.fromarray(picture).save("one.png")
    options = ["predict", "--images", "one.png", "--ckpt_path", "pretrained:mnist"]
    with pytest.warns(UserWarning, match="the pictures are corrupted by Stripe"):
        assert main([*options, "--data.test_corruption", "Stripe"]) == 0
    (table,) = Path("lightning_logs").glob("version_0/predictions.csv")
    module = IntFFModule.from_pretrained("mnist")
    worse = Stripe().of_test_images(torch.tensor(picture / 255).float().view(1, 1, 28, 28), torch.arange(1), seed=0)
    with torch.no_grad():
        expected = module(worse)[0].numpy()
    scores = np.array(table.read_text().splitlines()[1].split(",")[2:], dtype=float)
    assert np.abs(scores - expected).max() < 1e-3
    capsys.readouterr()


# -------------------------------------------------------------------- the published files


@pytest.fixture
def published(tiny_mnist, tmp_path):
    """A data_dir with MNIST's first images, and two kinds of MNIST-C."""
    shutil.copytree(tiny_mnist / "MNIST", tmp_path / "sets/MNIST")
    random = np.random.default_rng(0)
    for kind in ("fog", "identity"):
        folder = tmp_path / "sets/mnist_c" / kind
        folder.mkdir(parents=True)
        np.save(folder / "test_images.npy", random.integers(0, 256, (50, 28, 28, 1), dtype=np.uint8))
        np.save(folder / "test_labels.npy", random.integers(0, 10, 50))
    return tmp_path / "sets"


def test_the_names_of_mnist_c():
    assert get_args(Kind) == ("identity", *MNIST_C)


def test_published_test_images_take_the_place_of_the_test_set(published):
    options = {"data_dir": str(published), "download": False, "val_size": 100}
    data, plain = MNISTCDataModule("fog", **options), MNISTDataModule(**options)
    files = [np.load(published / "mnist_c/fog" / f"test_{name}.npy") for name in ("images", "labels")]
    assert torch.equal(data.dataset("test").image, torch.tensor(files[0]).permute(0, 3, 1, 2))
    assert data.dataset("test").target.tolist() == files[1].tolist()
    for part in ("train", "val"):
        assert torch.equal(data.dataset(part).image, plain.dataset(part).image)
    padded = MNISTCDataModule("identity", pad=2, rgb=True, **options)
    assert padded.dataset("test").image.shape == (50, 3, 32, 32)


def test_missing_and_damaged_files_are_named(published):
    options = {"data_dir": str(published), "download": False, "val_size": 100}
    with pytest.raises(DataError, match=r"there is no folder .*mnist_c/zigzag(.|\n)*mnist_c.zip"):
        MNISTCDataModule("zigzag", **options).dataset("test")
    with pytest.raises(ConfigurationError, match="kind='zigzog'"):
        MNISTCDataModule("zigzog")
    path = published / "mnist_c/fog/test_images.npy"
    np.save(path, np.zeros((50, 28, 28), np.uint8))
    with pytest.raises(DataError, match=r"images are uint8 of shape \(50, 28, 28\)"):
        MNISTCDataModule("fog", **options).dataset("test")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="fog is incomplete or damaged"):
        MNISTCDataModule("fog", **options).dataset("test")


def test_the_picture_shows_every_kind_at_every_severity(tiny_mnist, blank_figures, monkeypatch):
    drawn = []
    monkeypatch.setattr(kinds, "_COUNT", 4)
    monkeypatch.setattr(Axes, "imshow", lambda axes, image, **options: drawn.append(image))
    rows = kinds.draw_kinds(str(tiny_mnist), Path("kinds.png"))
    assert Path("kinds.png").is_file()
    assert [row["kind"] for row in rows] == list(MNIST_C)
    assert len(drawn) == 5 * 16
    clean = MNISTDataModule(str(tiny_mnist), download=False).dataset("test").image[:1] / 255
    assert np.array_equal(drawn[0], clean[0, 0])
    for row, shown in zip(rows, np.array(drawn[5:]).reshape(15, 5, 28, 28), strict=True):
        kind = MNIST_C[row["kind"]]
        assert row["MNIST-C"] == kind.mnist_c_severity
        for severity, picture in zip(SEVERITIES, shown, strict=True):
            assert np.allclose(picture, _changed(kind(severity), clean)[0, 0], atol=1e-6)
            assert 0 < row[f"severity {severity}"] < 1
