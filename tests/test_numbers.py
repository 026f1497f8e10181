"""Every number that is logged or returned, at the ends of its range, against an independent computation."""

import types

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, DenseUnit, IntFFModule, PairedBatch
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, LinearProbe
from intff_lightning.callbacks.goodness import _auroc, _Ranks
from intff_lightning.errors import ConfigurationError, DivergenceError
from intff_lightning.labels import NoLabel
from intff_lightning.local import LabelCrossEntropy, SoftplusLoss, SumSquares, SymBaLoss

# -------------------------------------------------------------------- AUROC

ONE = types.SimpleNamespace(distributed_sampler_kwargs=None)


def _area(positive, negative, limit=2**18, parts=1):
    ranks = [_Ranks(limit), _Ranks(limit)]
    for held, values in zip(ranks, (positive, negative), strict=True):
        for part in values.tensor_split(parts, dim=1):
            held.add(part)
    return _auroc(*(held.gather(ONE) for held in ranks))


def _exact(positive, negative):
    truth = [1] * len(positive) + [0] * len(negative)
    scores = np.concatenate([positive.numpy(), negative.numpy()])
    return roc_auc_score(truth, np.unique(scores, return_inverse=True)[1])  # ranks: sklearn refuses infinity


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_auroc_is_exact_over_the_whole_range_of_float32(data):
    value = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([0.0, 1000.0, 1000.0001, 3e38]))
    positive, negative = (
        torch.tensor(data.draw(st.lists(value, min_size=1, max_size=20)), dtype=torch.float32) for _ in range(2)
    )
    found = _area(positive.unsqueeze(0), negative.unsqueeze(0), parts=min(2, len(positive), len(negative)))
    assert found[0] == pytest.approx(_exact(positive, negative), abs=1e-6)


@pytest.mark.parametrize(("center", "spread"), [(0, 1e-30), (1.5, 0.3), (1e4, 0.5), (1e30, 1e28)])
def test_auroc_of_more_values_than_are_kept(center, spread):
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 3, 40_000, generator=generator) * spread + center
    positive, negative = draws[0] + torch.tensor([[0.0], [1.0], [5.0]]) * spread, draws[1]
    exact = [_exact(p, n) for p, n in zip(positive, negative, strict=True)]
    assert _area(positive, negative).tolist() == pytest.approx(exact, abs=1e-6)
    assert _area(positive, negative, limit=1000, parts=400).tolist() == pytest.approx(exact, abs=2e-3)
    ordered = positive.sort(1).values, negative.sort(1, descending=True).values  # the order of samples does not matter
    assert _area(*ordered, limit=1000, parts=400).tolist() == pytest.approx(exact, abs=2e-3)
    held = _Ranks(1000)
    for part in positive.split(100, 1):
        held.add(part)
    assert sum(part.shape[1] for level in held.levels for part in level) < 7000  # memory is bounded
    assert held.gather(ONE)[1].sum() == 40_000


def test_auroc_over_processes_that_hold_different_numbers_of_values():
    values = torch.randn(2, 3, 900, generator=torch.Generator().manual_seed(0))
    cut = 700
    gathered = []
    for whole in values:
        ranks = [_Ranks(200), _Ranks(200)]
        for held, part in zip(ranks, (whole[:, :cut], whole[:, cut:]), strict=True):
            for some in part.split(50, 1):
                held.add(some)
        sent = []

        def collect(rows, sent=sent):
            sent.append(rows)
            return torch.stack(sent)

        most = max(sum(part.shape[1] for level in held.levels for part in level) for held in ranks)
        strategy = types.SimpleNamespace(reduce=lambda size, reduce_op, most=most: most, all_gather=collect)
        two = types.SimpleNamespace(distributed_sampler_kwargs={"rank": 0, "num_replicas": 2}, strategy=strategy)
        ranks[0].gather(two)
        gathered.append(ranks[1].gather(two))  # the last process has what all have sent
        assert gathered[-1][1].sum() == 900
    exact = [_exact(p, n) for p, n in zip(*values, strict=True)]
    assert _auroc(*gathered).tolist() == pytest.approx(exact, abs=5e-3)


def test_auroc_is_unknown_where_goodness_is():
    positive = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    assert _area(positive, torch.zeros(2, 2)).isnan().tolist() == [True, False]
    with pytest.raises(ConfigurationError, match="auroc_values=1"):
        GoodnessLogger(auroc_values=1)


# -------------------------------------------------------------------- logged means


