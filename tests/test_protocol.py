"""One protocol for what depends on the data, and module-wide defaults for what each unit may choose for itself."""

import functools
import inspect

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

import intff_lightning
from intff_lightning import DenseUnit, HiddenUnit, IntFFModule, LabelOverlay, NoLabel, PairedBatch, local
from intff_lightning import labels as encoders
from intff_lightning.labels import LabelEncoder
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    Goodness,
    LabelCrossEntropy,
    LocalLoss,
    MeanSquares,
    NoNormalization,
    SoftplusLoss,
    SymBaLoss,
    TopGoodness,
    UnitL2,
)
from intff_lightning.network import StepOutput
from intff_lightning.recipe import from_recipe

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def _classes(namespace, base):
    return [found for found in vars(namespace).values() if isinstance(found, type) and issubclass(found, base)]


PARTS = [*_classes(encoders, LabelEncoder), *_classes(local, Goodness), *_classes(intff_lightning, HiddenUnit)]


def _module(units, classes=3, **options):
    torch.manual_seed(0)
    return IntFFModule(units, input_shape=[1, 4, 5], num_classes=classes, **options)


# -------------------------------------------------------------------- setup(input_shape, num_classes)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_encoders_goodness_and_units_are_set_up_alike(part):
    assert list(inspect.signature(part.setup).parameters) == ["self", "input_shape", "num_classes"]
    for former in ("check", "materialize", "layers", "prepare"):
        assert not hasattr(part, former)


def test_a_part_works_after_its_setup_and_nothing_else():
    image = torch.rand(6, 1, 4, 5)
    encoder = LabelOverlay()
    encoder.setup((1, 4, 5), 3)
    assert (encoder.num_classes, encoder.output_shape) == (3, (1, 4, 5))
    unit = DenseUnit([7, 6], goodness=ChannelGoodness())
    unit.setup(encoder.output_shape, 3)
    assert (unit.output_shape, unit.goodness.num_classes) == ((6,), 3)
    h = unit(encoder(image, torch.zeros(6, dtype=torch.int64)))
    assert h.shape == (6, 6)
    assert unit.goodness(h).shape == (6, 3)
    assert [tuple(part.shape) for part in unit.activations(image)[-2:]] == [(6, 7), (6, 6)]
    goodness = ChannelGoodness()
    goodness.setup((6, 2, 2), 3)
    assert goodness(torch.rand(4, 6, 2, 2)).shape == (4, 3)


def test_a_module_sets_up_its_parts_once(monkeypatch):
    calls = []
    for part in (LabelOverlay, DenseUnit, MeanSquares):

        def watched(self, *arguments, _setup=part.setup):
            calls.append((type(self).__name__, *arguments))
            _setup(self, *arguments)

        monkeypatch.setattr(part, "setup", watched)
    module = _module([DenseUnit([7]), DenseUnit([5])])
    module.configure_model()
    module.configure_model()
    assert calls == [
        ("LabelOverlay", (1, 4, 5), 3),
        ("DenseUnit", (1, 4, 5), 3),
        ("MeanSquares", (7,), 3),
        ("DenseUnit", (7,), 3),
        ("MeanSquares", (5,), 3),
    ]


def test_parts_of_ones_own_need_one_method(batches, trainer):
    class Corner(LabelEncoder):
        def forward(self, image, label):
            shown = image.clone()
            shown[:, 0, 0, 0] = 0 if label is None else label / 3
            return shown

    class MeanAbsolute(Goodness):
        def forward(self, h):
            return h.abs().mean(1)

    class Margin(LocalLoss):
        def forward(self, positive, negative, target, earlier):
            return (negative - positive.unsqueeze(1)).mean()

    module = _module([DenseUnit([7]), DenseUnit([5])], encoder=Corner(), goodness=MeanAbsolute(), loss=Margin())
    (batch,) = batches(k=2)
    before = module.goodness(module.encoder.positive(batch))
    trainer().fit(module, batches(k=2))
    assert module.encoder.output_shape == (1, 4, 5)
    assert not torch.equal(module.goodness(module.encoder.positive(batch)), before)
    assert module(batch.image).shape == (8, 3)


