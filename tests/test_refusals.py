"""What users bring and cannot work: shapes, labels, options and orders of units are refused by name, not computed."""

import functools
import warnings

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule
from PIL import Image
from torch.optim import LBFGS, SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule, RecurrentUnit
from intff_lightning.callbacks import GoodnessAccuracy, LinearProbe
from intff_lightning.datamodules import ImageFolderDataModule, PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.labels import FourierPattern, LabelColumns, LabelEmbedding, LabelOverlay, LabelPlanes, NoLabel
from intff_lightning.local import RMS, ChannelGoodness, LabelCrossEntropy, SymBaLoss, TopGoodness, UnitL2
from intff_lightning.negatives import NegativeSource
from intff_lightning.samples import Reader, check_pixels

N, CLASSES = 6, 3
X = torch.rand(N, 1, 4, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES
TALL = X.reshape(N, 1, 6, 4)  # as many pixels in another shape
DATA = TensorDataset(X, Y)


def _network(**options):
    return IntFFModule([DenseUnit([8]), DenseUnit([6])], **options)


# -------------------------------------------------------------------- data


@pytest.mark.parametrize("images", [TALL, X[..., :5], X.flatten(1)])
def test_validation_images_of_another_shape(images, trainer):
    data = PairedDataModule(train=DATA, val=TensorDataset(images, Y), num_classes=CLASSES)
    with pytest.raises(DataError, match=r"images have shape .* and the network was built for \(1, 4, 6\)"):
        trainer().fit(_network(), data)


def test_images_to_predict_and_plain_batches_of_another_shape(trainer):
    class Plain(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(TALL, Y))

        val_dataloader = train_dataloader

    sizes = {"input_shape": [1, 4, 6], "num_classes": CLASSES}
    by_class = IntFFModule([DenseUnit([6])], goodness=ChannelGoodness(), **sizes)
    for module in (by_class, BackpropModule(DenseUnit([6]), **sizes)):
        with pytest.raises(DataError, match=r"have shape \(1, 6, 4\), and the network was built for \(1, 4, 6\)"):
            trainer().fit(module, Plain())
        with pytest.raises(DataError, match="a batch to predict: images have shape"):
            trainer().predict(module, DataLoader(TensorDataset(TALL)))


def test_images_that_batches_cannot_hold_are_named_after_their_datamodule(trainer):
    class Uneven(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([(X[0], 0), (X[0, :, :3], 1)], batch_size=2)

    with pytest.raises(DataError, match="Uneven: its train_dataloader gives no batch to look at: stack expects"):
        trainer().fit(_network(), PairedDataModule(Uneven(), num_classes=CLASSES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pixels_whose_norm_overflows(dtype):
    most = torch.finfo(dtype).max
    image = torch.ones(3, 4, dtype=dtype)
    image[1] = most
    if dtype == torch.float32:
        with pytest.raises(DataError, match=r"sample 1 has pixels too large for torch.float32 \(1 of 3"):
            check_pixels(image, "data")
    else:  # their norms are computed in a wider dtype
        check_pixels(image, "data")
    image[2, 0] = torch.inf
    with pytest.raises(DataError, match=r"sample (1 has pixels too large|2 has NaN or infinite pixels)"):
        check_pixels(image, "data")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (2**70, "a label is 1180591620717411303424"),
        (np.uint64(2**63 + 5), "a label is 9223372036854775813"),
        (1.0, r"a label is float. Whole numbers become integers by int\(label\)"),
        (torch.tensor(1.0), r"Whole numbers become integers by int\(label\)"),
        (torch.tensor([0, 1]), "One-hot labels become classes"),
    ],
)
def test_labels_that_are_no_class(label, message):
    with pytest.raises(DataError, match=message):
        Reader("data").labels([label], 1)


@pytest.mark.parametrize("count", [0, -1, 3.0])
def test_a_number_of_classes_that_cannot_be(count):
    with pytest.raises(ConfigurationError, match=f"num_classes={count}: an integer"):
        PairedDataModule(train=DATA, num_classes=count)


@pytest.mark.parametrize(("scale", "options", "count"), [(255, {}, 1), (255, {"pixel_range": [0, 255]}, 0), (1, {}, 0)])
def test_floating_point_pixels_up_to_255_are_warned_of(scale, options, count):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shape = PairedDataModule(train=TensorDataset(scale * X, Y), **options).input_shape
    assert shape == (1, 4, 6)
    assert ["pixels up to 2" in str(warning.message) for warning in caught] == [True] * count


class _Source(NegativeSource):
    def __init__(self, images=None, labels=None):
        self.images, self.labels = images, labels

    def __call__(self, image, target, *, num_classes, model, generator):
        return self.images and self.images(image), self.labels and self.labels(target)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (_Source(lambda x: x), r"_Source returns negative images of shape \(6, 1, 4, 6\).*\(B, k, 1, 4, 6\) is needed"),
        (_Source(lambda x: x[:1, None]), "negative images of shape"),
        (_Source(None, lambda y: y), r"labels of shape \(6,\) and torch.int64 for 6 images"),
        (_Source(None, lambda y: y[:, None].float()), "torch.float32 for 6 images"),
        (_Source(lambda x: x[:, None], lambda y: y[:, None].expand(-1, 2)), r"labels of shape \(6, 2\)"),
        (_Source(None, lambda y: y[:, None] + CLASSES), "labels out of range: they must be 0 to 2"),
    ],
)
def test_what_a_negative_source_of_your_own_must_return(source, message, trainer):
    with pytest.raises(ConfigurationError, match=message):
        trainer().fit(_network(), PairedDataModule(train=DATA, val_size=0, negatives=source))


