"""Frozen layers, Lightning's BaseFinetuning, added units, and options of the optimizers: as elsewhere in Lightning."""

import copy
import functools
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, HiddenUnit, IntFFModule, split
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.errors import CheckpointError, ConfigurationError
from intff_lightning.labels import LabelEmbedding
from intff_lightning.local import ChannelGoodness
from intff_lightning.optim import CosineDecay

SGD = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=0.1)


def _state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def _moved(module, before):
    """The names of the parameters that training changed."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# -------------------------------------------------------------------- frozen layers


@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 2]])
def test_frozen_units_keep_their_weights_and_both_updates_are_equal(frozen, network, batches, trainer):
    trained, goodness = [], []
    for update in ("immediate", "joint"):
        torch.manual_seed(0)
        module = network(
            [7, 6], [5], [4], update=update, optimizer=SGD, scheduler=functools.partial(StepLR, step_size=1)
        )
        before = _state(module)
        for k in frozen:
            module.units[k].requires_grad_(False)
        run = trainer()
        run.fit(module, batches(3))
        assert run.global_step == 3
        assert {name.split(".")[1] for name in _moved(module, before)} == {str(k) for k in range(3)} - set(
            map(str, frozen)
        )
        trained.append(_state(module))
        goodness.append(module.label_goodness(torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))))
    assert _equal(*trained)
    assert goodness[0].shape == (3, 2, 3)
    assert torch.equal(*goodness)


def test_a_frozen_unit_hands_on_what_the_next_one_learns_from(network, batches, trainer):
    module = network([7], [5], optimizer=SGD)
    module.units[0].requires_grad_(False)
    alone = copy.deepcopy(module.units[1]).requires_grad_(True)
    data = list(batches(4))
    trainer().fit(module, batches(4))
    optimizer = SGD(alone.parameters())
    for batch in data:
        x = torch.cat([module.encoder.positive(batch), module.encoder.negative(batch)])
        g = alone.goodness(alone(module.units[0](x).detach()))
        loss = (nn.functional.softplus(1.5 - g[:8]).mean() + nn.functional.softplus(g[8:] - 1.5).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip(module.units[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_layer_inside_a_unit(network, batches, trainer):
    module = network([7, 6], [5], optimizer=SGD)
    before = _state(module)
    module.units[0].body[1].requires_grad_(False)
    trainer().fit(module, batches(2))
    assert "units.0.body.2.0.weight" in _moved(module, before)
    assert not any(name.startswith("units.0.body.1") for name in _moved(module, before))


def test_a_frozen_encoder_and_a_frozen_first_unit(network, batches, trainer):
    for part, moves in (("encoder", "units.0"), ("units.0", "encoder")):
        module = network(encoder=LabelEmbedding(), optimizer=SGD)
        before = _state(module)
        module.get_submodule(part).requires_grad_(False)
        trainer().fit(module, batches(2))
        moved = _moved(module, before)
        assert any(name.startswith(moves) for name in moved)
        assert not any(name.startswith(part) for name in moved)


def test_a_unit_frozen_before_its_layers_are_built_stays_frozen(digits, trainer):
    module = IntFFModule([DenseUnit([6]), DenseUnit([5])], optimizer=SGD)
    module.units[0].requires_grad_(False)
    trainer(limit_train_batches=2, limit_val_batches=0).fit(module, digits())
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    assert [len(optimizer.state) for optimizer in module.trainer.optimizers] == [0, 2]


def test_a_frozen_body_and_a_frozen_network_that_is_split(network, batches, trainer):
    body = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.ReLU()).requires_grad_(False)
    options = {"input_shape": [1, 4, 5], "num_classes": 3, "optimizer": SGD}
    trainer().fit(IntFFModule([HiddenUnit(body), DenseUnit([4])], **options), batches(2))
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
    layers[:3].requires_grad_(False)
    trainer().fit(IntFFModule(split(layers, at=[3]), **options), batches(2))
    assert [p.grad is None for p in layers.parameters()] == [True, True, False, False]


@pytest.mark.parametrize("update", ["immediate", "joint"])
def test_without_anything_to_train_a_line_says_so(update, network, batches, trainer):
    module = network(update=update)
    module.units.requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"all units are frozen.*\n.*requires_grad_\(True\)"):
        trainer().fit(module, batches(1))
    module = BackpropModule(DenseUnit([4]), input_shape=[1, 4, 5], num_classes=3)
    module.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="all layers are frozen"):
        trainer().fit(module, batches(1))


def test_a_loss_that_misses_its_parameters_is_named(batches, trainer):
    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)).detach()

    module = IntFFModule([Cut(20, 4)], input_shape=[1, 4, 5], num_classes=3)
    with pytest.raises(ConfigurationError, match="the loss of unit_0 does not depend on the parameters"):
        trainer().fit(module, batches(1))


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_gradient_scaler_passes_over_frozen_units(frozen, network, batches, trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    module = network(optimizer=SGD)
    module.units[frozen].requires_grad_(False)
    run = trainer(plugins=[MixedPrecision("16-mixed", "cpu", scaler)], gradient_clip_val=0.1)
    run.fit(module, batches(6))
    assert (run.global_step, scaler.get_scale()) == (6, 4096.0)


# -------------------------------------------------------------------- BaseFinetuning


class Finetuning(BaseFinetuning):
    """Freezes the first unit, and unfreezes it in epoch 1."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.units[0], train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.units[0], optimizer)


