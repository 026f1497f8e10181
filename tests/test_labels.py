"""Label encoders: what the network reads, against independent references."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import (
    FourierPattern,
    LabelColumns,
    LabelEmbedding,
    LabelEncoder,
    LabelledImages,
    LabelOverlay,
    LabelPlanes,
    LabelToken,
    NoLabel,
)
from intff_lightning.local import UnitL2
from intff_lightning.recipe import from_recipe, to_recipe

MAKERS = [
    lambda: LabelOverlay(0.7),
    lambda: LabelPlanes(0.5),
    lambda: FourierPattern(amplitude=0.3, seed=4),
    lambda: LabelToken([4, 8]),
    lambda: LabelEmbedding(2.0),
    NoLabel,
]
NAMES = ["overlay", "planes", "fourier", "token", "embedding", "none"]
every_encoder = pytest.mark.parametrize("make", MAKERS, ids=NAMES)


def _ready(encoder, shape, classes):
    encoder.setup(shape, classes)
    return encoder


def _images(shape, size=5, dtype=torch.float32):
    return torch.rand(size, *shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


@every_encoder
@pytest.mark.parametrize("shape", [(1, 16, 8), (3, 8, 16)], ids=["grey", "rgb"])
@pytest.mark.parametrize("classes", [10, 30])
def test_shapes_dtype_and_the_image_itself(make, shape, classes):
    encoder = _ready(make(), shape, classes)
    image, label = _images(shape), torch.tensor([0, 3, classes - 1, 5, 3])
    before = image.clone()
    channels, height, width = shape
    expected = {
        LabelPlanes: (channels + classes, height, width),
        LabelToken: (height * width // 32 + 1, channels * 32),
    }.get(type(encoder), shape)
    for shown in (label, None):
        assert encoder(image, shown).shape == (5, *expected)
        assert torch.equal(image, before)
        assert torch.isfinite(encoder(image, shown)).all()
    double = encoder(image.double(), label)
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), encoder(image, label), atol=1e-6)
    assert encoder(image.bfloat16(), label).dtype == torch.bfloat16


@every_encoder
def test_labels_are_told_apart_unless_none_is_shown(make):
    classes = 32
    encoder = _ready(make(), (1, 8, 8), classes)
    image = _images((1, 8, 8), 1).repeat(classes + 1, 1, 1, 1)
    shown = encoder(image[:classes], torch.arange(classes))
    rows = torch.cat([shown, encoder(image[:1], None)]).flatten(1)
    distances = torch.cdist(rows, rows).detach()[~torch.eye(classes + 1, dtype=torch.bool)]
    if encoder.shows_label:
        assert float(distances.min()) > 0.1
    else:
        assert float(distances.max()) == 0
    assert encoder.shows_label == (type(encoder) is not NoLabel)


@every_encoder
def test_an_image_is_encoded_alike_in_any_batch(make):
    encoder = _ready(make(), (2, 8, 8), 10)
    image, label = _images((2, 8, 8)), torch.tensor([1, 9, 0, 4, 4])
    together = encoder(image, label)
    assert all(torch.equal(together[i : i + 1], encoder(image[i : i + 1], label[i : i + 1])) for i in range(5))
    every = LabelledImages(image, torch.stack([label, label.flip(0)], 1), encoder).dense()
    assert torch.equal(every, torch.cat([together, encoder(image, label.flip(0))]))


@every_encoder
def test_recipes_rebuild_the_encoder(make):
    encoder = _ready(make(), (1, 8, 8), 10)
    again = from_recipe(to_recipe(encoder))
    assert type(again) is type(encoder)
    assert to_recipe(again) == to_recipe(encoder)
    assert repr(again) == repr(encoder)
    _ready(again, (1, 8, 8), 10).load_state_dict(encoder.state_dict())
    image, label = _images((1, 8, 8)), torch.arange(5)
    assert torch.equal(again(image, label), encoder(image, label))


@every_encoder
def test_gradients_reach_the_image(make):
    encoder = _ready(make(), (1, 8, 8), 10)
    image = _images((1, 8, 8)).requires_grad_()
    encoder(image, torch.arange(5)).sum().backward()
    assert image.grad is not None
    assert bool((image.grad.flatten(1)[:, 10:] == 1).all())  # every pixel that is not overlaid goes in once


@every_encoder
def test_no_global_draws_after_the_setup(make):
    encoder = _ready(make(), (1, 8, 8), 10)
    state = torch.get_rng_state()
    encoder(_images((1, 8, 8)), torch.arange(5))
    assert torch.equal(state, torch.get_rng_state())


def test_base_is_abstract():
    with pytest.raises(NotImplementedError):
        LabelEncoder()(torch.rand(1, 1, 2, 2), None)


# -------------------------------------------------------------------- planes


def test_planes_by_hand():
    image = torch.rand(2, 3, 4, 5)
    encoder = _ready(LabelPlanes(0.25), (3, 4, 5), 3)
    encoded = encoder(image, torch.tensor([2, 0]))
    assert torch.equal(encoded[:, :3], image)
    expected = torch.tensor([[0, 0, 0.25], [0.25, 0, 0]])
    assert torch.equal(encoded[:, 3:], expected[:, :, None, None] * torch.ones(4, 5))
    assert not encoder(image, None)[:, 3:].any()


@pytest.mark.parametrize("encoder", [LabelPlanes(), LabelToken()], ids=["planes", "token"])
@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 3, 8, 8)])
def test_images_without_channels_are_refused(encoder, shape):
    with pytest.raises(ConfigurationError, match=r"needs images \(C, H, W\)"):
        encoder.setup(shape, 10)


# -------------------------------------------------------------------- Fourier patterns


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("side", [8, 28])
def test_patterns_of_100_classes_are_distinct(seed, side):
    encoder = _ready(FourierPattern(0.5, seed), (1, side, side), 100)
    patterns = encoder(torch.zeros(100, 1, side, side), torch.arange(100)).flatten(1)
    assert torch.allclose(patterns.abs().amax(1), torch.tensor(0.5))
    alike = torch.corrcoef(patterns) - torch.eye(100)
    assert float(alike.abs().max()) < 0.995
    assert float(alike.abs().mean()) < 0.4
    assert bool((patterns.view(100, side, side).std((1, 2)) > 0.05).all())  # waves, and no constant


def test_patterns_cover_the_whole_image():
    """Every 7x7 window of an image of 28x28 tells any two of ten labels apart."""
    encoder = _ready(FourierPattern(), (1, 28, 28), 10)
    patterns = encoder(torch.zeros(10, 1, 28, 28), torch.arange(10))
    windows = torch.nn.functional.unfold(patterns, 7, stride=7)  # (10, 49, windows)
    for window in windows.unbind(2):
        distances = torch.cdist(window, window)[~torch.eye(10, dtype=torch.bool)]
        assert float(distances.min()) > 0.3


def test_patterns_are_sums_of_three_waves():
    """The spectrum of a pattern holds little but three peaks and their leakage."""
    encoder = _ready(FourierPattern(), (1, 64, 64), 20)
    patterns = encoder(torch.zeros(20, 1, 64, 64), torch.arange(20))[:, 0]
    window = torch.hann_window(64)
    power = torch.fft.fft2(patterns * window * window[:, None]).abs().square()
    frequency = torch.fft.fftfreq(64) * 64
    radius = (frequency**2 + frequency[:, None] ** 2).sqrt()
    assert float(power[:, radius > 16 + 3].sum() / power.sum()) < 1e-3
    # a Hann window spreads a wave over some 5x5 frequencies, and half of the plane mirrors the other
    first = []
    for spectrum in power / power.sum((1, 2), keepdim=True):
        shares = []
        for _ in range(3):
            row, column = divmod(int(spectrum.argmax()), 64)
            near = torch.zeros(64, 64, dtype=torch.bool)
            near[:5, :5] = True
            near = near.roll((row - 2, column - 2), (0, 1))
            near |= near.flip(0, 1).roll((1, 1), (0, 1))
            shares.append(float(spectrum[near].sum()))
            spectrum = spectrum.masked_fill(near, 0)
        assert sum(shares) > 0.97
        first.append(shares[0])
    assert float(torch.tensor(first).median()) < 0.7  # more than one wave, though some lie close together


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**40), st.integers(1, 3))
def test_patterns_depend_on_seed_class_and_shape_alone(classes, height, width, seed, channels):
    few = _ready(FourierPattern(seed=seed), (channels, height, width), classes)
    many = _ready(FourierPattern(seed=seed), (channels, height, width), classes + 5)
    label = torch.arange(classes)
    image = torch.zeros(classes, channels, height, width)
    torch.manual_seed(seed)
    patterns = few(image, label)
    assert torch.equal(patterns, many(image, label))
    assert torch.equal(patterns, patterns[:, :1].expand_as(patterns))  # the same in every channel
    assert float(patterns.abs().max()) <= 0.5 + 1e-6
    other = _ready(FourierPattern(seed=seed + 1), (channels, height, width), classes)
    if height * width > 1:
        assert not torch.equal(patterns, other(image, label))


def test_patterns_survive_other_dtypes_and_are_not_saved():
    encoder = _ready(FourierPattern(), (1, 8, 8), 10)
    image, label = _images((1, 8, 8)), torch.arange(5)
    expected = encoder(image, label)
    assert not encoder.state_dict()
    assert torch.equal(encoder.half().float()(image, label), expected)
    assert encoder.half()(image.half(), label).dtype == torch.float16
    assert encoder.double()(image.double(), label).dtype == torch.float64
    assert torch.equal(encoder.to("meta").to_empty(device="cpu").float()(image, label), expected)
    assert torch.equal(copy.deepcopy(encoder)(image, label), expected)
    larger = encoder(_images((1, 9, 9)), label)  # another shape, new patterns
    assert torch.allclose(larger, _ready(FourierPattern(), (1, 9, 9), 10)(_images((1, 9, 9)), label))


def test_patterns_made_in_inference_mode_can_be_trained_with():
    image, label = _images((1, 8, 8)), torch.arange(5)
    with torch.inference_mode():
        encoder = _ready(FourierPattern(), (1, 8, 8), 10)
        encoder(image, label)
    weight = torch.ones(1, requires_grad=True)
    (encoder(image, label) * weight).sum().backward()
    assert torch.equal(weight.grad, encoder(image, label).sum().view(1))
    assert not encoder.patterns(image).is_inference()


def test_patterns_need_rows():
    with pytest.raises(ConfigurationError, match="no rows"):
        FourierPattern().setup((784,), 10)
    flat = _ready(FourierPattern(), (6, 7), 4)  # images without channels have rows
    assert flat(torch.zeros(2, 6, 7), torch.tensor([0, 3])).shape == (2, 6, 7)


# -------------------------------------------------------------------- tokens


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 5), st.data())
def test_tokens_are_those_of_unfold(sizes, data):
    channels, height, width, rows, columns = sizes
    features = channels * height * width
    classes = data.draw(st.integers(1, features))
    shape = (channels, rows * height, columns * width)
    image = torch.rand(4, *shape)
    label = torch.randint(classes, (4,))
    encoder = _ready(LabelToken([height, width]), shape, classes)
    encoded = encoder(image, label)
    unfolded = torch.nn.functional.unfold(image, (height, width), stride=(height, width)).transpose(1, 2)
    assert torch.equal(encoded[:, :-1], unfolded)
    assert torch.equal(encoded[:, -1], torch.nn.functional.one_hot(label, features).float())
    neutral = encoder(image, None)
    assert torch.equal(neutral[:, :-1], unfolded)
    assert not neutral[:, -1].any()


def test_token_of_rows():
    image = torch.rand(2, 1, 28, 28).to(memory_format=torch.channels_last)
    encoder = _ready(LabelToken([1, 28]), (1, 28, 28), 10)
    assert torch.equal(encoder(image, None)[:, :28], image[:, 0])


def test_token_refusals():
    with pytest.raises(ConfigurationError, match="do not tile an image of 28x30"):
        LabelToken(4).setup((1, 28, 30), 10)
    with pytest.raises(ConfigurationError, match="do not tile an image of 30x28"):
        LabelToken(4).setup((1, 30, 28), 10)
    with pytest.raises(ConfigurationError, match="1x2x2 = 4 features cannot hold one of 10 classes"):
        LabelToken(2).setup((1, 28, 28), 10)
    LabelToken(2).setup((3, 28, 28), 10)
    for patch in (0, [4], [1, 2, 3], [4, 0]):
        with pytest.raises(ConfigurationError, match="1 pixel or more"):
            LabelToken(patch)


# -------------------------------------------------------------------- embedding


def test_embedding_is_added_and_learns():
    encoder = _ready(LabelEmbedding(), (3, 5, 4), 6)
    image, label = _images((3, 5, 4), 4), torch.tensor([2, 0, 2, 5])
    weight = encoder.weight
    assert isinstance(weight, torch.nn.Parameter)
    assert list(encoder.state_dict()) == ["weight"]
    assert torch.equal(encoder(image, label), image + weight.detach()[label])
    assert torch.equal(encoder(image, None), image)
    factor = torch.rand(4, 3, 5, 4)
    (encoder(image, label) * factor).sum().backward()
    expected = torch.zeros(6, 3, 5, 4)
    for i, c in enumerate(label.tolist()):
        expected[c] += factor[i]
    assert torch.allclose(weight.grad, expected)
    encoder.setup((3, 5, 4), 6)
    assert encoder.weight is weight  # and what it learned


def test_embedding_starts_small_and_from_the_seed():
    def weight(seed, scale):
        torch.manual_seed(seed)
        return _ready(LabelEmbedding(scale), (1, 28, 28), 10).weight.detach()

    first = weight(5, 1.0)
    assert torch.equal(first, weight(5, 1.0))
    assert not torch.equal(first, weight(6, 1.0))
    assert torch.allclose(weight(5, 3.0), 3 * first)
    assert float(first.mean()) == pytest.approx(0, abs=0.001)
    assert float(first.std()) == pytest.approx(0.02, rel=0.05)


def test_embedding_is_loaded_with_its_module():
    saved = io.BytesIO()
    encoder = _ready(LabelEmbedding(), (1, 4, 4), 3)
    torch.save(encoder.state_dict(), saved)
    saved.seek(0)
    other = _ready(LabelEmbedding(), (1, 4, 4), 3)
    assert not torch.equal(other.weight, encoder.weight)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(other.weight, encoder.weight)


def test_embedding_refusals():
    with pytest.raises(ConfigurationError, match="scale above 0"):
        LabelEmbedding(0)
    with pytest.raises(ConfigurationError, match=r"encoder\.setup"):
        LabelEmbedding()(torch.rand(1, 1, 4, 4), torch.tensor([0]))


# -------------------------------------------------------------------- overlay, real digits


def test_overlay_of_rgb():
    image = _images((3, 4, 4))
    encoded = _ready(LabelOverlay(), (3, 4, 4), 20)(image, torch.tensor([0, 15, 16, 19, 7]))
    flat = encoded.flatten(1)
    assert torch.equal(flat[:, 20:], image.flatten(1)[:, 20:])
    assert torch.equal(flat[:, :20].argmax(1), torch.tensor([0, 15, 16, 19, 7]))  # channels follow one another
    assert torch.equal(flat[:, :20].amax(1), image.flatten(1).amax(1))
    assert bool(((flat[:, :20] != 0).sum(1) == 1).all())


def test_real_digits_can_be_read_back(digits):
    """Every encoding of a batch of real digits holds the label and, but for the overlay, the digit."""
    data = digits()
    data.setup("fit")
    image, target = next(iter(data.train_dataloader()))[:2]
    patterns = _ready(FourierPattern(), data.input_shape, 10)
    clean = patterns(image, target) - image
    every = patterns(torch.zeros(10, *data.input_shape), torch.arange(10))
    assert torch.equal(torch.cdist(clean.flatten(1), every.flatten(1)).argmin(1), target)
    token = _ready(LabelToken(5), data.input_shape, 10)(image, target)
    assert torch.equal(token[:, -1].argmax(1), target)
    folded = torch.nn.functional.fold(token[:, :-1].transpose(1, 2), (10, 10), 5, stride=5)
    assert torch.equal(folded, image)
    planes = _ready(LabelPlanes(), data.input_shape, 10)(image, target)
    assert torch.equal(planes[:, 1:].mean((2, 3)).argmax(1), target)
    assert torch.equal(NoLabel()(image, target), image)


# -------------------------------------------------------------------- tables


def test_columns_by_hand():
    row = torch.tensor([[3.0, -5.0], [0.5, 0.25], [0.0, 0.0]])
    label = torch.tensor([2, 0, 1])
    found = _ready(LabelColumns(), (2,), 3)(row, label)
    assert found.tolist() == [[3, -5, 0, 0, 5], [0.5, 0.25, 0.5, 0, 0], [0, 0, 0, 0, 0]]
    fixed = _ready(LabelColumns(intensity=2.0), (2,), 3)
    assert fixed(row, label)[:, 2:].tolist() == [[0, 0, 2], [2, 0, 0], [0, 2, 0]]
    assert torch.equal(fixed(row, None), torch.cat([row, torch.zeros(3, 3)], 1))
    assert fixed.output_shape == (5,)
    for shape in ((1, 4, 5), (4, 5)):
        with pytest.raises(
            ConfigurationError, match=r"needs the columns of a table \(D,\), and these samples have shape"
        ):
            LabelColumns().setup(shape, 3)


def test_tables_get_columns_and_images_the_overlay_unless_another_encoder_is_asked_for():
    units = [DenseUnit([4])]
    for shape, asked, expected in (
        ([12], None, LabelColumns),
        ([1, 3, 4], None, LabelOverlay),
        ([3, 4], None, LabelOverlay),
        ([12], LabelOverlay(), LabelOverlay),
    ):
        module = IntFFModule(units, encoder=asked, input_shape=shape, num_classes=3)
        assert type(module.encoder) is expected
        assert module.hparams["encoder"] == to_recipe(expected())  # a checkpoint records what is in force
        assert module(torch.rand(2, *shape)).shape == (2, 3)


def _table(shift=0):
    """Two columns tell the class; the others say nothing."""
    x = torch.rand(600, 12, generator=torch.Generator().manual_seed(0)).roll(shift, 1)
    y = (x[:, shift] > x[:, shift + 1]).long()
    return PairedDataModule(train=TensorDataset(x, y), batch_size=32, seed=0)


@pytest.mark.parametrize("shift", [0, 5, 10])
def test_no_column_of_a_table_is_overwritten(shift, trainer):
    module = IntFFModule([DenseUnit([60, 40], normalization=UnitL2(20))])
    run = trainer(max_epochs=12, callbacks=[GoodnessAccuracy()])
    run.fit(module, _table(shift))
    assert run.callback_metrics["val/accuracy"] > 0.92  # 0.45 if the first columns held the label
    if shift == 0:
        run.save_checkpoint("table.ckpt")
        image = torch.rand(9, 12)
        again = IntFFModule.load_from_checkpoint("table.ckpt")
        assert type(again.encoder) is LabelColumns
        assert torch.equal(again(image), module(image))
