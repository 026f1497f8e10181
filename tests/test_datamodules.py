"""Paired data: order, draws, splits, wrapping, checks."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import DenseUnit, IntFFModule, LabelOverlay, PairedBatch, ShuffledLabels, WrongLabels
from intff_lightning.augmentations import RandomShift
from intff_lightning.datamodules import FashionMNISTDataModule, InMemoryDataset, MNISTDataModule, PairedDataModule
from intff_lightning.datamodules.loading import ResumableLoader, SeededSampler
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError


class _Record(L.Callback):
    """Keeps every batch that reaches a step."""

    def __init__(self):
        self.train, self.val, self.test = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train.append(batch)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.val.append(batch)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.test.append(batch)


def _run(data, trainer, epochs=1, test=False, **options):
    record = _Record()
    run = trainer(max_epochs=epochs, num_sanity_val_steps=0, callbacks=[record], **options)
    module = IntFFModule([DenseUnit([8])])
    run.fit(module, data)
    if test:
        run.test(module, data, verbose=False)
    return record


def _equal(a, b):
    return all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_are_pairs(digits, trainer):
    record = _run(digits(negatives=WrongLabels(3), seed=5), trainer, test=True)
    encoder = LabelOverlay()
    encoder.setup((1, 10, 10), 10)
    for batch in (record.train[0], record.val[0], record.test[0]):
        assert type(batch) is PairedBatch
        assert batch.image.shape == (64, 1, 10, 10)
        assert batch.target.shape == (64,)
        assert batch.negative_image is None  # the same images
        assert batch.negative_target.shape == (64, 3)
        assert torch.equal(encoder.positive(batch), encoder(batch.image, batch.target))
        negative = encoder.negative(batch).view(64, 3, 1, 10, 10)
        assert torch.equal(negative[:, 1], encoder(batch.image, batch.negative_target[:, 1]))
        assert float(batch.image.max()) <= 1


def test_draws_are_of_seed_and_epoch_alone(digits, trainer):
    torch.manual_seed(1)
    first = _run(digits(seed=5, augmentation=RandomShift(1)), trainer, epochs=2, test=True)
    torch.manual_seed(99)  # the global generator plays no part
    again = _run(digits(seed=5, augmentation=RandomShift(1)), trainer, epochs=2, test=True)
    other = _run(digits(seed=6, augmentation=RandomShift(1)), trainer, epochs=2, test=True)
    assert len(first.train) == 2 * (1257 // 64)
    assert all(_equal(a, b) for a, b in zip(first.train, again.train, strict=True))
    assert all(_equal(a, b) for a, b in zip(first.test, again.test, strict=True))
    assert not torch.equal(first.train[0].target, other.train[0].target)
    assert not torch.equal(first.train[0].target, first.train[19].target)  # another order in the next epoch
    half = len(first.val) // 2
    assert all(_equal(a, b) for a, b in zip(first.val[:half], first.val[half:], strict=True))  # but not in validation


def test_batch_size_does_not_change_a_samples_negatives(digits, trainer):
    def shown(size):
        batches = _run(digits(seed=5, batch_size=size), trainer).val
        return torch.cat([batch.negative_target for batch in batches])

    assert torch.equal(shown(64), shown(17))


def test_splits_are_disjoint_complete_and_fixed(digits):
    parts = {part: digits(seed=1).dataset(part) for part in ("train", "val", "test")}
    again = {part: digits(seed=2).dataset(part) for part in ("train", "val", "test")}
    assert [len(parts[part]) for part in parts] == [1257, 180, 360]
    for part in parts:
        assert torch.equal(parts[part].image, again[part].image)  # runs differ in their seed and share their split
    rows = torch.cat([parts[part].image.flatten(1) for part in parts])
    assert len(rows.unique(dim=0)) == 1797
    assert not torch.equal(digits(val_seed=1).dataset("val").image, parts["val"].image)


def test_mnist_validates_on_the_last_training_images(tiny_mnist):
    data = MNISTDataModule(str(tiny_mnist), val_size=100)
    whole = MNISTDataModule(str(tiny_mnist), val_size=0)
    assert [len(data.dataset(part)) for part in ("train", "val", "test")] == [400, 100, 200]
    assert torch.equal(data.dataset("val").image, whole.dataset("train").image[400:])
    assert whole.dataset("val") is None
    assert data.input_shape == (1, 28, 28)


def test_fashion_mnist_and_environment(tiny_mnist, monkeypatch, trainer):
    monkeypatch.setenv("INTFF_DATA_DIR", str(tiny_mnist))
    record = _run(FashionMNISTDataModule(val_size=100, batch_size=50), trainer, test=True)
    assert [len(record.train), len(record.val), len(record.test)] == [8, 2, 4]


def test_without_validation_data_training_runs(tiny_mnist, trainer):
    record = _run(MNISTDataModule(str(tiny_mnist), val_size=0), trainer)
    assert record.val == []
    assert len(record.train) == 3


def test_processes_share_out_the_batches_of_one():
    def order(rank, world, batch, epoch):
        sampler = SeededSampler(103, batch, train=True, seed=4, rank=rank, world_size=world)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))
        return torch.tensor(list(sampler)).view(-1, batch)

    for epoch in (0, 1):
        one = order(0, 1, 12, epoch)
        three = torch.stack([order(rank, 3, 4, epoch) for rank in range(3)], dim=2).flatten(1)
        assert torch.equal(one, three)
    assert not torch.equal(order(0, 1, 12, 0), order(0, 1, 12, 1))
    shards = [list(SeededSampler(10, 4, train=False, rank=rank, world_size=3)) for rank in range(3)]
    assert shards == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]  # evaluation: each sample once, none padded


def test_a_batch_larger_than_the_data_is_the_data():
    assert sorted(SeededSampler(10, 64, train=True)) == list(range(10))


def test_a_loader_goes_on_where_it_stopped():
    data = InMemoryDataset(torch.arange(40.0).view(40, 1), torch.zeros(40).long())

    def loader(epoch):
        sampler = SeededSampler(40, 8, train=True, seed=1)
        sampler.set_epoch(epoch)
        return ResumableLoader(data, batch_size=8, sampler=sampler, collate_fn=data.collate)

    whole = [batch[2].tolist() for batch in loader(3)]
    interrupted = loader(3)
    iterator = iter(interrupted)
    for _ in range(2):
        next(iterator)
    resumed = loader(3)
    resumed.load_state_dict(interrupted.state_dict())
    assert len(resumed) == 5
    assert [batch[2].tolist() for batch in resumed] == whole[2:]
    assert [batch[2].tolist() for batch in resumed] == whole  # the epoch after is whole
    next_epoch = loader(4)
    next_epoch.load_state_dict(interrupted.state_dict())  # such as one of limit_train_batches: 2
    assert [batch[2].tolist() for batch in next_epoch] == [batch[2].tolist() for batch in loader(4)]
    other = loader(3)
    other.load_state_dict({**interrupted.state_dict(), "batch_size": 4})
    with pytest.raises(CheckpointError, match="in the middle of an epoch, and it was written with another batch size"):
        next(iter(other))


# -------------------------------------------------------------------- other people's data


class _Foreign(L.LightningDataModule):
    """A user's datamodule with every hook, on three classes."""

    def __init__(self, target=None, image=None):
        super().__init__()
        self.calls = []
        self.target = torch.arange(24) % 3 if target is None else target
        self.image = torch.rand(24, 1, 4, 5, generator=torch.Generator().manual_seed(0)) if image is None else image

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage == 'fit'} {self.trainer is not None}")

    def teardown(self, stage):
        self.calls.append(f"teardown {stage == 'fit'}")

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.image, self.target), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.image, self.target), batch_size=6)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.calls.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append("after")
        return batch[0] * 0.5, batch[1]

    def state_dict(self):
        return {"mark": 7}

    def load_state_dict(self, state):
        self.calls.append(f"state {state['mark']}")


