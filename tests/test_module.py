"""IntFFModule under a Trainer: steps, schedules, clipping, voting, the classifier, refusals."""

import functools
import math

import lightning as L
import pytest
import torch
from torch import nn

from intff_lightning import DenseUnit, HiddenUnit, IntFFModule
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError, DivergenceError
from intff_lightning.local import RMS, MeanSquares, NoNormalization, SoftplusLoss, UnitL2
from intff_lightning.network import StepOutput
from intff_lightning.optim import CosineDecay

SGD = functools.partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("widths", [([5],), ([7], [5], [4, 4])])
@pytest.mark.parametrize(("update", "inner_steps"), [("immediate", 1), ("immediate", 3), ("joint", 2)])
def test_global_step_is_one_a_batch(widths, update, inner_steps, network, batches, trainer):
    run = trainer(max_epochs=2)
    run.fit(network(*widths, update=update, inner_steps=inner_steps), batches(count=4))
    assert run.global_step == 8


def test_max_steps_counts_batches(network, batches, trainer):
    run = trainer(max_epochs=None, max_steps=5)
    run.fit(network([7], [5], inner_steps=3), batches(count=8))
    assert run.global_step == 5
    assert run.fit_loop.epoch_loop.batch_progress.current.completed == 5


def test_training_step_reports_what_was_before_the_step(network, batches, trainer):
    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.outputs = outputs

    keep = Keep()
    module = network([7], [5, 4], optimizer=SGD)
    (batch,) = data = batches(k=2)
    with torch.no_grad():
        positive = module.goodness(module.encoder.positive(batch))
        negative = module.goodness(module.encoder.negative(batch)).view(2, 8, 2)
    trainer(callbacks=[keep]).fit(module, data)
    assert type(keep.outputs) is StepOutput
    torch.testing.assert_close(keep.outputs.positive_goodness, positive)
    torch.testing.assert_close(keep.outputs.negative_goodness, negative)
    expected = torch.stack([SoftplusLoss()(p, n, batch.target, None) for p, n in zip(positive, negative, strict=True)])
    torch.testing.assert_close(keep.outputs.unit_loss, expected)
    torch.testing.assert_close(keep.outputs.loss, expected.sum())
    assert not any(value.requires_grad for value in keep.outputs.values())


def test_normalization_goodness_loss_and_optimizer_are_the_units_own(batches, trainer):
    units = [
        DenseUnit([7], normalization=RMS(2.0), loss=SoftplusLoss(0.5), optimizer=functools.partial(torch.optim.Adam)),
        DenseUnit([5], normalization=NoNormalization(), goodness=MeanSquares([0, 2])),
    ]
    module = IntFFModule(units, optimizer=SGD, input_shape=[1, 4, 5], num_classes=3)
    x = torch.rand(6, 1, 4, 5)
    h = torch.relu(units[0].body[1][0](2 * x.flatten(1) / x.flatten(1).square().mean(1, keepdim=True).sqrt()))
    torch.testing.assert_close(units[0](x), h)
    torch.testing.assert_close(module.goodness(x)[1], units[1](h)[:, [0, 2]].square().mean(1))
    trainer().fit(module, batches())
    kinds = [type(wrapped.optimizer) for wrapped in module.optimizers()]
    assert kinds == [torch.optim.Adam, torch.optim.SGD]


def test_selected_neurons_alone_are_trained_for(batches, trainer):
    unit = DenseUnit([6], goodness=MeanSquares([0, 1]))
    module = IntFFModule([unit], optimizer=SGD, input_shape=[1, 4, 5], num_classes=3)
    before = unit.body[1][0].weight.detach().clone()
    trainer().fit(module, batches())
    moved = (unit.body[1][0].weight - before).abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, False, False, False]


def test_gradients_are_clipped_per_unit(network, batches, trainer):
    module = network([7], [5], optimizer=functools.partial(torch.optim.SGD, lr=1.0), gradient_clip_val=1e-3)
    module.units[1].gradient_clip_val = 1e-4
    before = [torch.cat([p.detach().flatten().clone() for p in unit.parameters()]) for unit in module.units]
    trainer().fit(module, batches())
    steps = [
        float((torch.cat([p.detach().flatten() for p in unit.parameters()]) - old).norm())
        for unit, old in zip(module.units, before, strict=True)
    ]
    assert steps == pytest.approx([1e-3, 1e-4], rel=1e-2)


