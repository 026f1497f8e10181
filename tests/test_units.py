"""Units of every kind: shapes, order, goodness by class, encodings; drawn at random they train, and stay local."""

import copy
import functools
from itertools import pairwise

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from intff_lightning import (
    AttentionUnit,
    ConvUnit,
    DenseUnit,
    IntFFModule,
    LabelOverlay,
    RecurrentUnit,
    WrongLabels,
)
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import channel_goodness, symba_loss, top_goodness
from intff_lightning.labels import (
    FourierPattern,
    LabelColumns,
    LabelEmbedding,
    LabelledImages,
    LabelPlanes,
    LabelToken,
    NoLabel,
)
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    LabelCrossEntropy,
    MeanSquares,
    NoNormalization,
    SoftplusLoss,
    SumSquares,
    SymBaLoss,
    TopGoodness,
    UnitL2,
)
from intff_lightning.modes import evaluating
from intff_lightning.negatives import GaussianNoise, HardLabels, HybridImages
from intff_lightning.pairs import PairedBatch

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def _built(units, shape=(1, 8, 8), classes=3, **options):
    return IntFFModule(units, input_shape=list(shape), num_classes=classes, **options)


@pytest.mark.parametrize(
    ("units", "shapes"),
    [
        ([ConvUnit([4, 6]), DenseUnit([5])], [(6, 4, 4), (5,)]),
        ([ConvUnit([4], pool=1, stride=2), ConvUnit([8], norm="batch", residual=True)], [(4, 4, 4), (8, 2, 2)]),
        ([ConvUnit([8], norm="group", groups=4), AttentionUnit(8, patch=2, heads=2)], [(8, 4, 4), (4, 8)]),
        ([AttentionUnit(8, patch=4, blocks=2), AttentionUnit(12), DenseUnit([5])], [(4, 8), (4, 12), (5,)]),
        (
            [RecurrentUnit(6), RecurrentUnit(5, cell="LSTM", bidirectional=False), DenseUnit([4])],
            [(8, 6), (8, 5), (4,)],
        ),
        ([AttentionUnit(8), RecurrentUnit(6, layers=2)], [(4, 8), (4, 6)]),
        ([nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), ConvUnit([4]), nn.Flatten(), DenseUnit([4])], None),
    ],
)
def test_units_of_different_kinds_follow_one_another(units, shapes):
    if shapes is None:  # a body without parameters is no unit
        with pytest.raises(ConfigurationError, match="unit_2 has no parameters"):
            _built(units)
        return
    module = _built(units)
    x = torch.rand(2, 1, 8, 8)
    for unit, shape in zip(module.units, shapes, strict=True):
        x = unit(x)
        assert tuple(x.shape[1:]) == shape
        assert unit.describe()
    image = torch.rand(7, 1, 8, 8)
    assert module(image).shape == (7, 3)
    assert module.embed(image).shape[0] == 7


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([DenseUnit([5]), ConvUnit([4])], "unit_1 is convolutional and needs maps"),
        ([AttentionUnit(8, patch=3)], "unit_0 has patch=3"),
        ([DenseUnit([5]), AttentionUnit(8)], "unit_1 uses attention"),
        ([DenseUnit([5]), RecurrentUnit(8)], "unit_1 is recurrent"),
        ([ConvUnit([4], pool=3), ConvUnit([4], pool=3)], "unit_1 cannot take an input"),
        ([ConvUnit([2], goodness=ChannelGoodness())], "unit_0 has 2 channels for the 3 classes"),
        ([ConvUnit([4], goodness=ChannelGoodness()), DenseUnit([4])], "for all units, or for none"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(units, message):
    with pytest.raises(ConfigurationError, match=message):
        _built(units)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvUnit([]), "one or more layers"),
        (lambda: ConvUnit([4], kernel_size=2), "odd"),
        (lambda: ConvUnit([6], norm="group"), "does not divide"),
        (lambda: ConvUnit([4], pool=0), "1 or more"),
        (lambda: ConvUnit([4, 4], pool=[1, 0]), "1 or more"),
        (lambda: ConvUnit([4, 4], pool=[2]), "one size per layer, here 2"),
        (lambda: ConvUnit([4, 4], pool=[2, 1], residual=True), "no residual layers"),
        (lambda: ConvUnit([4], activation="Relu"), "torch.nn has no such class"),
        (lambda: AttentionUnit(10, heads=4), "does not divide"),
        (lambda: RecurrentUnit(0), "1 or more"),
        (lambda: TopGoodness(0.0), "0 < share <= 1"),
        (
            lambda: IntFFModule([DenseUnit([4], goodness=ChannelGoodness())], encoder=LabelOverlay()),
            "leave the encoder",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_goodness_functions_against_loops():
    h = torch.randn(5, 7, 2, 3, dtype=torch.float64)
    expected = torch.zeros(5, 3, dtype=torch.float64)
    owners = [[0, 1, 2], [3, 4], [5, 6]]  # side by side, 7 channels of 3 classes
    for c, channels in enumerate(owners):
        for b in range(5):
            expected[b, c] = sum((h[b, j] ** 2).mean() for j in channels) / len(channels)
    torch.testing.assert_close(channel_goodness(h, 3), expected)
    tokens = h.flatten(2).transpose(1, 2)  # (B, T, D)
    torch.testing.assert_close(channel_goodness(tokens, 3), expected)
    even = h[:, :6]
    torch.testing.assert_close(channel_goodness(even, 3)[:, 1], (even[:, 2:4] ** 2).mean((1, 2, 3)))
    flat = h.flatten(1)
    expected = torch.stack([sum(sorted((row**2).tolist())[-4:]) / torch.tensor(4.0).double() for row in flat])
    torch.testing.assert_close(top_goodness(h, 4), expected)
    torch.testing.assert_close(SumSquares()(h), (flat**2).sum(1))
    torch.testing.assert_close(TopGoodness(1.0)(h), MeanSquares()(h))


def test_symba_against_its_equation():
    positive, negative = torch.tensor([1.0, 2.0]), torch.tensor([[1.5, 0.0], [2.0, 3.0]])
    margins = [1.5 - 1, 0 - 1, 2 - 2, 3 - 2]
    expected = sum(torch.log1p(torch.exp(torch.tensor(4.0 * m))) for m in margins) / 4
    torch.testing.assert_close(symba_loss(positive, negative), expected)


@pytest.mark.parametrize(
    "loss", [SoftplusLoss(), LabelCrossEntropy(), SymBaLoss()], ids=lambda loss: type(loss).__name__
)
@pytest.mark.parametrize("goodness", [MeanSquares, SumSquares, TopGoodness, ChannelGoodness])
def test_every_loss_falls_under_plain_gradient_descent(loss, goodness, digits, trainer):
    torch.manual_seed(0)
    rate = 0.001 if goodness is SumSquares else 0.03  # thirty neurons' squares are added up
    unit = DenseUnit([30], goodness=goodness(), loss=loss, normalization=UnitL2(10))
    module = IntFFModule([unit], optimizer=functools.partial(torch.optim.SGD, lr=rate))
    losses = []

    class Keep(GoodnessLogger):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            losses.append(float(trainer.callback_metrics["train/loss/unit_0"]))

    run = trainer(max_epochs=6, callbacks=[Keep()])
    run.fit(module, digits(negatives=WrongLabels(3)))
    assert all(later < earlier for earlier, later in pairwise(losses)), losses


def test_a_goodness_by_class_trains_as_a_plain_loop(digits, trainer):
    """Cross-entropy of channel goodness, unit by unit, against a plain loop in float64."""
    torch.manual_seed(0)
    loss = functools.partial(LabelCrossEntropy, threshold_weight=0.0, collaboration=1.0)
    units = [
        ConvUnit([20], goodness=ChannelGoodness(), loss=loss(), normalization=NoNormalization()),
        DenseUnit([30], goodness=ChannelGoodness(), loss=loss(), normalization=NoNormalization()),
    ]
    module = _built(units, (1, 10, 10), classes=10, optimizer=SGD).double()
    conv, dense = module.units[0].body[0][0], module.units[1].body[1][0]
    weights = [p.detach().clone().requires_grad_() for layer in (conv, dense) for p in (layer.weight, layer.bias)]
    batches = []

    class Record(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append((batch.image, batch.target))

    trainer(callbacks=[Record()], limit_train_batches=6, precision="64-true").fit(module, digits())
    for image, target in batches:
        h = torch.relu(nn.functional.conv2d(image, weights[0], weights[1], padding=1))
        h = nn.functional.max_pool2d(h, 2)
        g0 = (h**2).mean((2, 3)).view(-1, 10, 2).mean(2)
        h2 = torch.relu(h.detach().flatten(1) @ weights[2].T + weights[3])
        g1 = (h2**2).view(-1, 10, 3).mean(2)
        total = nn.functional.cross_entropy(g0, target) + nn.functional.cross_entropy(g1 + g0.detach(), target)
        gradients = torch.autograd.grad(total, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.1 * gradient
    ours = [p for layer in (conv, dense) for p in (layer.weight, layer.bias)]
    for mine, theirs in zip(ours, weights, strict=True):
        torch.testing.assert_close(mine.data, theirs.data, rtol=0, atol=1e-10)
    image, target = batches[0]
    torch.testing.assert_close(module(image), module.label_goodness(image).sum(0))
    assert module.label_goodness(image).shape == (2, len(target), 10)


def test_a_goodness_by_class_trains_on_any_datamodule(digits, trainer):
    """Plain batches of images and targets, to the weights that paired ones give."""
    trained = []
    for plain in (True, False):
        torch.manual_seed(0)
        module = _built([DenseUnit([30], goodness=ChannelGoodness())], (1, 10, 10), classes=10)
        data = digits(augmentation=None)
        if plain:
            data = _Plain(data)
        run = trainer(max_epochs=2, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
        run.fit(module, data)
        trained.append((module.state_dict(), float(run.callback_metrics["val/accuracy"])))
    assert all(torch.equal(trained[0][0][name], trained[1][0][name]) for name in trained[0][0])
    assert trained[0][1] == trained[1][1]


class _Plain(L.LightningDataModule):
    """The images and targets of a paired datamodule, in its order."""

    def __init__(self, paired):
        super().__init__()
        self.paired = paired

    def setup(self, stage):
        self.paired.trainer = self.trainer
        self.paired.setup(stage)

    def train_dataloader(self):
        return self.paired.train_dataloader()

    def val_dataloader(self):
        return self.paired.val_dataloader()


def test_a_learned_encoding_is_trained_by_the_first_unit_alone(digits, trainer):
    module = IntFFModule([DenseUnit([9]), DenseUnit([9])], encoder=LabelEmbedding(), optimizer=SGD)
    module.units[1].optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    run = trainer(limit_train_batches=1)
    run.fit(module, digits())
    moved = module.encoder.weight.detach().clone()
    assert [len(o.param_groups[0]["params"]) for o in run.optimizers] == [3, 2]
    trainer(limit_train_batches=3).fit(module, digits())
    assert not torch.equal(module.encoder.weight, moved)
    moved = module.encoder.weight.detach().clone()
    trainer(limit_train_batches=3).fit(module, digits(negatives=HybridImages()))  # from other negatives as well
    assert not torch.equal(module.encoder.weight, moved)


def test_without_labels_the_probe_is_asked_for(digits, trainer):
    module = IntFFModule([DenseUnit([9])], encoder=NoLabel())
    with pytest.raises(ConfigurationError, match="NoLabel shows no label"):
        trainer().fit(IntFFModule([DenseUnit([9])], encoder=NoLabel()), digits())
    trainer(limit_train_batches=2).fit(module, digits(negatives=HybridImages()))
    with pytest.raises(ConfigurationError, match="trained without labels: read it by a linear probe"):
        module(torch.rand(2, 1, 10, 10))
    assert module.embed(torch.rand(2, 1, 10, 10)).shape == (2, 9)


@pytest.mark.slow
def test_pure_noise_as_negatives_teaches_nothing_of_classes(digits, trainer):
    """The paper's example of what must fail: a unit tells noise from images by anything, and needs no label for it."""
    accuracy = {}
    for source in (WrongLabels(3), GaussianNoise()):
        torch.manual_seed(0)
        module = IntFFModule([DenseUnit([100], normalization=UnitL2(10))])
        run = trainer(max_epochs=10, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
        run.fit(module, digits(negatives=source))
        accuracy[type(source)] = float(run.callback_metrics["val/accuracy"])
        assert run.callback_metrics["val/goodness/auroc/unit_0"] > 0.85  # both losses were learned
    assert accuracy[WrongLabels] > 0.8
    assert accuracy[GaussianNoise] < 0.5


UNITS = {
    "conv": lambda **o: ConvUnit([4], **o),
    "conv batch": lambda **o: ConvUnit([6, 4], norm="batch", residual=True, **o),
    "attention": lambda **o: AttentionUnit(8, patch=2, heads=2, **o),
    "recurrent": lambda **o: RecurrentUnit(6, **o),
    "dense": lambda **o: DenseUnit([7, 5], **o),
}
LOSSES = {"softplus": SoftplusLoss, "symba": SymBaLoss, "cross-entropy": LabelCrossEntropy}
ENCODERS = {
    "overlay": LabelOverlay,
    "planes": LabelPlanes,
    "fourier": FourierPattern,
    "token": lambda: LabelToken(2),
    "embedding": LabelEmbedding,
    "none": NoLabel,
}
SOURCES = {"wrong": lambda: WrongLabels(2), "hard": lambda: HardLabels(2), "hybrid": HybridImages}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(list(UNITS)), min_size=1, max_size=3),
    loss=st.sampled_from(list(LOSSES)),
    goodness=st.sampled_from([MeanSquares, TopGoodness, ChannelGoodness]),
    encoder=st.sampled_from(list(ENCODERS)),
    source=st.sampled_from(list(SOURCES)),
    channels=st.sampled_from([1, 3]),
)
def test_any_combination_trains_or_is_refused_in_a_line(kinds, loss, goodness, encoder, source, channels):
    """Finite losses, one unit moved by one optimizer, the same weights from the same seed; or a ConfigurationError."""
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(6, channels, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    trained = []
    try:
        for _ in range(2):
            torch.manual_seed(0)
            units = [UNITS[kind](goodness=goodness(), loss=LOSSES[loss]()) for kind in kinds]
            module = _built(units, (channels, 8, 8), encoder=None if goodness.by_class else ENCODERS[encoder]())
            _steps(module, image, target, SOURCES[source]())
            trained.append(module.state_dict())
    except ConfigurationError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        event("refused")
        assert 20 < len(refusal) < 300
        return
    event("trained")
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def _steps(module, image, target, source):
    """Two steps through the module's own parts; each unit's gradient reaches no other."""
    draws, model = Draws(0, 0, torch.arange(len(target))), module if source.uses_model else None
    with torch.no_grad(), evaluating(module):
        negatives = source(image, target, num_classes=3, model=model, generator=draws)
    passage = module.begin(PairedBatch(image, target, *negatives))
    for k in range(len(module.units)):
        loss = module.forward_units([k], passage)
        assert torch.isfinite(loss)
        module.zero_grad()
        loss.backward()
        touched = {id(p) for p in module.parameters() if p.grad is not None}
        assert touched <= {id(p) for p in module.unit_parameters(k)}
        assert touched
        with torch.no_grad():
            for p in module.unit_parameters(k):
                if p.grad is not None:
                    p -= 0.01 * p.grad
        module.finish_units([k], passage)


# -------------------------------------------------------------------- half precision


@pytest.mark.parametrize("encoder", [LabelOverlay, LabelColumns, lambda: LabelColumns(0.5)])
@pytest.mark.parametrize("normalization", [UnitL2(20), RMS()])
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed float16", "mixed bfloat16", "float32", "float64"])
def test_label_and_image_read_apart_are_the_dense_input_at_any_size(encoder, normalization, precision):
    """From samples that are all zero to the largest numbers of float16, against the dense input in float64."""
    dtype = getattr(torch, precision.removeprefix("mixed "))
    encoder = encoder()
    encoder.setup((20,), 3)
    unit = DenseUnit([8], normalization=normalization)
    unit.setup((encoder.output_shape), 3)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.0, 1e-6, 1e-3, 1.0, 100.0, 65504.0]).view(-1, 1)
    image = torch.rand(6, 20, generator=generator) * sizes
    image = image if "mixed" in precision else image.to(dtype)
    unit = unit if "mixed" in precision else unit.to(dtype)
    exact = copy.deepcopy(unit).double()
    for label in (torch.arange(3).unsqueeze(0), torch.randint(3, (6, 2), generator=generator)):
        inputs = LabelledImages(image, label, encoder)
        with torch.autocast("cpu", dtype, enabled="mixed" in precision):
            found = unit(inputs)
        expected = exact(LabelledImages(image.double(), label, encoder).dense())
        tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}.get(dtype, 1e-4)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    if dtype is torch.float64:
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_half_precision_classifies_as_float32_does(digits, trainer):
    """Units that are silent under wrong labels are the ordinary case, and their zeros must stay zeros."""

    def trained(*plugins):
        torch.manual_seed(0)
        units = [DenseUnit([60, 40]), DenseUnit([40]), DenseUnit([40])]
        module = IntFFModule(units, normalization=UnitL2(20))
        run = trainer(max_epochs=20, callbacks=[GoodnessAccuracy()], plugins=list(plugins), limit_val_batches=0)
        run.fit(module, data)
        run.test(module, data, verbose=False)
        return module, float(run.callback_metrics["test/accuracy"])

    data = digits(seed=0, batch_size=128)
    module, accuracy = trained()
    assert accuracy > 0.9
    test = data.dataset("test")
    with torch.no_grad():
        silent = (module.label_goodness(test.image) == 0).float().mean((1, 2))
        assert silent.max() > 0.001  # it is tested
        for dtype in (torch.float16, torch.bfloat16):
            scores = copy.deepcopy(module).to(dtype)(test.image.to(dtype))
            assert abs(float((scores.argmax(1) == test.target).float().mean()) - accuracy) <= 0.005
    mixed = trained(MixedPrecision("16-mixed", "cpu"))[1]  # Lightning's own flag takes bfloat16 on a CPU
    assert abs(mixed - accuracy) <= 0.015  # another run, and seeds of one precision differ by as much


def test_channels_last_gives_the_same_results_in_another_format():
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    results = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        unit = ConvUnit([6, 8], norm="batch", residual=True, channels_last=channels_last)
        unit.setup((3, 8, 8), 2)
        h = unit.double()(x)
        results.append((h, torch.autograd.grad(channel_goodness(h, 2).sum(), list(unit.parameters()))))
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)
    assert not results[1][0].is_contiguous()
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("activation", ["ReLU", "GELU", "LeakyReLU"])
def test_pooling_is_that_of_activations_whatever_comes_first(activation):
    """ReLU follows the pooling, which gives the same bits; other activations come before it."""
    torch.manual_seed(0)
    unit = ConvUnit([4, 6], norm="batch", activation=activation, normalization=NoNormalization())
    unit.setup((3, 8, 8), 2)
    convolutions = [m for m in unit.body.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in unit.body.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(5, 3, 8, 8)
    expected = x
    for convolution, norm in zip(convolutions, norms, strict=True):
        expected = getattr(nn, activation)()(norm(convolution(expected)))
    expected = nn.functional.max_pool2d(expected, 2)
    weight = torch.randn_like(expected)
    parameters = list(unit.parameters())
    mine = torch.autograd.grad((unit(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((expected * weight).sum(), parameters)
    assert torch.equal(unit(x), expected)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_one_pooling_per_layer_comes_before_its_normalization():
    torch.manual_seed(0)
    unit = ConvUnit([4, 6, 8], pool=[1, 3, 2], norm="batch", activation="GELU", normalization=NoNormalization())
    unit.setup((3, 12, 12), 2)
    convolutions = [m for m in unit.body.modules() if isinstance(m, nn.Conv2d)]
    x = torch.randn(5, 3, 12, 12)
    expected = x
    for convolution, pool in zip(convolutions, [1, 3, 2], strict=True):
        expected = nn.functional.max_pool2d(convolution(expected), pool)
        expected = nn.functional.gelu(nn.functional.batch_norm(expected, None, None, training=True))
    assert expected.shape == (5, 8, 2, 2)
    torch.testing.assert_close(unit(x), expected)
    assert "pool 1-3-2" in unit.describe()