def test_there_is_always_a_datamodule_inside():
    foreign, sets = _Foreign(), InMemoryDataset(torch.rand(40, 1, 4, 5), torch.arange(40) % 3)
    wrapped, own = PairedDataModule(foreign, num_classes=3), PairedDataModule(train=sets, val_size=10)
    assert wrapped.inner is foreign
    assert isinstance(own.inner, L.LightningDataModule)
    assert (own.input_shape, own.num_classes) == (wrapped.input_shape, wrapped.num_classes) == ((1, 4, 5), 3)
    assert [len(own.dataset(part)) for part in ("train", "val")] == [30, 10]
    with pytest.raises(ConfigurationError, match="data sets are those of _Foreign"):
        wrapped.dataset("train")


def test_pairs_can_be_made_without_a_trainer(digits, trainer):
    record = _run(digits(seed=5, negatives=WrongLabels(2), augmentation=RandomShift(1)), trainer)
    data = digits(seed=5, negatives=WrongLabels(2), augmentation=RandomShift(1))
    for loader, seen, training in (
        (data.train_dataloader, record.train, True),
        (data.val_dataloader, record.val, False),
    ):
        for samples, expected in zip(loader(), seen, strict=True):
            assert _equal(data.pair(*samples, training=training), expected)


def test_a_wrapped_datamodule_keeps_all_of_its_hooks(trainer, tmp_path):
    foreign = _Foreign()
    data = PairedDataModule(foreign, negatives=WrongLabels(2), num_classes=3)
    record = _run(data, trainer)
    assert foreign.calls[:2] == ["prepare_data", "setup True True"]
    assert foreign.calls[-1] == "teardown True"
    assert foreign.calls.count("transfer") == 7
    assert foreign.calls.count("before") == foreign.calls.count("after") == 8  # with the look at one sample
    assert [len(batch.target) for batch in record.train] == [8, 8, 8]
    assert float(record.train[0].image.max()) <= 0.5  # what its transfer hook made
    assert bool((record.val[0].negative_target != record.val[0].target[:, None]).all())
    data.load_state_dict(data.state_dict())
    assert foreign.calls[-1] == "state 7"