class _Table(L.LightningModule):
    """The goodness of each input is one of its own features; two units read two of them."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.encoder = NoLabel()
        self.wanted = dtype

    def goodness(self, x):
        return x.flatten(1)[:, :2].T.to(self.wanted)

    def label_goodness(self, image):
        return image.permute(1, 0, 2)

    def test_step(self, batch, batch_idx):
        pass


def _loader(positive, negative, sizes):
    """Batches of these sizes, of goodness (N, 2) and (N, k, 2)."""
    target = torch.zeros(len(positive), dtype=torch.int64)
    parts = [part.split(sizes) for part in (positive, target, negative)]
    return DataLoader([PairedBatch(p, t, n, None) for p, t, n in zip(*parts, strict=True)], batch_size=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("sizes", [[1], [7, 7, 2], [5, 1]])
def test_logged_goodness_is_that_of_all_samples(sizes, scale, dtype, trainer):
    if dtype is torch.float16 and scale == 1e30:
        pytest.skip("out of range")
    generator = torch.Generator().manual_seed(0)
    size = sum(sizes)
    positive = ((1 + torch.rand(size, 2, generator=generator)) * scale).to(dtype).float()
    negative = ((0.5 + torch.rand(size, 3, 2, generator=generator)) * scale).to(dtype).float()
    run = trainer(callbacks=[GoodnessLogger()])
    run.test(_Table(dtype), _loader(positive, negative, sizes), verbose=False)
    for k in range(2):
        up, down = positive[:, k].double(), negative[..., k].double()
        expected = {
            "positive": up.mean(),
            "negative": down.mean(),
            "margin": up.mean() - down.mean(),
            "auroc": _exact(up, down.flatten()),
        }
        for name, value in expected.items():
            found = float(run.callback_metrics[f"test/goodness/{name}/unit_{k}"])
            assert found == pytest.approx(float(value), rel=1e-4, abs=1e-6 * scale)


def test_without_negatives_only_positive_goodness_is_logged(trainer):
    run = trainer(callbacks=[GoodnessLogger()])
    run.test(_Table(), _loader(torch.ones(4, 2), torch.ones(4, 0, 2), [3, 1]), verbose=False)
    assert dict(run.callback_metrics) == {f"test/goodness/positive/unit_{k}": 1.0 for k in range(2)}


def test_goodness_that_is_no_number_is_logged_as_such(trainer):
    positive = torch.ones(4, 2)
    positive[1, 0] = torch.nan
    run = trainer(callbacks=[GoodnessLogger()])
    run.test(_Table(), _loader(positive, torch.zeros(4, 1, 2), [3, 1]), verbose=False)
    for name in ("positive", "margin", "auroc"):
        assert run.callback_metrics[f"test/goodness/{name}/unit_0"].isnan()
        assert run.callback_metrics[f"test/goodness/{name}/unit_1"] == 1


# -------------------------------------------------------------------- accuracy


def _scored(scores, target, sizes):
    return DataLoader(list(zip(scores.split(sizes), target.split(sizes), strict=True)), batch_size=None)


@pytest.mark.parametrize("sizes", [[1], [4, 4, 3]])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e37])
def test_accuracy_counts_samples_and_not_batches(sizes, scale, trainer):
    """Class 4 never occurs, and is predicted nevertheless."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(sum(sizes), 2, 5, generator=generator) * scale
    target = torch.randint(4, (sum(sizes),), generator=generator)
    accuracy = GoodnessAccuracy()
    run = trainer(callbacks=[accuracy])
    run.test(_Table(), _scored(scores, target, sizes), verbose=False)
    guess = scores.double().sum(1).argmax(1)
    assert accuracy.confusion["test"].tolist() == confusion_matrix(target, guess, labels=range(5)).tolist()
    assert run.callback_metrics["test/accuracy"] == pytest.approx(float((guess == target).float().mean()))
    for k in range(2):
        alone = float((scores[:, k].argmax(1) == target).float().mean())
        assert run.callback_metrics[f"test/accuracy/unit_{k}"] == pytest.approx(alone)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("unit", "what"), [(0, "unit_0"), (1, "unit_1")])
def test_goodness_that_is_not_finite_names_its_unit(unit, what, value, trainer):
    scores = torch.rand(11, 2, 5)
    scores[[2, 10], unit, 3] = value
    expected = rf"the goodness of {what} is not finite for 2 of 11 samples \(test\)"
    with pytest.raises(DivergenceError, match=expected):
        trainer(callbacks=[GoodnessAccuracy()]).test(_Table(), _scored(scores, torch.zeros(11).long(), [8, 3]))


def test_a_vote_that_overflows_is_named(trainer):
    scores = torch.full((3, 2, 5), 3e38)
    with pytest.raises(DivergenceError, match="the goodness of the vote is not finite for 3 of 3"):
        trainer(callbacks=[GoodnessAccuracy()]).test(_Table(), _scored(scores, torch.zeros(3).long(), [3]))


class _Scores(L.LightningModule):
    def forward(self, image):
        return image

    def test_step(self, batch, batch_idx):
        pass


def test_an_ordinary_classifier_may_rule_classes_out_but_not_all(trainer):
    scores = torch.tensor([[-torch.inf, 0.0], [1.0, -torch.inf]])
    run, target = trainer(callbacks=[GoodnessAccuracy()]), torch.tensor([1, 0])
    run.test(_Scores(), _scored(scores, target, [2]), verbose=False)
    assert run.callback_metrics["test/accuracy"] == 1
    scores[0] = -torch.inf
    with pytest.raises(DivergenceError, match="the largest score is not finite for 1 of 2 samples"):
        trainer(callbacks=[GoodnessAccuracy()]).test(_Scores(), _scored(scores, target, [2]), verbose=False)


