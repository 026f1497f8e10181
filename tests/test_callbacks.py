"""Callbacks against independent computations."""

import csv
import functools
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from intff_lightning import BackpropModule, DenseUnit, IntFFModule, WrongLabels
from intff_lightning.callbacks import (
    BestCheckpoint,
    GoodnessAccuracy,
    GoodnessLogger,
    LinearProbe,
    TerminalReport,
)
from intff_lightning.labels import LabelOverlay, NoLabel
from intff_lightning.local import ChannelGoodness, UnitL2
from intff_lightning.negatives import HybridImages


class _Batches(L.Callback):
    def __init__(self):
        self.train, self.test = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train.append({**outputs, "size": len(batch.target)})

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.test.append(batch)


def _module():
    unit = functools.partial(DenseUnit, normalization=UnitL2(10.0))
    return IntFFModule([unit([30, 20]), unit([10])], optimizer=functools.partial(torch.optim.Adam, lr=0.01))


def _module_for(data, **options):
    torch.manual_seed(0)
    return IntFFModule([DenseUnit([30])], input_shape=data.input_shape, num_classes=10, **options)


def test_goodness_logger_on_test_data(digits, trainer):
    module, batches = _module(), _Batches()
    run = trainer(max_epochs=3, callbacks=[GoodnessLogger(), batches])
    run.fit(module, digits(negatives=WrongLabels(3)))
    run.test(module, digits(negatives=WrongLabels(3)), verbose=False)
    with torch.no_grad():
        positive = torch.cat([module.goodness(module.encoder.positive(b)) for b in batches.test], dim=1)
        negative = torch.cat([module.goodness(module.encoder.negative(b)) for b in batches.test], dim=1)
    metrics = run.callback_metrics
    for k in range(2):
        assert metrics[f"test/goodness/positive/unit_{k}"] == pytest.approx(float(positive[k].mean()), rel=1e-5)
        assert metrics[f"test/goodness/negative/unit_{k}"] == pytest.approx(float(negative[k].mean()), rel=1e-5)
        margin = float(positive[k].mean() - negative[k].mean())
        assert metrics[f"test/goodness/margin/unit_{k}"] == pytest.approx(margin, rel=1e-4)
        up = torch.nn.functional.softplus(1.5 - positive[k]).mean()
        down = torch.nn.functional.softplus(negative[k] - 1.5).mean()
        assert metrics[f"test/loss/unit_{k}"] == pytest.approx(float(up + down) / 2, rel=1e-5)
        truth = [1] * positive.shape[1] + [0] * negative.shape[1]
        area = roc_auc_score(truth, torch.cat([positive[k], negative[k]]).numpy())
        assert metrics[f"test/goodness/auroc/unit_{k}"] == pytest.approx(area, abs=1e-6)


def test_goodness_logger_on_training_data(digits, trainer):
    batches = _Batches()
    run = trainer(callbacks=[GoodnessLogger(), batches])
    run.fit(_module(), digits())
    total = sum(b["size"] for b in batches.train)
    for k in range(2):
        positive = sum(float(b["positive_goodness"][k].sum()) for b in batches.train) / total
        loss = sum(float(b["unit_loss"][k]) * b["size"] for b in batches.train) / total
        assert run.callback_metrics[f"goodness/positive/unit_{k}"] == pytest.approx(positive, rel=1e-5)
        assert run.callback_metrics[f"train/loss/unit_{k}"] == pytest.approx(loss, rel=1e-5)
    assert run.callback_metrics["train/loss"] == pytest.approx(
        sum(float(run.callback_metrics[f"train/loss/unit_{k}"]) for k in range(2)), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["labels", "by class", "backpropagation"])
