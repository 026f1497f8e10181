"""A few network inputs per pass: the gradients of all at once, in less memory."""

import functools

import pytest
import torch
from torch import nn

from intff_lightning import ConvUnit, DenseUnit, FourierPattern, IntFFModule, LabelEmbedding
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy, SoftplusLoss
from intff_lightning.pairs import PairedBatch
from intff_lightning.passes import is_separable

SGD = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9)


class Dropping(nn.Sequential):
    """Layers whose output depends on the random numbers."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(20, 6), nn.Dropout(0.5))


class Standardized(SoftplusLoss):
    """Inherits ``separable``, but compares each goodness with all others."""

    def forward(self, positive, negative, target, earlier):
        return super().forward(positive - positive.mean(), negative - positive.mean(), target, earlier)


def _dense(**options):
    return IntFFModule([DenseUnit([7, 6]), DenseUnit([5])], **options)


def _embedded(**options):
    return IntFFModule([DenseUnit([7]), DenseUnit([5])], encoder=LabelEmbedding(), **options)


def _conv(**options):
    units = [ConvUnit([4], pool=1, norm="group", groups=2), ConvUnit([6], pool=1)]
    return IntFFModule(units, encoder=FourierPattern(), **options)


@pytest.mark.parametrize("make", [_dense, _embedded, _conv])
@pytest.mark.parametrize("inputs", [3, 8, 20, 99])
@pytest.mark.parametrize(
    "loss", [LabelCrossEntropy(threshold_weight=0.4, collaboration=0.5), SoftplusLoss(0.3), Standardized(0.3)]
)
def test_the_steps_are_those_of_all_labels_at_once(make, inputs, loss, batches, trainer):
    weights, losses = [], []
    for option in (None, inputs):
        torch.manual_seed(0)
        module = make(
            chunk_size=option,
            loss=loss,
            optimizer=SGD,
            input_shape=[1, 4, 5],
            num_classes=6,
        ).double()
        run = trainer(precision="64-true", accumulate_grad_batches=2, gradient_clip_val=0.05, max_epochs=2)
        run.fit(module, batches(count=5, k=4, classes=6, dtype=torch.float64))
        assert run.global_step == 6
        weights.append(list(module.parameters()))
        losses.append(run.callback_metrics["train/loss"])
    torch.testing.assert_close(losses[1], losses[0])
    for mine, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


def test_negative_images_and_dropout(trainer):
    """Negatives that are images; and both passes of a part drop the same neurons."""
    torch.manual_seed(3)
    batch = PairedBatch(
        torch.rand(8, 1, 4, 5), torch.randint(3, (8,)), torch.rand(8, 3, 1, 4, 5), torch.randint(3, (8, 3))
    )
    data = torch.utils.data.DataLoader([batch], batch_size=None)
    weights = []
    for option in (None, 13):
        torch.manual_seed(0)
        options = {"optimizer": SGD, "input_shape": [1, 4, 5], "num_classes": 3}
        module = _dense(chunk_size=option, **options)
        trainer().fit(module, data)
        weights.append(list(module.parameters()))
        module = IntFFModule([Dropping()], chunk_size=option and 40, **options)  # all in one pass
        torch.manual_seed(1)
        trainer().fit(module, data)
        weights[-1] += list(module.parameters())
    for mine, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "must be 1 or more"),
        ({"chunk_size": 1, "goodness": ChannelGoodness()}, "no effect: by class"),
        ({"chunk_size": 1, "inner_steps": 2}, "needs update=immediate, inner_steps=1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        _dense(**options)


def test_batch_statistics_and_a_loss_of_ones_own_are_refused(batches, trainer):
    module = IntFFModule([ConvUnit([4], norm="batch")], encoder=FourierPattern(), chunk_size=1)
    module.hparams.update(input_shape=[1, 4, 5], num_classes=3)
    with pytest.raises(ConfigurationError, match="unit_0 has batch normalization"):
        trainer().fit(module, batches(k=2))

    class Own(IntFFModule):
        def local_loss(self, k, h, batch, earlier):
            return super().local_loss(k, h, batch, earlier)

    with pytest.raises(ConfigurationError, match="the package's local_loss"):
        Own([DenseUnit([5])], chunk_size=1)


def test_a_loss_is_separable_if_the_class_with_its_forward_says_so():
    class Lower(SoftplusLoss):
        """A threshold of its own, and the ``forward`` of the base."""

    class Told(Standardized):
        separable = True  # of another class's forward

    class Own(SoftplusLoss):
        separable = True

        def forward(self, positive, negative, target, earlier):
            return super().forward(2 * positive, negative, target, earlier)

    losses = [SoftplusLoss(), Lower(), Own(), LabelCrossEntropy(), Standardized(), Told()]
    assert [is_separable(loss) for loss in losses] == [True, True, True, False, False, False]
