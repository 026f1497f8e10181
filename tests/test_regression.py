"""Regression: shifted targets, candidates, and intervals that hold what they should."""

import csv
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringDataModule
from sklearn.metrics import mean_absolute_error, r2_score
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import (
    BackpropModule,
    BackpropRegression,
    DenseUnit,
    IntFFModule,
    NoLabel,
    PairedBatch,
    RegressionModule,
    ShiftedTargets,
    TargetFeatures,
    WrongLabels,
)
from intff_lightning.callbacks import (
    EstimateWriter,
    GoodnessAccuracy,
    GoodnessLogger,
    LinearProbe,
    PredictionWriter,
    RegressionMetrics,
)
from intff_lightning.cli import main
from intff_lightning.corruptions import PaperMixture
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule, TableDataModule
from intff_lightning.draws import Draws
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError
from intff_lightning.local import ChannelGoodness, NoNormalization, UnitL2
from intff_lightning.pipeline.checks import check_module
from intff_lightning.recipe import from_recipe
from intff_lightning.targets import conformal_margin, expected_value, quantile


def _data(count=300, noise=0.1, **options):
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 3))
    y = 50 + 20 * x[:, 0] - 10 * x[:, 1] + 22 * noise * random.normal(size=count)
    table = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "c": x[:, 2].tolist(), "y": y.tolist()}
    return TableDataModule(table, target="y", regression=True, **{"batch_size": 32, **options})


def _module(**options):
    units = [DenseUnit([16], normalization=NoNormalization()), DenseUnit([16])]
    return RegressionModule(units, normalization=UnitL2(10), **options)


# -------------------------------------------------------------------- the parts


def test_every_kth_part_of_the_range_holds_one_shifted_target():
    target = torch.tensor([0.0, 0.25, 0.999, 1.0, 1.3])
    draws = Draws(3, 0, torch.arange(5))
    image = torch.rand(5, 2)
    none, shifted = ShiftedTargets(4)(image, target, num_classes=1, model=None, generator=Draws(3, 0, torch.arange(5)))
    assert none is None
    uniform = draws.uniform(4)
    for sample in range(5):
        for j in range(4):
            expected = math.fmod(float(target[sample]) + (j + float(uniform[sample, j])) / 4, 1)
            assert float(shifted[sample, j]) == pytest.approx(expected, abs=1e-6)
    many = Draws(0, 0, torch.arange(20_000))
    target = torch.full((20_000,), 0.37)
    shifted = ShiftedTargets(2)(torch.rand(20_000, 2), target, num_classes=1, model=None, generator=many)[1]
    counts = torch.histc(shifted.flatten(), 10, 0, 1)
    assert float((counts / 4000 - 1).abs().max()) < 0.05  # uniform, whatever the target


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_candidates_are_radial_basis_functions_beside_the_sample(shape):
    encoder = TargetFeatures(features=5, amplitude=None)
    encoder.setup(shape, 101)
    image, label = torch.randn(3, *shape), torch.tensor([0.0, 0.31, 1.2])
    got = encoder(image, label)
    assert tuple(got.shape[1:]) == encoder.output_shape == (shape[0] + 5, *shape[1:])
    assert torch.equal(got[:, : shape[0]], image)
    for sample in range(3):
        largest = float(image[sample].abs().max())
        for i in range(5):
            expected = largest * math.exp(-0.5 * (4 * float(label[sample]) - i) ** 2)
            np.testing.assert_allclose(got[sample, shape[0] + i], expected, rtol=1e-5)
    assert not encoder(image, None)[:, shape[0] :].any()
    fixed = TargetFeatures(features=5)(torch.zeros(1, *shape), torch.tensor([0.25]))
    assert float(fixed[0, shape[0] + 1].flatten()[0]) == 1