def test_accuracy_is_that_of_predictions_in_the_precision_of_the_trainer(kind, digits, trainer):
    data = digits()
    sizes = {"input_shape": data.input_shape, "num_classes": 10}
    torch.manual_seed(0)
    if kind == "backpropagation":
        module = BackpropModule(DenseUnit([30]), **sizes)
    else:
        module = IntFFModule([DenseUnit([30])], goodness=None if kind == "labels" else ChannelGoodness(), **sizes)
    seen = set()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    run = trainer(callbacks=[GoodnessAccuracy()], precision="bf16-mixed")
    (metrics,) = run.test(module, data, verbose=False)
    predicted = torch.cat(run.predict(module, data)).argmax(1)
    right = (predicted == data.dataset("test").target).float().mean()
    assert metrics["test/accuracy"] == pytest.approx(float(right))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_goodness_by_class_is_computed_once(precision, digits, trainer):
    """An evaluation's step has the goodness of every label, to the bit."""
    data, seen, passes = digits(), [], []

    class Look(L.Callback):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, *_):
            with trainer.precision_plugin.forward_context(), torch.no_grad():
                seen.append((outputs["label_goodness"], pl_module.label_goodness(batch.image)))

    module = _module_for(data, goodness=ChannelGoodness())
    hook = module.units[0].register_forward_hook(lambda *_: passes.append(1))
    run = trainer(callbacks=[accuracy := GoodnessAccuracy()], precision=precision)
    (metrics,) = run.test(module, data, verbose=False)
    assert len(passes) == sum(1 for _ in data.test_dataloader())
    hook.remove()
    trainer(callbacks=[Look()], precision=precision).test(module, data, verbose=False)
    assert all(torch.equal(of_step, asked) and of_step.dtype == asked.dtype for of_step, asked in seen)
    right = torch.cat([asked for _, asked in seen], dim=1).sum(0).argmax(1) == data.dataset("test").target
    assert metrics["test/accuracy"] == pytest.approx(float(right.float().mean()))
    assert accuracy.confusion["test"].sum() == len(right)


@pytest.mark.parametrize("method", ["label_goodness", "goodness", "local_loss"])
def test_a_subclass_that_reads_labels_in_its_own_way_is_asked(method, digits, trainer):
    class Own(IntFFModule):
        def label_goodness(self, image, first=None):
            return super().label_goodness(image, first).flip(2)

        def goodness(self, x, first=None):
            return super().goodness(x, first).flip(2)

        def local_loss(self, k, h, batch, earlier):
            return super().local_loss(k, h, batch, earlier)[0], -self.units[k].goodness(h)

    for name in {"label_goodness", "goodness", "local_loss"} - {method}:
        delattr(Own, name)
    data = digits()
    module = Own([DenseUnit([30])], goodness=ChannelGoodness(), input_shape=data.input_shape, num_classes=10)
    (metrics,) = trainer(callbacks=[GoodnessAccuracy()]).test(module, data, verbose=False)
    test = data.dataset("test")
    with torch.no_grad():
        right = module.eval().label_goodness(test.image).sum(0).argmax(1) == test.target
    assert metrics["test/accuracy"] == pytest.approx(float(right.float().mean()))


def test_accuracy_and_confusion_matrix(digits, trainer):
    module, accuracy = _module(), GoodnessAccuracy()
    run = trainer(max_epochs=5, callbacks=[accuracy])
    data = digits()
    run.fit(module, data)
    run.test(module, data, verbose=False)
    test = data.dataset("test")
    with torch.no_grad():
        units = module.label_goodness(test.image)
    guess = units.sum(0).argmax(1)
    assert run.callback_metrics["test/accuracy"] == pytest.approx(float((guess == test.target).float().mean()))
    for k in range(2):
        alone = float((units[k].argmax(1) == test.target).float().mean())
        assert run.callback_metrics[f"test/accuracy/unit_{k}"] == pytest.approx(alone)
    assert accuracy.confusion["test"].tolist() == confusion_matrix(test.target, guess).tolist()
    run.validate(module, data, verbose=False)
    validation = data.dataset("val")
    right = (module(validation.image).argmax(1) == validation.target).float().mean()
    assert run.callback_metrics["val/accuracy"] == pytest.approx(float(right))