class _Rates(Finetuning):
    """Notes which units moved in an epoch, and the learning rates of the groups that hold parameters."""

    def on_train_epoch_start(self, trainer, pl_module):
        super().on_train_epoch_start(trainer, pl_module)
        self.before = _state(pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        moved = sorted({name.split(".")[1] for name in _moved(pl_module, self.before)})
        self.seen = [*vars(self).get("seen", []), moved]


SCHEDULES = {
    "none": None,
    "cosine": CosineDecay,
    "steps": functools.partial(StepLR, step_size=1, gamma=0.1),
    "lambda": functools.partial(LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "one cycle": functools.partial(OneCycleLR, max_lr=0.1),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_unfrozen_unit_joins_its_own_optimizer_only(schedule, digits, trainer):
    module = IntFFModule(
        [DenseUnit([6]), DenseUnit([5])], optimizer=SGD, scheduler=SCHEDULES[schedule]
    )  # built in setup
    watch = _Rates()
    run = trainer(max_epochs=3, limit_train_batches=2, limit_val_batches=0, callbacks=[watch])
    run.fit(module, digits())
    assert watch.seen == [["1"], ["0", "1"], ["0", "1"]]
    own = [{id(p) for p in unit.parameters()} for unit in module.units]
    for k, optimizer in enumerate(run.optimizers):
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == own[k]
    first, added = run.optimizers[0].param_groups
    assert added["lr"] == pytest.approx(first["lr"] / 10, abs=1e-9)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_fine_tuning_ends_with_the_same_bits(epoch, digits, trainer):
    def fit(checkpoint=None):
        torch.manual_seed(0)
        module = IntFFModule([ConvUnit([4], norm="batch"), DenseUnit([5])], optimizer=SGD, scheduler=CosineDecay)
        saves = ModelCheckpoint(
            "files", filename="{epoch}", save_top_k=-1, every_n_epochs=1, enable_version_counter=False
        )
        callbacks = [Finetuning(), saves]
        run = trainer(max_epochs=3, limit_val_batches=0, enable_checkpointing=True, callbacks=callbacks)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory")
            run.fit(module, digits(), ckpt_path=checkpoint)
        return _state(module)

    assert _equal(fit(), fit(f"files/epoch={epoch}.ckpt"))


def test_fine_tuning_of_backpropagation(digits, trainer):
    class Body(Finetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.body)

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.body, optimizer, lr=1e-3)

    run = trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=0, callbacks=[Body()])
    run.fit(BackpropModule(DenseUnit([6]), scheduler=CosineDecay), digits())
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [2, 2]


# -------------------------------------------------------------------- ReduceLROnPlateau


def _falls(mode="max"):  # the learning rate halves at every step of the schedule but the first
    options = {"mode": mode, "patience": 0, "factor": 0.5, "threshold": 100.0, "threshold_mode": "abs"}
    return functools.partial(ReduceLROnPlateau, **options)


@pytest.mark.parametrize("kind", [IntFFModule, BackpropModule])
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [1, 2, 3, 4]),
        ({"check_val_every_n_epoch": 2}, [0, 1, 1, 2]),
        ({"check_val_every_n_epoch": 3}, [0, 0, 1, 1]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, [0, 1, 2, 2]),
        ({"val_check_interval": 1}, [1, 2, 3, 4]),
    ],
)
def test_a_plateau_takes_each_value_of_its_metric_once(kind, options, steps, digits, trainer):
    taken = []

    class Count(ReduceLROnPlateau):
        count = 0

        def step(self, metrics, epoch=None):
            Count.count += 1
            super().step(metrics, epoch)

    class Watch(GoodnessAccuracy):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0 and trainer.current_epoch:
                taken.append(Count.count)

    unit = DenseUnit([6])
    module = kind([unit] if kind is IntFFModule else unit, scheduler=Count)
    trainer(max_epochs=4, limit_train_batches=2, limit_val_batches=1, callbacks=[Watch()], **options).fit(
        module, digits()
    )
    assert [*taken, Count.count] == steps


@pytest.mark.parametrize("kind", [IntFFModule, BackpropModule])
def test_a_metric_that_nothing_logs_is_named_once_it_should_be_there(kind, digits, trainer):
    def fit(**options):
        unit = DenseUnit([6])
        module = kind([unit] if kind is IntFFModule else unit, scheduler=_falls(), scheduler_monitor="val/acuracy")
        trainer(**{"limit_train_batches": 1, "limit_val_batches": 1, **options}).fit(module, digits())

    fit(check_val_every_n_epoch=2)  # ends before the first validation
    for options in ({"check_val_every_n_epoch": 2, "max_epochs": 2}, {}, {"limit_val_batches": 0}):
        with pytest.raises(ConfigurationError, match=r"val/acuracy, which nothing logs.*Set scheduler_monitor"):
            fit(**options)