def test_means_and_quantiles_are_those_of_the_distribution():
    random = np.random.default_rng(0)
    candidates = np.linspace(0, 1, 101)
    means, widths = random.uniform(0.3, 0.7, 6), random.uniform(0.05, 0.1, 6)
    scores = torch.from_numpy(-0.5 * ((candidates - means[:, None]) / widths[:, None]) ** 2).float()  # normal densities
    tried = torch.from_numpy(candidates).float()
    np.testing.assert_allclose(expected_value(scores, tried), means, atol=1e-3)
    for level, z in ((0.05, -1.6449), (0.5, 0.0), (0.95, 1.6449)):
        np.testing.assert_allclose(quantile(scores, tried, level), means + z * widths, atol=2e-3)
    one_sure = torch.zeros(1, 101)
    one_sure[0, 40] = 1000
    assert float(quantile(one_sure, tried, 0.05)) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("make", [_module, lambda: BackpropRegression(DenseUnit([16]))])
def test_intervals_that_were_never_calibrated_are_said(make, trainer, recwarn):
    module, data = make(), _data(val_size=0)
    fitted = trainer(max_epochs=1)
    fitted.fit(module, data)
    assert not any("calibrate" in str(warning.message) for warning in recwarn)
    for read in (fitted.test, fitted.predict):
        with pytest.warns(UserWarning, match="the intervals were never calibrated"):
            read(module, data)
    assert torch.isfinite(module.estimate(torch.rand(2, 101 if isinstance(module, RegressionModule) else 1))).all()
    with pytest.warns(UserWarning, match="8 validation samples are too few to calibrate intervals for coverage=0.9"):
        module.calibrate(torch.rand(8, 101 if isinstance(module, RegressionModule) else 1), torch.rand(8))


def test_backpropagation_starts_with_the_middle_of_the_range(trainer):
    data = _data()
    module = BackpropRegression(DenseUnit([16]))
    with pytest.warns(UserWarning, match="never calibrated"):
        values = torch.cat(trainer().predict(module, data))[:, 0]
    low, high = data.target_range
    torch.testing.assert_close(values, torch.full_like(values, (low + high) / 2))


def test_margins_are_those_of_a_plain_loop_and_cover_new_samples():
    random = np.random.default_rng(0)
    for size, coverage in ((19, 0.9), (200, 0.8), (4, 0.9)):
        target, lower = random.normal(size=size), random.normal(size=size) - 1
        upper = lower + random.random(size)
        errors = sorted(max(low - y, y - high) for y, low, high in zip(target, lower, upper, strict=True))
        place = min(size, math.ceil((size + 1) * coverage)) - 1
        got = conformal_margin(*(torch.from_numpy(array) for array in (target, lower, upper)), coverage)
        assert float(got) == pytest.approx(errors[place])
    inside = []
    for _ in range(400):  # 99 samples fit the margin, one is new
        y = torch.from_numpy(random.standard_t(3, 100))
        zero = torch.zeros(99, dtype=y.dtype)
        inside.append(abs(float(y[99])) <= float(conformal_margin(y[:99], zero, zero, 0.9)))
    assert 0.86 < np.mean(inside) < 0.94


# -------------------------------------------------------------------- data


def test_targets_are_scaled_by_the_range_of_the_training_targets():
    data = _data()
    train, test = data.dataset("train"), data.dataset("test")
    low, high = float(train.target.min()), float(train.target.max())
    assert data.target_range == [low, high]
    batch = data.pair(test.image, test.target, torch.arange(len(test)), training=False)
    np.testing.assert_allclose(batch.target, (test.target.double() - low) / (high - low), atol=1e-6)
    assert batch.negative_target.shape == (len(test), 16)
    assert batch.negative_target.dtype == batch.target.dtype == torch.float32


