"""Training without labels on classes that are made of the images, against the same training on images made by hand."""

import functools

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, LinearProbe
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.heads import LinearHead
from intff_lightning.local import LabelCrossEntropy
from intff_lightning.pretext import Rotations
from intff_lightning.regression import RegressionModule
from intff_lightning.units import UnitChain

SHAPE = (2, 6, 6)


def _network(classes=3, pretext=True, vote=None):
    torch.manual_seed(0)
    return IntFFModule(
        [ConvUnit([4], norm="batch"), DenseUnit([5])],
        goodness=LinearHead(),
        loss=LabelCrossEntropy(threshold_weight=0.0),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        pretext=Rotations() if pretext else None,
        vote=vote,
        input_shape=list(SHAPE),
        num_classes=classes,
    ).double()


def _batches(image, target, size):
    return DataLoader(TensorDataset(image, target), batch_size=size)


def test_units_learn_the_rotations_of_images_made_by_hand(trainer):
    image, target = torch.rand(12, *SHAPE, dtype=torch.float64), torch.randint(0, 3, (12,))
    turned = np.stack([np.rot90(image.numpy(), turns, axes=(2, 3)) for turns in range(4)], axis=1).reshape(48, *SHAPE)
    turns = torch.arange(4).repeat(12)
    ours, others, theirs = _network(), _network(), _network(classes=4, pretext=False)
    options = {"max_epochs": 2, "precision": "64-true", "callbacks": [GoodnessLogger(), GoodnessAccuracy()]}
    trainer(**options).fit(ours, _batches(image, target, 4), _batches(image, target, 4))
    trainer(**options).fit(others, _batches(image, 2 - target, 4), _batches(image, target, 4))  # under wrong labels
    trainer(**options).fit(theirs, _batches(torch.from_numpy(turned.copy()), turns, 16))
    for mine, wrong, reference in zip(ours.parameters(), others.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, wrong)
        torch.testing.assert_close(mine, reference)
    assert "val/accuracy" not in ours.trainer.callback_metrics  # it knows no classes
    with pytest.raises(ConfigurationError, match="trained without labels"):
        ours.label_goodness(image)