def test_cosine_decay_spans_the_run(network, batches, trainer):
    rates = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append([o.param_groups[0]["lr"] for o in pl_module.optimizers()])

    module = network([7], [5], optimizer=SGD, scheduler=CosineDecay, inner_steps=2)
    run = trainer(max_epochs=3, callbacks=[Watch()])
    run.fit(module, batches(count=4))
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    assert [rate[0] for rate in rates] == pytest.approx(expected)
    assert [rate[1] for rate in rates] == pytest.approx(expected)
    assert module.optimizers()[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_one_cycle_ends_exactly_at_the_end(network, batches, trainer):
    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0)
    module = network([7], [5], optimizer=SGD, scheduler=schedule, inner_steps=3)
    trainer(max_epochs=2).fit(module, batches(count=5))
    for scheduler in module.lr_schedulers():
        assert scheduler.total_steps == 10
        assert scheduler.last_epoch == 10


def test_other_schedules_go_by_epochs_and_plateaus_by_their_metric(network, batches, trainer):
    schedule = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = network([7], optimizer=SGD, scheduler=schedule)
    trainer(max_epochs=3).fit(module, batches(count=4))
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)

    plateau = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, factor=0.1)
    module = network([7], optimizer=SGD, scheduler=plateau, scheduler_monitor="train/loss")
    trainer(max_epochs=3).fit(module, batches(count=4))  # the loss falls, so mode=max never sees it improve
    assert module.optimizers().param_groups[0]["lr"] < 0.1

    module = network([7], optimizer=SGD, scheduler=plateau, scheduler_monitor="val/acuracy")
    with pytest.raises(ConfigurationError, match="val/acuracy, which nothing logs"):
        trainer().fit(module, batches())


def test_a_schedule_over_the_run_needs_an_end(network, batches, trainer):
    with pytest.raises(ConfigurationError, match="max_epochs"):
        trainer(max_epochs=-1, max_time="00:00:00:05").fit(network(scheduler=CosineDecay), batches())


def test_cosine_warmup():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineDecay(optimizer, total_steps=10, warmup=0.4)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(1.0)
    assert rates[7] == pytest.approx(0.5)


def test_label_goodness_tries_every_label_whatever_the_chunk(network):
    image = torch.rand(5, 1, 4, 5)
    module = network()
    by_hand = torch.stack(
        [module.goodness(module.encoder(image, torch.full((5,), label))) for label in range(3)], dim=2
    )
    assert module.label_goodness(image).shape == (2, 5, 3)
    for size in (1, 5, 11, 8192):
        module.sweep_size = size
        torch.testing.assert_close(module.label_goodness(image), by_hand)
    torch.testing.assert_close(module(image), by_hand.sum(0))