@pytest.mark.parametrize("kind", ["tensors", "samples", "datamodule"])
def test_any_data_may_hold_numbers(kind, trainer):
    x, y = torch.rand(24, 3), torch.linspace(-5, 7, 24)

    class Own(BoringDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(x, y), batch_size=8)

        val_dataloader = train_dataloader

    options = {"regression": True, "negatives": ShiftedTargets(3)}
    if kind == "tensors":
        data = PairedDataModule(train=TensorDataset(x, y.double()), val_size=9, **options)
    elif kind == "samples":
        pairs = [(a.numpy(), float(b)) for a, b in zip(x, y, strict=True)]
        data = PairedDataModule(train=pairs, val=pairs, target_range=[-5, 7], **options)
    else:
        data = PairedDataModule(Own(), target_range=[-5, 7], **options)
    module = _module()
    trainer().fit(module, data)
    target = data.dataset("train").target if kind == "tensors" else y
    expected = [float(target.min()), float(target.max())]
    assert module.hparams["target_range"] == pytest.approx(expected)
    assert module.estimate(module(x)).shape == (24, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression": True, "negatives": WrongLabels()}, "WrongLabels does not fit regression=True: use Shifted"),
        ({"negatives": ShiftedTargets()}, "ShiftedTargets does not fit regression=False"),
        ({"regression": True, "num_classes": 3}, "num_classes has no effect: a regression"),
        ({"regression": True, "corruption": PaperMixture(0.5)}, "corruption is for images with classes"),
        ({"target_range": [0, 1]}, "target_range has no effect without regression"),
        ({"regression": True, "target_range": [1, 1]}, "two numbers are needed"),
    ],
)
def test_options_of_the_other_task_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        PairedDataModule(train=TensorDataset(torch.rand(9, 3), torch.rand(9)), **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0.0, math.nan, 1.0, 2.0]), "sample 1 has the target nan"),
        (torch.full((4,), 3.0), "every target is 3, so there is nothing to predict"),
        (torch.rand(4, 2), "one number per image is needed"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(target, message):
    data = PairedDataModule(train=TensorDataset(torch.rand(4, 3), target), val_size=0, regression=True)
    with pytest.raises(DataError, match=message):
        _ = data.target_range


def test_data_in_memory_say_what_their_targets_are():
    with pytest.raises(ConfigurationError, match="regression=True: give it to PairedDataModule"):
        PairedDataModule(train=InMemoryDataset(torch.rand(9, 3), torch.rand(9), regression=True)).dataset("train")
    data = PairedDataModule(train=[(torch.rand(3), 1.5)] * 4, val_size=0, regression=True)
    with pytest.raises(ConfigurationError, match="give target_range"):
        _ = data.target_range


# -------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _module(candidates=1), "candidates=1"),
        (lambda: _module(coverage=1.0), "coverage=1.0"),
        (lambda: _module(prediction="median"), "prediction='median'"),
        (lambda: _module(num_classes=3), "num_classes has no effect"),
        (lambda: _module(encoder=NoLabel()), "leave NoLabel out"),
        (lambda: _module(vote_weights="validation"), "fits votes to classes"),
        (lambda: RegressionModule([DenseUnit([16], goodness=ChannelGoodness())]), "goodness by class"),
        (lambda: TargetFeatures(features=1), "2 features or more"),
        (lambda: TargetFeatures(amplitude=0), "not 0"),
        (lambda: TargetFeatures().setup((4, 5), 11), "columns of a table"),
    ],
)
def test_networks_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_classes_are_no_targets_of_a_regression(trainer, digits):
    with pytest.raises(ConfigurationError, match="predicts numbers, and the targets are classes: give the data"):
        trainer().fit(_module(), digits())
    for module in (IntFFModule([DenseUnit([8])]), BackpropModule(DenseUnit([8]))):
        with pytest.raises(ConfigurationError, match="predicts classes, and the targets are numbers: use Regression"):
            trainer().fit(module, _data())
    module = _module(input_shape=[3], target_range=[0, 1])
    batch = PairedBatch(torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), None, torch.ones(4, 1, dtype=torch.int64))
    with pytest.raises(DataError, match="needs scaled targets"):
        module.training_step(batch, 0)


