"""The module against an independent plain PyTorch loop, and against the paper's author's own run."""

import functools

import numpy as np
import pytest
import torch
from reference import forward, largest_difference, train, weights_of
from torch.utils.data import DataLoader

from intff_lightning import DenseUnit, IntFFModule, PairedBatch
from intff_lightning.datamodules import MNISTDataModule
from intff_lightning.optim import KerasAdam

WIDTHS = {1: [[6, 5]], 2: [[7, 6], [5]], 5: [[7], [6, 6, 5], [5], [4, 4], [5]]}
ADAM = functools.partial(torch.optim.Adam, lr=0.02)
SGD = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9)


@pytest.mark.parametrize("units", [1, 2, 5])
@pytest.mark.parametrize(("update", "handover"), [("immediate", "before"), ("immediate", "after"), ("joint", "before")])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_weights_equal_a_plain_loop_in_float64(
    units, update, handover, inner_steps, optimizer, network, batches, trainer
):
    data = batches(count=12, k=2, dtype=torch.float64)
    module = network(*WIDTHS[units], optimizer=optimizer, update=update, handover=handover, inner_steps=inner_steps)
    module.double()
    reference = weights_of(module)
    before = weights_of(module)
    trainer().fit(module, data)
    train(reference, optimizer, data, 3, inner_steps, handover)
    assert largest_difference(module, reference) < 1e-10
    assert largest_difference(module, before) > 1e-3  # it did learn something


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_immediate_and_joint_are_equal_to_the_last_bit(inner_steps, network, batches, trainer):
    data = batches(count=10, k=2)
    trained = []
    for update in ("immediate", "joint"):
        torch.manual_seed(3)
        module = network(*WIDTHS[5], optimizer=ADAM, update=update, inner_steps=inner_steps)
        trainer().fit(module, data)
        trained.append(module.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_handover_after_differs(network, batches, trainer):
    data = batches(count=5)
    trained = []
    for handover in ("before", "after"):
        torch.manual_seed(3)
        module = network(optimizer=ADAM, handover=handover)
        trainer().fit(module, data)
        trained.append(module.units[1].body[1][0].weight)
    assert (trained[0] - trained[1]).abs().max() > 1e-4


class _Permuted:
    """The author's negatives: labels under the permutations of his run, one per epoch."""

    def __init__(self, permutations):
        self.permutations = torch.as_tensor(permutations)
        self.epoch = 0

    def __call__(self, image, target, *, num_classes, model, generator):
        label = target[self.permutations[self.epoch]]
        self.epoch += 1
        return None, label[:, None]


def _author(name, optimizer, tiny_mnist, trainer, monkeypatch, dtype=torch.float32):
    """Run his procedure with our parts on his data, from his weights."""
    from conftest import HERE

    recorded = dict(np.load(HERE / f"data/author_{name}.npz"))
    monkeypatch.setattr("intff_lightning.datamodules.loading.Draws.shuffle", lambda self: torch.arange(500))
    data = MNISTDataModule(str(tiny_mnist), val_size=0, batch_size=500, negatives=_Permuted(recorded["permutations"]))
    units = [DenseUnit([30, 20]), DenseUnit([15, 10])]
    module = IntFFModule(
        units, optimizer=optimizer, inner_steps=5, handover="after", input_shape=[1, 28, 28], num_classes=10
    )
    for i, unit in enumerate(module.units):
        for j, layer in enumerate(list(unit.body)[1:]):
            for part in ("weight", "bias"):
                getattr(layer[0], part).data = torch.as_tensor(recorded[f"init/unit_{i}/layer_{j}/{part}"], dtype=dtype)
    trainer(max_epochs=3).fit(module, data)
    difference = max(
        float(
            (getattr(layer[0], part).detach() - torch.as_tensor(recorded[f"after_3/unit_{i}/layer_{j}/{part}"]))
            .abs()
            .max()
        )
        for i, unit in enumerate(module.units)
        for j, layer in enumerate(list(unit.body)[1:])
        for part in ("weight", "bias")
    )
    test = data.dataset("test").image[:200].float() / 255
    with torch.no_grad():
        goodness = module.label_goodness(test)
    theirs = torch.as_tensor(recorded["label_goodness"])
    return difference, float(((goodness - theirs).abs() / (1 + theirs)).max()), module(test[:50]).argmax(1), recorded


def test_the_authors_own_run_with_sgd(tiny_mnist, trainer, monkeypatch):
    optimizer = functools.partial(torch.optim.SGD, lr=3.0)
    weights, goodness, labels, recorded = _author("sgd", optimizer, tiny_mnist, trainer, monkeypatch)
    assert weights < 1e-5
    assert goodness < 1e-5
    assert labels.tolist() == recorded["author_predictions_first_50"].tolist()


def test_the_authors_own_run_with_his_adam(tiny_mnist, trainer, monkeypatch):
    optimizer = functools.partial(KerasAdam, lr=0.03)
    weights, goodness, labels, recorded = _author("own_adam", optimizer, tiny_mnist, trainer, monkeypatch)
    assert weights < 1e-4
    assert goodness < 1e-4
    assert labels.tolist() == recorded["author_predictions_first_50"].tolist()


def test_torchs_adam_is_not_the_authors(tiny_mnist, trainer, monkeypatch):
    optimizer = functools.partial(torch.optim.Adam, lr=0.03)
    weights, *_ = _author("own_adam", optimizer, tiny_mnist, trainer, monkeypatch)
    assert weights > 1e-4


def test_a_shared_step_counter_runs_on_while_others_step():
    """Two units of 2 inner steps sharing one Keras Adam, against one object stepped in the author's order."""
    ours = [torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2)]
    optimizers = [KerasAdam([p], lr=0.1, shared_by=2, inner_steps=2, position=k) for k, p in enumerate(ours)]
    theirs = [p.detach().clone() for p in ours]
    moments = [[torch.zeros(2, dtype=torch.float64)] * 2 for _ in range(2)]
    t = 0
    for _ in range(3):
        for k in range(2):
            for _ in range(2):
                t += 1
                gradient = theirs[k] ** 3 + k
                m, v = moments[k]
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                moments[k] = [m, v]
                rate = 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                theirs[k] = theirs[k] - rate * m / (v.sqrt() + 1e-7)
                ours[k].grad = ours[k].detach() ** 3 + k
                optimizers[k].step()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.data, reference, rtol=0, atol=1e-12)