# -------------------------------------------------------------------- module-wide defaults

DEFAULTS = {"normalization": RMS(2.0), "goodness": TopGoodness(0.5), "loss": SymBaLoss(2.0)}
PAPERS = {"normalization": UnitL2, "goodness": MeanSquares, "loss": SoftplusLoss}


def test_units_take_the_modules_parts_and_else_the_papers():
    for unit in _module([DenseUnit([7]), DenseUnit([5])]).units:
        assert {name: type(getattr(unit, name)) for name in PAPERS} == PAPERS
    module = _module([DenseUnit([7]), nn.Sequential(nn.Flatten(), nn.Linear(7, 5))], **DEFAULTS)
    for unit in module.units:
        assert {name: type(getattr(unit, name)) for name in PAPERS} == {n: type(p) for n, p in DEFAULTS.items()}
        assert (unit.normalization.gain, unit.goodness.share) == (2.0, 0.5)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_units_own_part_takes_precedence(name):
    own = {"normalization": NoNormalization(), "goodness": MeanSquares([0, 1]), "loss": SoftplusLoss(0.5)}
    module = _module([DenseUnit([7], **{name: own[name]}), DenseUnit([5])], **DEFAULTS)
    assert getattr(module.units[0], name) is own[name]
    for other in DEFAULTS.keys() - {name}:
        assert type(getattr(module.units[0], other)) is type(DEFAULTS[other])
    assert type(getattr(module.units[1], name)) is type(DEFAULTS[name])


def test_a_default_that_is_the_papers_own_is_still_a_choice():
    """A unit that asks for the paper's part keeps it under a module that asks for another."""
    module = _module([DenseUnit([7], normalization=UnitL2()), DenseUnit([5])], normalization=RMS())
    assert [type(unit.normalization) for unit in module.units] == [UnitL2, RMS]


def test_units_share_no_part(batches, trainer):
    """Each unit has a copy, also of learned parts: otherwise two optimizers would train them."""
    module = _module([DenseUnit([20]), DenseUnit([20])], normalization=nn.LayerNorm(20), encoder=_Flat(), optimizer=SGD)
    first, second = (unit.normalization for unit in module.units)
    assert first is not second
    assert first.weight is not second.weight
    trained = [{id(p) for p in module.unit_parameters(k)} for k in (0, 1)]
    assert not trained[0] & trained[1]
    assert [len(ids) for ids in trained] == [4, 4]
    trainer().fit(module, batches(count=3))
    assert not torch.equal(first.weight, second.weight)
    module = _module([DenseUnit([7]), DenseUnit([5])], **DEFAULTS)
    assert all(getattr(module.units[0], name) is not getattr(module.units[1], name) for name in DEFAULTS)


class _Flat(LabelEncoder):
    def forward(self, image, label):
        return image.flatten(1) + (0 if label is None else label.unsqueeze(1))