def test_a_wrapped_datamodules_negatives_change_by_batch_and_epoch(trainer):
    class Same(_Foreign):
        def train_dataloader(self):
            same = TensorDataset(self.image[:1].expand(64, -1, -1, -1), torch.zeros(64, dtype=torch.int64))
            return DataLoader(same, batch_size=16)

    data = PairedDataModule(Same(), negatives=WrongLabels(1), num_classes=3, seed=0)
    shown = [batch.negative_target.flatten().tolist() for batch in _run(data, trainer, epochs=2).train]
    assert len({tuple(row) for row in shown}) == 8
    again = _run(PairedDataModule(Same(), num_classes=3, seed=0), trainer, epochs=2).train
    assert [batch.negative_target.flatten().tolist() for batch in again] == shown


def test_the_look_at_a_sample_leaves_the_random_state_alone():
    torch.manual_seed(5)
    data = PairedDataModule(_Foreign(), num_classes=3)
    state = torch.get_rng_state()
    assert data.input_shape == (1, 4, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_datasets_of_pairs(trainer):
    class Pairs(torch.utils.data.Dataset):
        classes = ("a", "b", "c")

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return torch.full((1, 4, 5), index / 40), index % 3

    data = PairedDataModule(train=Pairs(), test=Pairs(), batch_size=6, val_size=10)
    record = _run(data, trainer, test=True)
    assert data.num_classes == 3
    assert [len(record.train), len(record.val), len(record.test)] == [5, 2, 7]
    seen = torch.cat([batch.image[:, 0, 0, 0] for batch in record.train + record.val])
    assert len(seen.unique()) == 40


def test_batches_know_no_encoder(digits, trainer):
    """Two networks with encoders of their own are given the same batches, in which no label is drawn."""
    batches = []
    for encoder in (LabelOverlay(intensity=0.5), LabelOverlay(intensity=0.25)):
        module, record = IntFFModule([DenseUnit([5])], encoder=encoder), _Record()
        trainer(fast_dev_run=True, callbacks=[record]).fit(module, digits(seed=0))
        batches += record.train
        assert float(module.encoder.positive(record.train[0]).flatten(1)[:, :10].max()) == encoder.intensity
    assert _equal(*batches)
    data = digits().dataset("train").image
    assert bool((batches[0].image.unsqueeze(1) == data.unsqueeze(0)).flatten(2).all(2).any(1).all())
    with pytest.raises(TypeError, match="encoder"):
        digits(encoder=LabelOverlay())


def test_a_source_that_asks_the_model_gets_it_in_eval_mode_and_restored(digits, trainer):
    class Asks(WrongLabels):
        uses_model = True

        def __call__(self, image, target, *, num_classes, model, generator):
            assert not any(part.training for part in model.modules())
            assert not torch.is_grad_enabled()
            return super().__call__(image, target, num_classes=num_classes, model=model, generator=generator)

    module = IntFFModule([DenseUnit([5])])
    modes = []

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append(all(part.training for part in pl_module.units.modules()))

    trainer(fast_dev_run=True, callbacks=[Look()]).fit(module, digits(negatives=Asks(1)))
    assert modes == [True]


# -------------------------------------------------------------------- checks


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label, trainer):
    target = torch.arange(24) % 3
    target[17] = label
    message = rf"sample \d+ has the label {label}, and labels must be 0 to 2"
    with pytest.raises(DataError, match=message):
        _run(PairedDataModule(_Foreign(target=target), num_classes=3), trainer)
    data = PairedDataModule(train=InMemoryDataset(torch.rand(24, 1, 4, 5), target), num_classes=3)
    with pytest.raises(DataError, match=rf"train data: sample 17 has the label {label}"):
        _run(data, trainer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_must_be_finite(value, trainer):
    image = torch.rand(24, 1, 4, 5)
    image[5, 0, 2, 2] = value
    with pytest.raises(DataError, match=r"NaN or infinite pixels \(1 of"):
        _run(PairedDataModule(_Foreign(image=image), num_classes=3), trainer)
    data = PairedDataModule(train=InMemoryDataset(image, torch.arange(24) % 3), val_size=0)
    with pytest.raises(DataError, match="train data: sample 5 has NaN"):
        _run(data, trainer)


def test_labels_must_be_integers(trainer):
    with pytest.raises(DataError, match="one integer label per image"):
        _run(PairedDataModule(_Foreign(target=torch.rand(24)), num_classes=3), trainer)


def test_datasets_are_checked_batch_by_batch_and_tensors_at_once(trainer):
    target = torch.arange(24) % 3
    target[17] = 5
    tensors = torch.utils.data.TensorDataset(torch.rand(24, 1, 4, 5), target)
    with pytest.raises(DataError, match="train data: sample 17 has the label 5"):
        _run(PairedDataModule(train=tensors, num_classes=3), trainer)
    with pytest.raises(DataError, match=r"a batch of PairedDataModule: sample \d+ has the label 5"):
        _run(PairedDataModule(train=torch.utils.data.Subset(tensors, range(24)), num_classes=3, val_size=0), trainer)
    with pytest.raises(DataError, match=r"one integer label per image is needed.*label\.long"):
        InMemoryDataset(torch.rand(3, 1, 4, 5), torch.rand(3))


def test_missing_data_says_what_to_do(tmp_path, trainer):
    with pytest.raises(DataError, match=r"(?s)MNIST: there is none under .*--data.data_dir"):
        MNISTDataModule(str(tmp_path / "nothing"), download=False).dataset("train")


def test_truncated_data_says_what_to_do(tiny_mnist, tmp_path):
    import shutil

    shutil.copytree(tiny_mnist, tmp_path / "data")
    damaged = tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"(?s)incomplete or damaged.*Delete that folder"):
        MNISTDataModule(str(tmp_path / "data"), val_size=10).dataset("train")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairedDataModule(batch_size=0), "batch_size=0"),
        (
            lambda: PairedDataModule(
                train=InMemoryDataset(torch.rand(5, 1, 4, 5), torch.zeros(5).long()), val_size=5
            ).dataset("train"),
            "leaves nothing",
        ),
        (lambda: PairedDataModule().input_shape, "no data"),
        (lambda: PairedDataModule(_Foreign()).num_classes, "pass num_classes="),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_empty_data(trainer):
    data = PairedDataModule(train=InMemoryDataset(torch.rand(0, 1, 4, 5), torch.zeros(0).long()), num_classes=3)
    with pytest.raises(DataError, match="empty"):
        _run(data, trainer)