def test_the_forward_pass_is_the_references(network):
    module = network([7, 6], [5]).double()
    x = torch.rand(9, 1, 4, 5, dtype=torch.float64)
    first = forward(weights_of(module)[0], x)
    torch.testing.assert_close(module.units[0](x), first, rtol=0, atol=1e-14)
    expected = torch.stack([(first**2).mean(1), (forward(weights_of(module)[1], first) ** 2).mean(1)])
    torch.testing.assert_close(module.goodness(x), expected, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_full_batch_author_procedure_equals_a_plain_loop(tiny_mnist, trainer):
    """500 real images, full batch, 50 inner steps, handover after: float64, to 1e-10."""
    data = MNISTDataModule(str(tiny_mnist), val_size=0)
    image = data.dataset("train").image.double() / 255
    target = data.dataset("train").target
    label = target[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    batch = PairedBatch(image, target, None, label[:, None])
    optimizer = functools.partial(KerasAdam, lr=0.03)
    module = IntFFModule(
        [DenseUnit([30, 20]), DenseUnit([15, 10])],
        optimizer=optimizer,
        inner_steps=50,
        handover="after",
        input_shape=[1, 28, 28],
        num_classes=10,
    ).double()
    reference = weights_of(module)
    trainer().fit(module, DataLoader([batch, batch], batch_size=None))
    train(reference, optimizer, [batch, batch], 10, inner_steps=50, handover="after")
    assert largest_difference(module, reference) < 1e-10