def test_a_checkpoint_tells_the_units_of_its_predictions(trainer):
    run, data = trainer(max_epochs=1), _data()
    module = _module()
    run.fit(module, data)
    run.save_checkpoint("some.ckpt")
    new = {name: torch.randn(20).tolist() for name in "abc"}
    other = _data(test_size=0.5, predict_table=new)  # another division, which would be standardized otherwise
    again = torch.cat(trainer().predict(_module(), other, ckpt_path="some.ckpt"))
    seen = TableDataModule.from_checkpoint("some.ckpt", predict_table=new)
    assert seen.preprocessing == data.preprocessing
    with torch.no_grad():
        torch.testing.assert_close(again, module.estimate(module(seen.dataset("predict").image)))
    samples = TensorDataset(torch.randn(8, 3), 100 * torch.rand(8))
    plain = PairedDataModule(train=samples, test=samples, val_size=0, regression=True)
    with pytest.raises(CheckpointError, match=r"the network was trained on targets from .* give target_range="):
        trainer().test(_module(), plain, ckpt_path="some.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16-true"}, "rounds its targets"),
        ({"callbacks": [EMAWeightAveraging()]}, "lose the calibration"),
        ({"callbacks": [LinearProbe()]}, "has no hyperparameter num_classes"),
    ],
)
def test_runs_that_cannot_work_are_refused(options, message, trainer):
    with pytest.raises(ConfigurationError, match=message):
        trainer(**options).fit(_module(), _data())


def test_a_pipeline_is_refused():
    with pytest.raises(ConfigurationError, match="RegressionModule needs all units in one process"):
        check_module(_module(), None)


def test_a_given_range_of_the_targets_is_taken():
    assert _data(target_range=[0, 200]).target_range == [0.0, 200.0]
    assert _data(target_range=[0, 200]).preprocessing["target_range"] == [0.0, 200.0]


@pytest.mark.parametrize("make", [_module, lambda: BackpropRegression(DenseUnit([8]))])
def test_writers_of_classes_are_refused(make, trainer):
    module, data = make(), _data()
    trainer(max_epochs=1).fit(module, data)
    with pytest.raises(ConfigurationError, match=r"PredictionWriter writes classes, .* numbers: use EstimateWriter"):
        trainer(callbacks=[PredictionWriter("table.csv")]).predict(module, data)
    trainer(callbacks=[EstimateWriter("table.csv")]).predict(module, data)
    assert Path("table.csv").read_text().startswith("index,prediction,lower,upper")


def test_a_baseline_is_rebuilt_from_its_checkpoint(trainer):
    run = trainer(max_epochs=1)
    run.fit(BackpropRegression(DenseUnit([8])), _data())
    run.save_checkpoint("some.ckpt")
    recipe = torch.load("some.ckpt", weights_only=True)["recipes"]["model"]
    assert isinstance(from_recipe(recipe), BackpropRegression)


def test_a_prediction_is_that_of_a_plain_loop_over_candidates():
    module = _module(input_shape=[3], target_range=[-10, 30], candidates=7, vote=[0, 1]).eval()
    module.temperature.fill_(0.5)
    module.margin.fill_(0.1)
    x = torch.randn(4, 3)
    with torch.no_grad():
        got = module.estimate(module(x))
        for sample in range(4):
            scores = []
            for c in range(7):
                shown = module.encoder(x[sample : sample + 1], torch.tensor([c / 6]))
                h, total = shown, 0.0
                for unit in module.units:
                    h = unit(h)
                    total += float(h.square().mean())
                scores.append(total / 0.5)
            weights = np.exp(np.array(scores) - max(scores))
            weights /= weights.sum()
            below = weights.cumsum() - weights / 2
            ends = [np.interp(level, below, np.arange(7) / 6) for level in (0.05, 0.95)]
            scaled = [(weights * np.arange(7) / 6).sum(), ends[0] - 0.1, ends[1] + 0.1]
            np.testing.assert_allclose(got[sample], [-10 + 40 * value for value in scaled], rtol=1e-4)
        maximum = _module(input_shape=[3], target_range=[-10, 30], candidates=7, prediction="maximum").eval()
        maximum.load_state_dict(module.state_dict())
        highest = maximum(x).argmax(1) / 6
        torch.testing.assert_close(maximum.estimate(maximum(x))[:, 0], -10 + 40 * highest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["intff", "bp"])