def test_the_units_that_vote_are_an_option(network):
    image = torch.rand(5, 1, 4, 5)
    module = network(vote=[1])
    torch.testing.assert_close(module(image), module.label_goodness(image)[1])
    x = module.encoder(image, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(module.positive_probability(x), torch.sigmoid(module.goodness(x)[1] - 1.5))
    for vote in ([], [2], [-1]):
        with pytest.raises(ConfigurationError, match="vote"):
            network(vote=vote)


def test_embed_by_hand(network):
    image = torch.rand(5, 1, 4, 5)
    module = network([7, 6], [5])

    def outputs(x, hidden):
        first = module.units[0].activations(x)
        second = module.units[1].activations(first[-1])
        return torch.cat([*first, *second] if hidden else [first[-1], second[-1]], dim=1)

    for hidden, width in ((False, 11), (True, 18)):
        neutral = outputs(module.encoder(image, None), hidden)
        assert neutral.shape == (5, width)
        torch.testing.assert_close(module.embed(image, label="neutral", hidden=hidden), neutral)
        every = [outputs(module.encoder(image, torch.full((5,), label)), hidden) for label in range(3)]
        torch.testing.assert_close(module.embed(image, hidden=hidden), torch.cat(every, dim=1))
    parts = outputs(module.encoder(image, None), True).split([7, 6, 5], dim=1)
    units = [part / (part.square().mean(1, keepdim=True) + 1e-8).sqrt() for part in parts]
    normalized = module.embed(image, label="neutral", hidden=True, normalize=True)
    torch.testing.assert_close(normalized, torch.cat(units, dim=1))


def test_any_body_is_a_unit(batches, trainer):
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return torch.relu(self.drop(self.norm(self.convolution(x))))

    body = Body()
    module = IntFFModule([body, DenseUnit([6])], input_shape=[1, 4, 5], num_classes=3)
    assert isinstance(module.units[0], HiddenUnit)
    assert module.units[1].body[1][0].in_features == 4 * 2 * 3
    assert body.norm.num_batches_tracked == 0  # the look at the shapes left no trace
    assert body.training
    trainer().fit(module, batches())
    assert module.label_goodness(torch.rand(2, 1, 4, 5)).shape == (2, 2, 3)


def test_the_datamodule_tells_shape_and_classes(digits, trainer):
    module = IntFFModule([DenseUnit([20])])
    trainer(fast_dev_run=True).fit(module, digits(pad=0))
    assert (module.hparams.input_shape, module.hparams.num_classes) == ([1, 8, 8], 10)
    assert module.units[0].body[1][0].in_features == 64
    with pytest.raises(ConfigurationError, match=r"built for input_shape=\[1, 8, 8\], and the data has \(1, 10, 10\)"):
        trainer(fast_dev_run=True).fit(module, digits())


def test_loss_falls_and_digits_are_learned(digits, trainer):
    module = IntFFModule([DenseUnit([100, 50], normalization=UnitL2(20.0))])
    data = digits(batch_size=32)
    trainer(max_epochs=10).fit(module, data)
    test = data.dataset("test")
    with torch.no_grad():
        accuracy = (module(test.image).argmax(1) == test.target).float().mean()
    assert accuracy > 0.9


# -------------------------------------------------------------------- refusals


def test_divergence_names_the_unit_and_its_last_finite_step(network, batches, trainer):
    module = network([7], [5], [4])

    class Poison(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                pl_module.units[1].body[1][0].weight.data.fill_(float("nan"))

    with pytest.raises(DivergenceError, match=r"unit_1 diverged: at step 6 .* last finite step was 3\.") as error:
        trainer(callbacks=[Poison()], log_every_n_steps=6).fit(module, batches(count=8))
    assert "Lower its learning rate (now 0.002)" in str(error.value)


def test_batches_that_are_no_pairs(network, trainer):
    plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(8, 1, 4, 5), torch.zeros(8).long()))
    with pytest.raises(DataError, match=r"(?s)gives list.*PairedDataModule\(YourDataModule\(\)\)"):
        trainer().fit(network(), plain)


def test_a_datamodule_that_tells_no_shape(batches, trainer):
    with pytest.raises(ConfigurationError, match="input_shape is unknown: wrap your data"):
        trainer().fit(IntFFModule([DenseUnit([4])]), batches())


def test_images_must_be_float(network):
    with pytest.raises(DataError, match=r"image.float\(\) / 255"):
        network()(torch.zeros(2, 1, 4, 5, dtype=torch.uint8))


@pytest.mark.parametrize("widths", [[], [0], [5, -1]])
def test_widths_must_be_positive(widths):
    with pytest.raises(ConfigurationError, match="widths="):
        DenseUnit(widths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "joint", "handover": "after"}, "needs update=immediate"),
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"units": []}, "units is empty"),
        ({"units": [nn.Linear(20, 3), 5]}, "unit_1 is 5"),
        ({"units": [nn.ReLU()]}, "unit_0 has no parameters"),
        ({"units": [nn.Flatten(), nn.Linear(7, 3)]}, "unit_0 has no parameters"),
        (
            {"units": [nn.Sequential(nn.Flatten(), nn.Linear(7, 3))]},
            r"unit_0 cannot take an input of shape \(1, 4, 5\)",
        ),
        ({"units": [DenseUnit([4], goodness=MeanSquares([4]))]}, "unit_0 cannot take an input"),
        ({"num_classes": 20}, "20 pixels"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    defaults = {"units": [DenseUnit([4])], "input_shape": [1, 4, 5], "num_classes": 3}
    with pytest.raises(ConfigurationError, match=message):
        IntFFModule(**{**defaults, **options})


def test_a_foreign_datamodule_must_be_wrapped(trainer):
    class Plain(L.LightningDataModule):
        num_classes = 3

        def train_dataloader(self):
            data = torch.utils.data.TensorDataset(torch.rand(8, 1, 4, 5), torch.arange(8) % 3)
            return torch.utils.data.DataLoader(data, batch_size=4)

    with pytest.raises(ConfigurationError, match="wrap your data"):
        trainer().fit(IntFFModule([DenseUnit([4])]), Plain())
    trainer().fit(IntFFModule([DenseUnit([4])]), PairedDataModule(Plain()))