# -------------------------------------------------------------------- weight decay


def test_no_weight_decay_on_biases(network, batches, trainer):
    module = network(optimizer=functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.5), no_decay=["bias"])
    reference = copy.deepcopy(module)
    run = trainer()
    run.fit(module, batches(1))
    (batch,) = batches(1)
    x = torch.cat([reference.encoder.positive(batch), reference.encoder.negative(batch)])
    for k, unit in enumerate(reference.units):  # by hand, from the formula of SGD
        h = unit(x)
        x, g = h.detach(), unit.goodness(h)
        loss = (nn.functional.softplus(1.5 - g[:8]).mean() + nn.functional.softplus(g[8:] - 1.5).mean()) / 2
        loss.backward()
        for (name, p), q in zip(unit.named_parameters(), module.units[k].parameters(), strict=True):
            decay = 0.5 * p if name.endswith("weight") else 0
            torch.testing.assert_close(q, p - 0.1 * (p.grad + decay))
    run.save_checkpoint("run.ckpt")
    assert IntFFModule.load_from_checkpoint("run.ckpt").no_decay == ["bias"]


def test_no_weight_decay_by_the_class_of_a_layer(batches, trainer):
    body = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.LayerNorm(6))
    module = BackpropModule(
        body, input_shape=[1, 4, 5], num_classes=3, no_decay=["LayerNorm"], optimizer=torch.optim.AdamW
    )
    run = trainer()
    run.fit(module, batches(1))
    assert {id(p) for p in body[2].parameters()} == {id(p) for p in run.optimizers[0].param_groups[1]["params"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_decay": ["bais"], "optimizer": torch.optim.AdamW}, "and no layer of the network is called bais"),
        ({"no_decay": ["bias"]}, "has no effect, because no optimizer has weight decay"),
    ],
)
def test_no_decay_that_cannot_take_effect_is_refused(options, message, network, batches, trainer):
    with pytest.raises(ConfigurationError, match=message):
        trainer().fit(network(**options), batches(1))


# -------------------------------------------------------------------- added units and other networks


def test_a_unit_appended_to_a_trained_network_votes_and_its_checkpoint_loads(network, batches, trainer):
    run = trainer()
    run.fit(network(loss=None, goodness=None), batches(2))
    run.save_checkpoint("small.ckpt")
    module = IntFFModule.load_from_checkpoint("small.ckpt")
    image = torch.rand(4, 1, 4, 5)
    small = module.label_goodness(image)
    module.units.append(DenseUnit([4]))
    assert module.vote == [0, 1, 2]
    assert torch.equal(module.label_goodness(image)[:2], small)
    torch.testing.assert_close(module(image), small.sum(0) + module.label_goodness(image)[2])
    for k in (0, 1):
        module.units[k].requires_grad_(False)
    before = _state(module)
    run = trainer()
    run.fit(module, batches(2))
    assert {name.split(".")[1] for name in _moved(module, before)} == {"2"}
    run.save_checkpoint("large.ckpt")
    loaded = IntFFModule.load_from_checkpoint("large.ckpt")
    assert torch.equal(loaded(image), module(image))


def test_an_added_unit_must_fit(network):
    module = network()
    for unit, message in (
        (ConvUnit([2]), "unit_2 is convolutional"),
        (DenseUnit([6], goodness=ChannelGoodness()), "for all units, or for none"),
        (nn.Flatten(), "unit_2 has no parameters"),
        (3, "unit_2 is 3"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            module.units.append(unit)
    assert len(module.units) == 2
    module.units[1] = nn.Linear(6, 2)
    assert module.units[1].output_shape == (2,)
    assert module.units.changed


def test_a_checkpoint_with_missing_units_loads_only_if_that_is_asked_for(network, batches, trainer):
    run = trainer()
    run.fit(network(), batches(1))
    run.save_checkpoint("run.ckpt")
    units = [DenseUnit([7, 6]), DenseUnit([5]), DenseUnit([4])]
    with pytest.raises(CheckpointError, match=r"units\.2\.body\.1\.0\.bias is missing there, and \(4,\) here"):
        IntFFModule.load_from_checkpoint("run.ckpt", units=copy.deepcopy(units))
    with pytest.warns(UserWarning, match="in the model state dict but not in the checkpoint"):
        module = IntFFModule.load_from_checkpoint("run.ckpt", units=units, strict=False)
    assert all(torch.equal(run.model.state_dict()[name], module.state_dict()[name]) for name in run.model.state_dict())
    with pytest.raises(CheckpointError, match=r"is \(7,\) there, and \(8,\) here"):
        IntFFModule.load_from_checkpoint("run.ckpt", units=[DenseUnit([8, 6]), DenseUnit([5])], strict=False)
    module.strict_loading = False
    with pytest.raises(CheckpointError, match="2 optimizers for the 3 of this network"):
        trainer(max_epochs=2).fit(module, batches(1), ckpt_path="run.ckpt")