def test_predictions_without_a_class_are_refused(trainer):
    module = _network([SoftplusLoss()])
    image = torch.rand(6, 1, 4, 5)
    loader = DataLoader(TensorDataset(image), batch_size=4)
    (first, second) = trainer().predict(module, loader)
    assert torch.equal(torch.cat([first, second]), module(image))
    with torch.no_grad():
        module.units[0].body[1][0].bias[0] = torch.nan
    with pytest.raises(DivergenceError, match="the scores of 4 of the 4 images in batch 0 are not finite"):
        trainer().predict(module, loader)


@pytest.mark.parametrize("when", ["before the fit", "after the fit"])
def test_a_probe_refuses_features_that_are_not_finite(when, digits, trainer):
    module = IntFFModule([DenseUnit([8])], input_shape=[1, 10, 10], num_classes=10)

    class Break(Callback):
        def on_test_epoch_start(self, trainer, pl_module):
            self._break()

        def _break(self):
            with torch.no_grad():
                module.units[0].body[1][0].bias[0] = torch.nan

    breaking = Break()
    if when == "before the fit":
        breaking._break()
    expected = "the training data" if when == "before the fit" else r"360 of 360 samples \(test\)"
    with pytest.raises(
        DivergenceError, match=f"LinearProbe: the features of the network are not finite for {expected}"
    ):
        trainer(callbacks=[LinearProbe(epochs=1), breaking]).test(module, digits(), verbose=False)


# -------------------------------------------------------------------- the probability of positive data


def _network(losses, goodness=None, vote=None):
    units = [DenseUnit([5], loss=loss, goodness=goodness) for loss in losses]
    return IntFFModule(units, vote=vote, input_shape=[1, 4, 5], num_classes=3)


def _fixed(module, monkeypatch, *goodness):
    monkeypatch.setattr(module, "goodness", lambda x: torch.tensor(goodness))
    return module.positive_probability(torch.rand(len(goodness[0]), 1, 4, 5))


def test_units_at_their_thresholds_say_one_half(monkeypatch):
    module = _network([SoftplusLoss(1.5), SoftplusLoss(3.0), LabelCrossEntropy(threshold=0.5)])
    found = _fixed(module, monkeypatch, [1.5, 0.0, 1e38], [3.0, 0.0, 1.0], [0.5, 0.0, 0.0])
    torch.testing.assert_close(found, torch.sigmoid(torch.tensor([0.0, -5.0, torch.inf])))
    voting = _network([SoftplusLoss(1.5), SoftplusLoss(3.0), SymBaLoss()], vote=[1])
    torch.testing.assert_close(
        _fixed(voting, monkeypatch, [9.0], [3.5], [9.0]), torch.sigmoid(torch.tensor([0.5]))
    )  # only the units that vote


def test_a_sum_of_squares_is_compared_with_its_own_threshold():
    module = _network([SoftplusLoss(20.0), SoftplusLoss(30.0)], goodness=SumSquares())
    x = torch.rand(6, 1, 4, 5)
    goodness = module.goodness(x).double()
    torch.testing.assert_close(module.positive_probability(x).double(), torch.sigmoid(goodness.sum(0) - 50))
    assert (module.positive_probability(x) < 1e-6).all()  # both units say clearly that it is negative


@pytest.mark.parametrize("loss", [SymBaLoss(), LabelCrossEntropy(threshold_weight=0.0)])
def test_without_a_threshold_there_is_no_probability(loss):
    module = _network([SoftplusLoss(), loss])
    with pytest.raises(ConfigurationError, match=f"unit_1 has no threshold .* {type(loss).__name__}, has none"):
        module.positive_probability(torch.rand(2, 1, 4, 5))


# -------------------------------------------------------------------- losses


def _baseline():
    return BackpropModule(DenseUnit([5]), input_shape=[1, 4, 5], num_classes=3)


@pytest.mark.parametrize("make", [lambda: _network([SoftplusLoss()] * 2), _baseline], ids=["units", "baseline"])
def test_the_loss_of_an_evaluation_counts_samples(make, batches, trainer):
    (a,) = batches(size=7, seed=1)
    (b,) = batches(size=2, seed=2)
    module, losses = make(), []
    for data in ([a], [b], [a, b]):
        run = trainer(callbacks=[GoodnessLogger()])
        run.test(module, DataLoader(data, batch_size=None), verbose=False)
        losses.append({name: float(value) for name, value in run.callback_metrics.items() if "loss" in name})
    for name, value in losses[2].items():
        assert value == pytest.approx((7 * losses[0][name] + 2 * losses[1][name]) / 9, rel=1e-6)
    assert "test/loss" in losses[2]