def test_defaults_train_as_the_same_parts_on_every_unit(batches, trainer):
    trained = []
    for of_module in (True, False):
        own = {} if of_module else DEFAULTS
        module = _module([DenseUnit([7, 6], **own), DenseUnit([6], **own)], **(DEFAULTS if of_module else {}))
        trainer().fit(module, batches(count=4, k=2))
        trained.append(module.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_goodness_by_class_as_a_default_shows_no_label(batches, trainer):
    module = _module([DenseUnit([7]), DenseUnit([5])], goodness=ChannelGoodness(), loss=LabelCrossEntropy())
    assert isinstance(module.encoder, NoLabel)
    assert module.by_class
    assert [unit.goodness.num_classes for unit in module.units] == [3, 3]
    trainer().fit(module, batches())
    assert module(torch.rand(4, 1, 4, 5)).shape == (4, 3)


def test_a_checkpoint_keeps_defaults_and_exceptions(batches, trainer):
    module = _module([DenseUnit([7], loss=SoftplusLoss(0.5)), DenseUnit([5])], **DEFAULTS)
    run = trainer()
    run.fit(module, batches(count=2))
    run.save_checkpoint("defaults.ckpt")
    recipe = torch.load("defaults.ckpt", weights_only=True)["recipes"]["model"]["init_args"]
    assert recipe["loss"] == {"class_path": "intff_lightning.local.SymBaLoss", "init_args": {"alpha": 2.0}}
    assert [list(unit["init_args"]) for unit in recipe["units"]] == [["widths", "loss"], ["widths"]]  # said once
    loaded = IntFFModule.load_from_checkpoint("defaults.ckpt")
    rebuilt = from_recipe({"class_path": "intff_lightning.IntFFModule", "init_args": recipe})
    for again in (loaded, rebuilt):
        assert [type(unit.loss) for unit in again.units] == [SoftplusLoss, SymBaLoss]
        assert [type(unit.goodness) for unit in again.units] == [TopGoodness] * 2
        assert [unit.normalization.gain for unit in again.units] == [2.0, 2.0]
        assert again.units[0].normalization is not again.units[1].normalization
    image = torch.rand(4, 1, 4, 5)
    assert torch.equal(loaded(image), module(image))


# -------------------------------------------------------------------- what a step returns


class _Outputs(Callback):
    def __init__(self):
        self.train, self.val, self.test = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train.append(outputs)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.val.append(outputs)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.test.append(outputs)


OPTIONS = [
    {},
    {"update": "joint"},
    {"inner_steps": 3},
    {"inner_steps": 2, "handover": "after"},
    {"goodness": ChannelGoodness(), "loss": LabelCrossEntropy()},
    {"loss": LabelCrossEntropy(collaboration=0.5)},
]


@pytest.mark.parametrize("negatives", ["labels", "images", "none"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "joint", "inner", "after", "by class", "earlier"])
def test_training_and_evaluation_give_the_same_outputs_on_the_same_batch(options, negatives, batches, trainer):
    """What a training step returns is from before its optimizer steps, to the last bit what an evaluation returns."""
    (batch,) = batches(k=2)
    if negatives != "labels":
        images = (
            torch.rand(8, 2, 1, 4, 5, generator=torch.Generator().manual_seed(2)) if negatives == "images" else None
        )
        batch = PairedBatch(batch.image, batch.target, images, None)
    if negatives == "none" and "loss" in options and "goodness" not in options:
        pytest.skip("cross-entropy compares with negatives")
    data = torch.utils.data.DataLoader([batch], batch_size=None)
    seen = _Outputs()
    module = _module([DenseUnit([7, 6]), DenseUnit([5])], optimizer=SGD, **options)
    run = trainer(callbacks=[seen])
    run.validate(module, data, verbose=False)
    run.test(module, data, verbose=False)
    run.fit(module, data, data)
    k = 2 if module.by_class or negatives != "none" else 0
    # with handover=after the second unit reads what the first one has learned from this batch
    compared = 1 if options.get("handover") == "after" else 2
    for outputs in (seen.train[0], seen.val[0], seen.test[0]):
        assert type(outputs) is StepOutput
        names = ["loss", "unit_loss", "positive_goodness", "negative_goodness"]
        assert list(outputs) == names + ["label_goodness"] * (module.by_class and outputs is not seen.train[0])
        assert (outputs.loss.shape, outputs.unit_loss.shape) == ((), (2,))
        assert outputs.positive_goodness.shape == (2, 8)
        assert outputs.negative_goodness.shape == (2, 8, k)
        assert outputs.loss is outputs["loss"]
        assert not any(value.requires_grad for value in outputs.values())
        for name in ("unit_loss", "positive_goodness", "negative_goodness"):
            assert torch.equal(outputs[name][:compared], seen.train[0][name][:compared])
    assert not torch.equal(seen.val[-1].unit_loss, seen.train[0].unit_loss)  # after the step


def test_a_copy_of_an_output_keeps_its_type():
    outputs = StepOutput(loss=torch.zeros(()), unit_loss=torch.zeros(2))
    assert type(outputs.copy()) is StepOutput
    assert outputs.copy() == dict(outputs)
    assert outputs.copy().unit_loss is outputs["unit_loss"]