def test_the_anomaly_score_is_that_of_the_right_rotations():
    module = _network(vote=[1]).eval()
    image = torch.rand(5, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        logits = [module.goodness(torch.rot90(image, turns, (2, 3))) for turns in range(4)]  # (U, 5, 4) each
        units = torch.stack([g.softmax(2)[:, :, turns].log() for turns, g in enumerate(logits)]).mean(0)
        torch.testing.assert_close(module.predictions(image)[:, 1:], units.T)
        torch.testing.assert_close(module.anomaly_score(image), -units[1])


def test_an_exported_anomaly_score_takes_any_number_of_images():
    class Score(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            return self.network.anomaly_score(image)

    module, image = Score(_network().eval()), torch.rand(7, *SHAPE, dtype=torch.float64)
    sizes = ({0: torch.export.Dim("size", min=2, max=64)},)
    exported = torch.export.export(module, (image[:3],), dynamic_shapes=sizes).module()
    torch.testing.assert_close(exported(image), module(image))


def _baseline(classes=3, pretext=True):
    torch.manual_seed(0)
    return BackpropModule(
        UnitChain([ConvUnit([4], norm="batch"), DenseUnit([5])]),
        optimizer=functools.partial(torch.optim.SGD, lr=0.1),
        pretext=Rotations() if pretext else None,
        input_shape=list(SHAPE),
        num_classes=classes,
    ).double()


def test_backpropagation_learns_the_rotations_of_images_made_by_hand(trainer):
    image, target = torch.rand(12, *SHAPE, dtype=torch.float64), torch.randint(0, 3, (12,))
    turned = np.stack([np.rot90(image.numpy(), turns, axes=(2, 3)) for turns in range(4)], axis=1).reshape(48, *SHAPE)
    ours, theirs = _baseline(), _baseline(classes=4, pretext=False)
    options = {"max_epochs": 2, "precision": "64-true"}
    run = trainer(**options, callbacks=[GoodnessAccuracy()])
    run.fit(ours, _batches(image, target, 4), _batches(image, target, 4))
    trainer(**options).fit(theirs, _batches(torch.from_numpy(turned.copy()), torch.arange(4).repeat(12), 16))
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference)
    assert "val/loss" in run.callback_metrics
    assert "val/accuracy" not in run.callback_metrics
    ours.eval()
    with torch.no_grad():
        logits = [ours(torch.rot90(image, turns, (2, 3))) for turns in range(4)]
        right = torch.stack([g.softmax(1)[:, turns].log() for turns, g in enumerate(logits)]).mean(0)
        torch.testing.assert_close(ours.predictions(image), -right.unsqueeze(1))


def test_a_probe_reads_a_network_of_backpropagation(trainer):
    module, probe = _baseline().float(), LinearProbe(every_n_epochs=1, pool=2, hidden=True, epochs=2)
    part = InMemoryDataset(torch.rand(12, *SHAPE), torch.randint(0, 3, (12,)))
    run = trainer(callbacks=[probe])
    run.fit(module, PairedDataModule(train=part, val=part, num_classes=3, batch_size=4, negatives=None))
    assert 0 <= run.callback_metrics["val/probe_accuracy"] <= 1
    module.eval()
    with torch.no_grad():
        maps = module.body.body[0](module.body.normalize(part.image))
        expected = torch.cat([adaptive_avg_pool2d(maps, 2).flatten(1), module.body(part.image)], dim=1)
        torch.testing.assert_close(module.embed(part.image, hidden=True, pool=2), expected)
        torch.testing.assert_close(module.embed(part.image), module.body(part.image))
    with pytest.raises(ConfigurationError, match="pool=2 has no effect"):
        module.embed(part.image, pool=2)


def test_a_probe_reads_pooled_maps(trainer):
    module, probe = _network().float(), LinearProbe(every_n_epochs=1, pool=2, epochs=2)
    image, target = torch.rand(12, *SHAPE), torch.randint(0, 3, (12,))
    part = InMemoryDataset(image, target)
    run = trainer(callbacks=[probe])
    run.fit(module, PairedDataModule(train=part, val=part, num_classes=3, batch_size=4, negatives=None))
    assert 0 <= run.callback_metrics["val/probe_accuracy"] <= 1
    assert probe.layer.weight.shape == (3, 4 * 2 * 2 + 5)
    module.eval()
    with torch.no_grad():
        maps = module.units[0](image)
        expected = torch.cat([adaptive_avg_pool2d(maps, 2).flatten(1), module.units[1](maps)], dim=1)
        torch.testing.assert_close(module.embed(image, pool=2), expected)
        assert module.embed(image).shape[1] == maps[0].numel() + 5
    with pytest.raises(ConfigurationError, match=r"LinearProbe\(pool=0\)"):
        LinearProbe(pool=0)


def test_what_has_no_effect_or_cannot_be_rotated_is_refused():
    with pytest.raises(ConfigurationError, match="pretext gives images a class: it needs goodness by class"):
        IntFFModule([DenseUnit([4])], pretext=Rotations())
    with pytest.raises(ConfigurationError, match="pretext makes classes, and a regression has none"):
        RegressionModule([DenseUnit([4])], pretext=Rotations())
    with pytest.raises(ConfigurationError, match=r"needs square images \(C, H, H\), not of shape \(1, 4, 6\)"):
        IntFFModule([DenseUnit([5])], goodness=LinearHead(), pretext=Rotations(), input_shape=[1, 4, 6], num_classes=2)
    with pytest.raises(
        ConfigurationError, match="vote_weights=validation fits votes to labels, and pretext reads none"
    ):
        IntFFModule([DenseUnit([5])], goodness=LinearHead(), pretext=Rotations(), vote_weights="validation")
    with pytest.raises(ConfigurationError, match="negatives and pretext are two ways"):
        BackpropModule(DenseUnit([5]), pretext=Rotations(), negatives=True)
    with pytest.raises(ConfigurationError, match="needs square images"):
        BackpropModule(DenseUnit([5]), pretext=Rotations(), input_shape=[1, 4, 6], num_classes=2)
    options = {"goodness": LinearHead(), "input_shape": list(SHAPE), "num_classes": 2}
    for hidden in (False, True):
        with pytest.raises(ConfigurationError, match="pool=2 has no effect: nothing gives maps"):
            IntFFModule([DenseUnit([5])], **options).embed(torch.rand(2, *SHAPE), pool=2, hidden=hidden)
    with pytest.raises(ConfigurationError, match="pool=0: a number of positions"):
        IntFFModule([ConvUnit([5])], **options).embed(torch.rand(2, *SHAPE), pool=0)
    with pytest.raises(DataError, match="float in"):
        _network().anomaly_score(torch.zeros(2, *SHAPE, dtype=torch.uint8))