def test_callbacks_on_a_users_own_module(batches, trainer):
    class Own(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(20, 4)
            self.encoder = LabelOverlay()
            self.encoder.setup((1, 4, 5), 3)

        def goodness(self, x):
            return self.layer(x.flatten(1)).square().mean(1).unsqueeze(0)

        def label_goodness(self, image):
            return torch.stack([self.goodness(image * (1 + c)) for c in range(3)], dim=2)

        def test_step(self, batch, batch_idx):
            pass

    run = trainer(callbacks=[GoodnessLogger(), GoodnessAccuracy()])
    run.test(Own(), batches(count=3, k=2), verbose=False)
    assert {"test/accuracy", "test/goodness/auroc/unit_0"} <= set(run.callback_metrics)
    assert "test/loss/unit_0" not in run.callback_metrics  # it has no local loss to log


def test_the_probe_leaves_weights_modes_and_random_state_alone(digits, trainer):
    class Look(L.Callback):
        """The last callback: sees what the probe left."""

        def on_validation_start(self, trainer, pl_module):
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}
            self.random = torch.get_rng_state()
            self.modes = [part.training for part in pl_module.modules()]
            probe.on_validation_start(trainer, pl_module)
            assert all(torch.equal(self.before[name], value) for name, value in pl_module.state_dict().items())
            assert torch.equal(self.random, torch.get_rng_state())
            assert self.modes == [part.training for part in pl_module.modules()]
            self.fitted = True

    probe, look = LinearProbe(every_n_epochs=1, epochs=1), Look()
    module = IntFFModule(
        [
            torch.nn.Sequential(
                torch.nn.Flatten(),
                torch.nn.Linear(100, 9),
                torch.nn.BatchNorm1d(9),
                torch.nn.Dropout(),
                torch.nn.ReLU(),
            )
        ]
    )
    trainer(callbacks=[look], num_sanity_val_steps=0).fit(module, digits())
    assert look.fitted


