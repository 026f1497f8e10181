"""Images read once for all of their labels: the same numbers as label by label."""

import functools

import lightning as L
import pytest
import torch
from reference import largest_difference, train, weights_of
from torch import nn
from torch.utils.data import DataLoader

from intff_lightning import DenseUnit, IntFFModule, LabelOverlay, PairedBatch
from intff_lightning.labels import LabelledImages
from intff_lightning.local import RMS, NoNormalization, UnitL2


def _encoder(**options):
    encoder = LabelOverlay(**options)
    encoder.setup((1, 4, 5), 3)
    return encoder


def _batches(count=8, k=2, size=6):
    torch.manual_seed(1)
    made = []
    for _ in range(count):
        image, target = torch.rand(size, 1, 4, 5, dtype=torch.float64), torch.randint(3, (size,))
        wrong = (target[:, None] + 1 + torch.rand(size, 2).argsort(1)[:, :k]) % 3
        made.append(PairedBatch(image, target, None, wrong))
    return made


def test_a_layer_that_is_watched_or_wrapped_is_called():
    image, label, calls = torch.rand(6, 1, 4, 5), torch.randint(3, (6, 2)), []
    unit = DenseUnit([5])
    unit.setup((1, 4, 5), 3)
    linear = unit.body[1][0]
    plain = unit(LabelledImages(image, label, _encoder()))
    linear.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(unit(LabelledImages(image, label, _encoder())), plain)
    assert calls == [1]
    unit.body[1][0] = type("Doubled", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)})(20, 5)
    unit.body[1][0].load_state_dict(linear.state_dict())
    torch.testing.assert_close(unit(LabelledImages(image, label, _encoder())), 2 * plain)


def test_the_same_labels_for_every_image_may_be_given_once():
    encoder = _encoder()
    for unit in (DenseUnit([5]), DenseUnit([5], normalization=NoNormalization())):
        unit.setup((1, 4, 5), 3)
        for size in (0, 6):
            image, label = torch.rand(size, 1, 4, 5), torch.tensor([[2, 0]])
            once, written_out = (LabelledImages(image, row, encoder) for row in (label, label.repeat(size, 1)))
            torch.testing.assert_close(unit(once), unit(written_out))
            assert torch.equal(once.dense(), written_out.dense())


@pytest.mark.parametrize("intensity", [None, 0.3])
@pytest.mark.parametrize(
    "normalization", [lambda: UnitL2(7.0), lambda: RMS(2.0), NoNormalization, lambda: nn.LayerNorm([1, 4, 5])]
)
def test_a_dense_unit_reads_images_and_labels_apart(normalization, intensity):
    unit = DenseUnit([7, 6], normalization=normalization())
    unit.setup((1, 4, 5), 3)
    unit.double()
    image, label = torch.rand(5, 1, 4, 5, dtype=torch.float64), torch.randint(3, (5, 4))
    inputs = LabelledImages(image, label, _encoder(intensity=intensity))
    gradients = []
    for x in (inputs, inputs.dense()):
        unit.zero_grad()
        outputs = unit(x)
        outputs.square().sum().backward()
        gradients.append([outputs.detach(), *(p.grad.clone() for p in unit.parameters())])
    for apart, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(apart, dense, rtol=0, atol=1e-12)
    for apart, dense in zip(unit.activations(inputs), unit.activations(inputs.dense()), strict=True):
        torch.testing.assert_close(apart, dense, rtol=0, atol=1e-12)


class _Made(L.LightningDataModule):
    """Gives made batches after the transfer, as the package's datamodules do."""

    input_shape, num_classes = (1, 4, 5), 3

    def __init__(self, made):
        super().__init__()
        self.made = made

    def train_dataloader(self):
        return DataLoader(torch.arange(len(self.made)), batch_size=None)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.made[int(batch)]


@pytest.mark.parametrize(("update", "handover"), [("immediate", "before"), ("immediate", "after"), ("joint", "before")])
@pytest.mark.parametrize("k", [1, 2])
def test_training_equals_the_plain_loop(update, handover, k, trainer):
    made = _batches(k=k)
    optimizer = functools.partial(torch.optim.Adam, lr=0.02)
    units = [DenseUnit([7, 6]), DenseUnit([5])]
    options = {"update": update, "handover": handover, "inner_steps": 2, "input_shape": [1, 4, 5], "num_classes": 3}
    module = IntFFModule(units, _encoder(), optimizer, **options).double()
    reference = weights_of(module)
    trainer().fit(module, _Made(made))
    train(reference, optimizer, made, 3, inner_steps=2, handover=handover)
    assert largest_difference(module, reference) < 1e-10


def test_the_images_are_not_changed():
    unit = DenseUnit([4])
    unit.setup((1, 4, 5), 3)
    image = torch.rand(5, 1, 4, 5)
    before = image.clone()
    unit(LabelledImages(image, torch.zeros(5, 2, dtype=torch.int64), _encoder()))
    assert torch.equal(image, before)