def test_images_smaller_than_the_overlay(trainer):
    data = PairedDataModule(train=InMemoryDataset(torch.rand(40, 1, 3, 3), torch.arange(40) % 10), batch_size=8)
    with pytest.raises(ConfigurationError, match="9 pixels, and the overlay of 10 labels"):
        _run(data, trainer)


@pytest.mark.slow
def test_real_mnist(real_data, trainer):
    """The real set: sizes, split, and that a minute of training is far above chance."""
    data = MNISTDataModule(real_data, negatives=WrongLabels(1), batch_size=256)
    data.prepare_data()  # unpacks, where only the .gz files are there
    assert [len(data.dataset(part)) for part in ("train", "val", "test")] == [55000, 5000, 10000]
    assert np.isclose(float(data.dataset("test").image.float().mean()) / 255, 0.1325, atol=1e-4)
    from intff_lightning.local import UnitL2

    module = IntFFModule(
        [DenseUnit([200, 200, 200], normalization=UnitL2(20.0)), DenseUnit([50, 50], normalization=UnitL2(20.0))]
    )
    trainer(max_epochs=1, limit_val_batches=0).fit(module, data)
    test = data.dataset("test")
    with torch.no_grad():
        right = [
            (module(x.float() / 255).argmax(1) == y)
            for x, y in zip(test.image.split(1000), test.target.split(1000), strict=True)
        ]
    assert torch.cat(right).float().mean() > 0.88


def test_shuffled_labels_of_a_whole_epoch_are_mostly_wrong(digits, trainer):
    """Samples come in the order of one draw: were the labels shuffled by the same one, each would keep its own."""
    (batch,) = _run(digits(batch_size=1257, negatives=ShuffledLabels()), trainer).train
    assert 0.06 < float((batch.negative_target[:, 0] == batch.target).double().mean()) < 0.14


def test_a_batch_says_nothing_of_its_samples_draws(digits, trainer):
    seen = []

    def draw(image, *, generator):
        seen.append(generator.uniform())
        return image

    trainer().fit(IntFFModule([DenseUnit([5])]), digits(batch_size=100, augmentation=draw))
    first = seen[0] if len(seen[0]) == 100 else seen[1]
    assert 0.4 < float(first.mean()) < 0.6
    assert 0.25 < float(first.std()) < 0.33  # of a uniform draw 0.289