def test_training_is_the_same_with_and_without_a_probe(digits, trainer):
    def weights(callbacks):
        torch.manual_seed(0)
        module = IntFFModule(
            [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 9), torch.nn.Dropout(), torch.nn.ReLU())]
        )
        trainer(max_epochs=2, callbacks=callbacks).fit(module, digits(seed=0))
        return module.state_dict()

    plain, probed = weights([]), weights([LinearProbe(every_n_epochs=1, epochs=1)])
    assert all(torch.equal(plain[name], probed[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cache_bytes": 0}, {"hidden": True, "label": "neutral", "normalize": True}])
def test_the_probe_reads_what_a_reference_reads(options, digits, trainer):
    """Against scikit-learn's logistic regression on the same, standardized features."""
    module = _module()
    data = digits(negatives=WrongLabels(3))
    run = trainer(max_epochs=8, callbacks=[LinearProbe(epochs=60, learning_rate=0.01, **options)])
    run.fit(module, data)
    assert "val/probe_accuracy" not in run.callback_metrics  # not while the network trains, unless asked
    run.test(module, data, verbose=False)
    options.pop("cache_bytes", None)
    with torch.no_grad():
        train, test = (module.embed(data.dataset(part).image, **options).numpy() for part in ("train", "test"))
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    accuracy = reference.fit(train, data.dataset("train").target).score(test, data.dataset("test").target)
    assert accuracy > 0.8
    assert run.callback_metrics["test/probe_accuracy"] > accuracy - 0.03


def test_the_probe_sees_augmented_images_anew_in_every_pass(digits, trainer):
    seen = []

    def darken(image, *, generator):
        seen.append((image.clone(), generator.bits()))
        return image * generator.uniform().view(-1, 1, 1, 1)

    def weights(**options):
        probe = LinearProbe(epochs=3, **options)
        trainer(callbacks=[probe]).test(_module_for(data), data, verbose=False)
        return probe.layer.weight

    data = digits(seed=0)
    first = weights(augmentation=darken)
    batches = len(seen) // 3
    images, draws = (
        [torch.cat([batch[i] for batch in seen[n * batches : (n + 1) * batches]]) for n in range(3)] for i in (0, 1)
    )
    expected = data.dataset("train").image.flatten(1).sum(1)
    for n in range(3):
        assert len(draws[n].unique()) == len(draws[n])  # each sample its own
        total = images[n].flatten(1).sum(1)
        assert torch.isin(total, expected).all()  # sums of sixteenths are exact
        assert not torch.equal(total, images[n - 1].flatten(1).sum(1))  # another order
        assert not torch.equal(draws[n], draws[n - 1])
    assert torch.equal(first, weights(augmentation=darken))
    assert not torch.equal(first, weights())


@pytest.mark.parametrize(("limit", "batches"), [(1, 1), (3, 3), (0.5, 9), (1.0, 19), (0, 19)])
def test_the_probe_sees_as_many_batches_as_the_network(limit, batches, digits, trainer):
    seen, data = [], digits(seed=0)
    probe = LinearProbe(epochs=1, augmentation=lambda image, generator: seen.append(1) or image)
    trainer(callbacks=[probe], limit_train_batches=limit).test(_module_for(data), data, verbose=False)
    assert len(seen) == batches


def test_features_of_a_network_without_labels_are_normalized(digits, trainer):
    def weights(**options):
        probe, data = LinearProbe(epochs=2, **options), digits(seed=0, negatives=HybridImages())
        trainer(callbacks=[probe]).test(_module_for(data, encoder=NoLabel()), data, verbose=False)
        return probe.layer.weight

    assert torch.equal(weights(), weights(normalize=True, learning_rate=3e-3))
    assert not torch.equal(weights(), weights(normalize=False))


def test_the_probe_is_one_linear_layer_on_the_features(digits, trainer):
    module, probe = _module(), LinearProbe(epochs=2)
    data = digits()
    run = trainer(callbacks=[probe])
    run.fit(module, data)
    run.test(module, data, verbose=False)
    test = data.dataset("test")
    with torch.no_grad():
        scores = module.embed(test.image) * probe.layer.scale @ probe.layer.weight.T + probe.layer.bias
    accuracy = (scores.argmax(1) == test.target).float().mean()
    assert run.callback_metrics["test/probe_accuracy"] == pytest.approx(float(accuracy))


def test_metrics_reach_metrics_csv_under_their_names(digits, trainer):
    run = trainer(
        max_epochs=2, logger=CSVLogger("."), callbacks=[GoodnessLogger(), GoodnessAccuracy(), LinearProbe(epochs=1)]
    )
    module = _module()
    run.fit(module, digits())
    run.test(module, digits(), verbose=False)
    with (Path(run.log_dir) / "metrics.csv").open() as file:
        names = set(next(csv.reader(file)))
    for name in ("train/loss", "train/loss/unit_0", "goodness/positive/unit_1", "goodness/negative/unit_1",
                 "val/accuracy", "val/accuracy/unit_0", "test/accuracy", "test/probe_accuracy", "val/loss/unit_1",
                 "val/goodness/auroc/unit_0", "test/goodness/positive/unit_0"):  # fmt: skip
        assert name in names


def test_the_table_and_the_epoch_line(digits, trainer, capsys):
    with open("table.txt", "w") as file:
        console = Console(file=file, width=100)
        run = trainer(
            callbacks=[GoodnessLogger(), GoodnessAccuracy(), LinearProbe(epochs=1), TerminalReport(console=console)]
        )
        module = IntFFModule([DenseUnit([10]), DenseUnit([5])], vote=[0])
        run.fit(module, digits())
        run.test(module, digits(), verbose=False)
    text = Path("table.txt").read_text()
    metrics = run.callback_metrics
    for piece in ("unit_0", "unit_1 (no vote)", "network", "linear probe",
                  f"{100 * metrics['test/accuracy']:.2f} %", f"{100 * metrics['test/probe_accuracy']:.2f} %",
                  f"{metrics['test/goodness/positive/unit_1']:.4f}", f"{metrics['test/loss/unit_0']:.4f}"):  # fmt: skip
        assert piece in text
    line = capsys.readouterr().out
    assert line.startswith("epoch 1/1  loss ")
    assert "val/accuracy" in line


def test_the_best_weights_without_labels_are_those_of_a_probe(digits, trainer):
    """A probe every second epoch: its figure is of the weights that it read, and the best file is one of those."""
    probe, best = LinearProbe(every_n_epochs=2, epochs=2), BestCheckpoint("val/probe_accuracy")
    module = IntFFModule([DenseUnit([20])], encoder=NoLabel())
    seen = []

    class See(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append("val/probe_accuracy" in trainer.callback_metrics)

    run = trainer(max_epochs=5, callbacks=[probe, best, GoodnessAccuracy(), See()], enable_checkpointing=True)
    run.fit(module, digits(negatives=HybridImages()))
    assert seen[-5:] == [False, True, False, True, False]
    assert torch.load(best.best_model_path, weights_only=True)["epoch"] in (1, 3)
    assert "val/accuracy" not in run.callback_metrics