def test_a_network_learns_measures_and_covers(kind, trainer):
    options = {"coverage": 0.8, "optimizer": functools.partial(torch.optim.Adam, lr=0.01)}
    if kind == "bp":
        module = BackpropRegression(DenseUnit([32, 32], normalization=NoNormalization()), **options)
    else:
        units = [DenseUnit([32, 32], normalization=NoNormalization()), DenseUnit([32, 32])]
        module = RegressionModule(units, normalization=UnitL2(10), candidates=51, **options)
    division = {"test_size": 200, "val_size": 150, "negatives": ShiftedTargets(8)}
    data = _data(600, **division)
    fit = trainer(
        max_epochs=30, check_val_every_n_epoch=10, callbacks=[RegressionMetrics(), GoodnessLogger(auroc_values=0)]
    )
    fit.fit(module, data)
    (metrics,) = fit.test(module, data, verbose=False)
    assert metrics["test/r2"] > 0.85
    assert 0.7 < metrics["test/coverage"] < 0.9
    found = torch.cat(fit.predict(module, data)).double().numpy()
    truth = data.dataset("test").target.double().numpy()
    assert metrics["test/r2"] == pytest.approx(r2_score(truth, found[:, 0]), abs=1e-4)
    assert metrics["test/mae"] == pytest.approx(mean_absolute_error(truth, found[:, 0]), rel=1e-4)
    assert metrics["test/coverage"] == pytest.approx(((found[:, 1] <= truth) & (truth <= found[:, 2])).mean(), abs=1e-3)
    assert metrics["test/interval_width"] == pytest.approx((found[:, 2] - found[:, 1]).mean(), rel=1e-4)
    assert (found[:, 1] <= found[:, 0]).all()
    assert (found[:, 0] <= found[:, 2]).all()
    if kind == "intff":
        assert {"test/r2/unit_0", "test/r2/unit_1"} <= set(metrics)

    fit.save_checkpoint("some.ckpt")
    again = type(module).load_from_checkpoint("some.ckpt")
    new = TableDataModule.from_checkpoint("some.ckpt", predict_table={"a": [0.0], "b": [0.0], "c": [1.0]})
    (predicted,) = trainer().predict(again, new)
    assert float(predicted[0, 0]) == pytest.approx(50, abs=8)
    assert float(predicted[0, 1]) < 50 < float(predicted[0, 2])
    whole = trainer().predict(again, _data(600, **division))
    np.testing.assert_allclose(torch.cat(whole), found, rtol=1e-5)


def test_the_same_seed_trains_the_same_bits_and_backpropagation_needs_scaled_targets(trainer):
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        module = _module()
        trainer().fit(module, _data(100, seed=3))
        weights.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(*weights)
    module = BackpropRegression(DenseUnit([8]), input_shape=[3], target_range=[0, 1])
    with pytest.raises(DataError, match="needs scaled targets"):
        module.training_step((torch.rand(4, 3), torch.rand(4)), 0)


def test_accuracy_says_nothing_about_numbers(trainer):
    fit = trainer(callbacks=[GoodnessAccuracy()])
    fit.fit(_module(), _data(100))
    assert "val/accuracy" not in fit.callback_metrics
    with pytest.raises(DataError, match="one integer label per image is needed"):
        BackpropModule(DenseUnit([9]), input_shape=[3], num_classes=3).training_step(
            (torch.rand(4, 3), torch.rand(4)), 0
        )


@pytest.mark.slow
def test_the_command_line_trains_and_predicts_numbers(capsys, blank_figures):
    options = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", "diabetes", *options]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "val/r2" in printed
    assert "coverage" in printed
    assert main(["predict", "--ckpt_path", "best"]) == 0, capsys.readouterr().err
    (path,) = Path("lightning_logs").rglob("predictions.csv")
    head, *rows = list(csv.reader(path.read_text().splitlines()))
    assert head == ["index", "prediction", "lower", "upper"]
    assert len(rows) == 88
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in rows)
    assert main(["predict", "--ckpt_path", "best", "--images", "."]) == 1
    assert "this one predicts a number" in capsys.readouterr().err