def test_hidden_files_and_folders_are_no_images(tmp_path):
    for folder, name in (("a", "0"), ("b", "0"), (".ipynb_checkpoints", "0")):
        (tmp_path / "train" / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "train" / folder / f"{name}.png")
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"no image")
    data = ImageFolderDataModule(str(tmp_path), 4, val_size=0)
    assert (data.num_classes, len(data.dataset("train"))) == (2, 2)
    only = tmp_path / "other" / "train" / ".hidden"
    only.mkdir(parents=True)
    with pytest.raises(DataError, match="one folder for each class"):
        ImageFolderDataModule(str(tmp_path / "other"), 4).dataset("train")


# -------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _network(update="jiont"), "update='jiont': choose from 'immediate', 'joint'"),
        (lambda: _network(handover="aftr"), "handover='aftr'"),
        (lambda: _network(gradient_clip_algorithm="nrom"), "gradient_clip_algorithm='nrom'"),
        (lambda: _network(gradient_clip_val=-1.0), "gradient_clip_val=-1.0"),
        (lambda: DenseUnit([3], gradient_clip_val=-1.0), "gradient_clip_val=-1.0"),
        (lambda: _network(vote=[0, 0]), "vote=.0, 0.: .*each once"),
        (lambda: DenseUnit([3], initialization="glorot"), "initialization='glorot'"),
        (lambda: ConvUnit([3], initialization="glorot"), "initialization='glorot'"),
        (lambda: ConvUnit([3], norm="layer"), "norm='layer'"),
        (lambda: RecurrentUnit(3, cell="RNN"), "cell='RNN'"),
        (lambda: LinearProbe(label="each"), "label='each'"),
        (lambda: BackpropModule(DenseUnit([3]), label_smoothing=2.0), "label_smoothing=2.0"),
        (lambda: UnitL2(gain=0.0), "UnitL2.gain=0.0"),
        (lambda: RMS(eps=-1.0), "RMS.gain=1.0, eps=-1.0"),
        (lambda: SymBaLoss(alpha=0.0), "alpha=0.0"),
        (lambda: LabelOverlay(0), "intensity=0.: all labels would look alike"),
        (lambda: LabelColumns(0), "intensity=0"),
        (lambda: LabelPlanes(0), "intensity=0"),
        (lambda: FourierPattern(0), "amplitude=0"),
        (lambda: _network(optimizer="adam"), "optimizer is 'adam', and a function that makes one is needed"),
        (lambda: DenseUnit([3], optimizer=Adam([torch.zeros(1)])), "optimizer is of type Adam"),
        (lambda: BackpropModule(DenseUnit([3]), scheduler=3), "scheduler is of type int"),
    ],
)
def test_options_that_would_be_ignored_or_misread(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("kind", [_network, lambda **o: BackpropModule(DenseUnit([6]), **o)])
def test_adam_cannot_train_float16(kind, trainer):
    data = PairedDataModule(train=DATA, val_size=1)
    with pytest.raises(ConfigurationError, match=r"Adam's eps=1e-08 is zero in float16.*\n.*16-mixed or bf16-true"):
        trainer(precision="16-true").fit(kind(), data)
    for optimizer in (functools.partial(Adam, lr=0.001, eps=1e-4), functools.partial(SGD, lr=0.001)):
        module = kind(optimizer=optimizer)
        trainer(precision="16-true").fit(module, data)
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_an_optimizer_of_several_passes(trainer):
    with pytest.raises(ConfigurationError, match="LBFGS needs several passes"):
        trainer().fit(_network(optimizer=LBFGS), PairedDataModule(train=DATA, val_size=1))


def test_a_probe_needs_features(trainer):
    class Plain(LightningModule):
        def training_step(self, batch):
            pass

        validation_step = training_step

        def configure_optimizers(self):
            pass

    with pytest.raises(ConfigurationError, match="Plain has no method embed"):
        trainer(callbacks=[LinearProbe()]).fit(Plain(), PairedDataModule(train=DATA, val_size=1))


# -------------------------------------------------------------------- frozen, changed and traced networks


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # freeze() sets it
@pytest.mark.parametrize(
    "freeze", [lambda m: m.requires_grad_(False), lambda m: m.freeze(), lambda m: m.units.requires_grad_(False)]
)
def test_a_network_frozen_before_its_layers_are_built_stays_frozen(freeze, trainer):
    module, data = _network(), PairedDataModule(train=DATA, val_size=1)
    freeze(module)
    with pytest.raises(ConfigurationError, match="all units are frozen"):
        trainer().fit(module, data)
    module = _network(encoder=LabelEmbedding())
    freeze(module)
    module.units[1].requires_grad_(True)
    module.encoder.requires_grad_(False)
    trainer().fit(module, data)
    assert {name.rpartition(".body")[0] for name, p in module.named_parameters() if p.requires_grad} == {"units.1"}
    thawed = _network()
    thawed.freeze()
    thawed.unfreeze()
    trainer().fit(thawed, data)
    assert all(parameter.requires_grad for parameter in thawed.parameters())


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_frozen_baseline_has_a_frozen_head(trainer):
    module = BackpropModule(DenseUnit([6]))
    module.freeze()
    with pytest.raises(ConfigurationError, match="all layers are frozen"):
        trainer().fit(module, PairedDataModule(train=DATA, val_size=1))


def test_units_of_a_built_network_are_changed_only_where_they_fit(trainer):
    module = _network(input_shape=[1, 4, 6], num_classes=CLASSES)
    weights = module.units[1].body[1][0].weight
    for change in (
        lambda units: units.insert(0, DenseUnit([5])),
        lambda units: units.pop(0),
        lambda units: units.__setitem__(0, DenseUnit([5])),
    ):
        with pytest.raises(ConfigurationError, match=r"would not take an input of shape .*, and its layers are built"):
            change(module.units)
        assert [unit.widths for unit in module.units] == [[8], [6]]
    module.units.insert(1, DenseUnit([8]))
    assert [unit.widths for unit in module.units] == [[8], [8], [6]]
    assert module.units[2].body[1][0].weight is weights
    assert module.label_goodness(X).shape == (3, N, CLASSES)
    module.units.pop(-1)
    assert module(X).shape == (N, CLASSES)
    with pytest.raises(ConfigurationError, match="units is empty"):
        del module.units[:]
    module = _network(input_shape=[1, 4, 6], num_classes=CLASSES, vote=[1])
    module.units.pop(-1)
    with pytest.raises(ConfigurationError, match="only units 0 to 0 are left to vote"):
        module(X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("goodness", [None, TopGoodness()])
def test_a_traced_network_takes_batches_of_any_size(goodness, trainer):
    module = _network(sweep_size=4, goodness=goodness)
    trainer().fit(module, PairedDataModule(train=DATA, val_size=1))
    program = torch.jit.trace(module.eval(), X[:2])
    for image in (X[:1], X, X.repeat(300, 1, 1, 1)):
        torch.testing.assert_close(program(image), module(image))


def test_the_network_of_a_data_set_is_evaluated_as_before(trainer):
    """The checks of shapes let through what belongs together."""
    run = trainer(callbacks=[GoodnessAccuracy()])
    run.fit(_network(), PairedDataModule(train=DATA, val=DATA))
    assert 0 <= run.callback_metrics["val/accuracy"] <= 1


# -------------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _network(goodness=ChannelGoodness(), sweep_size=2), "sweep_size has no effect"),
        (lambda: _network(encoder=NoLabel(), sweep_size=2), "sweep_size has no effect"),
        (lambda: ConvUnit([6], norm="batch", groups=3), "groups=3 has no effect with norm=batch"),
        (lambda: ConvUnit([6], groups=3), "groups=3 has no effect with norm=none"),
        (lambda: LabelCrossEntropy(threshold=7.0, threshold_weight=0), "threshold=7.0.* has no effect"),
    ],
)
def test_options_without_effect_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_defaults_without_effect_are_accepted():
    """Configs and recipes give every option."""
    assert ConvUnit([6], norm="batch", groups=8).groups == 8
    assert LabelCrossEntropy(threshold=1.5, threshold_weight=0).threshold is None
    assert _network(goodness=ChannelGoodness(), sweep_size=None).sweep_size is None
    assert _network(sweep_size=2).sweep_size == 2
