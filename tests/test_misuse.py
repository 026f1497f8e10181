"""Runs that cannot mean what they say, and objects that are copied, cast or asked too early."""

import copy
import functools
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateFinder, ModelPruning
from torch.optim import SGD
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.callbacks import LastCheckpoint
from intff_lightning.datamodules import DigitsDataModule, ImageFolderDataModule, PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.local import ChannelGoodness
from intff_lightning.optim import CosineDecay

N, CLASSES = 12, 3
X = torch.rand(N, 1, 4, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES
DATA = TensorDataset(X, Y)
SIZES = {"input_shape": [1, 4, 5], "num_classes": CLASSES}


def _module(**options):
    return IntFFModule([DenseUnit([7, 6]), DenseUnit([5])], **options)


def _data(**options):
    return PairedDataModule(**{"train": DATA, "val_size": 3, "batch_size": 4, **options})


def _plain(**loaders):
    """A datamodule with these loaders, which nobody wraps."""
    methods = {f"{part}_dataloader": lambda self, loader=loader: loader for part, loader in loaders.items()}
    return type("Foreign", (L.LightningDataModule,), methods)()


# -------------------------------------------------------------------- flags and callbacks


@pytest.mark.parametrize("make", [_module, lambda: BackpropModule(DenseUnit([5]))])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": -1.0}, "gradient_clip_val=-1.0: a number of 0 or more"),
        ({"gradient_clip_val": float("nan")}, "gradient_clip_val=nan"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0: give 1 or more"),
        ({"callbacks": [LearningRateFinder()]}, "the learning-rate finder looks for one learning rate"),
    ],
)
def test_flags_that_cannot_work(make, options, message, trainer):
    with pytest.raises(ConfigurationError, match=message):
        trainer(**options).fit(make(), _data())


def test_a_schedule_of_accumulation_needs_automatic_optimization(trainer):
    callback = GradientAccumulationScheduler({0: 2})
    with pytest.raises(ConfigurationError, match="GradientAccumulationScheduler needs automatic optimization"):
        trainer(callbacks=[callback]).fit(_module(), _data())


def test_pruning_finds_layers_that_are_made_for_the_data(trainer):
    module = _module()
    trainer(callbacks=[ModelPruning("l1_unstructured", amount=0.5)], max_epochs=2).fit(module, _data())
    pruned = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruned)
    assert zeros >= 0.4 * sum(layer.weight.numel() for layer in pruned)


def test_overfit_batches_resumes_to_the_same_bits(trainer):
    def run(epochs, path=None):
        torch.manual_seed(0)
        module, last = _module(**SIZES), LastCheckpoint()
        run = trainer(overfit_batches=2, max_epochs=epochs, callbacks=[last], enable_checkpointing=True)
        run.fit(module, _data(), ckpt_path=path)
        return module.state_dict(), last.best_model_path

    whole, _ = run(4)
    _, path = run(2)
    resumed, _ = run(4, path)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


# -------------------------------------------------------------------- training data without a batch, or of two loaders


class Stream(IterableDataset):
    """Pairs from an iterator that is made once, so that it is at its end in the second epoch."""

    def __init__(self, count):
        self.samples = iter([(X[i], int(Y[i])) for i in range(count)])

    def __iter__(self):
        return self.samples


@pytest.mark.parametrize(
    ("loader", "epoch"),
    [
        (lambda: DataLoader(Stream(0), batch_size=4), 0),
        (lambda: DataLoader(Stream(8), batch_size=4), 1),
        (lambda: DataLoader(DATA, batch_size=100, drop_last=True), 0),
    ],
)
@pytest.mark.filterwarnings("ignore:Total length of")
def test_training_data_that_give_no_batch(loader, epoch, trainer):
    by_class = _module(goodness=ChannelGoodness(), **SIZES)
    for module in (by_class, BackpropModule(DenseUnit([5]), **SIZES)):
        with pytest.raises(DataError, match=f"the training data gave no batch in epoch {epoch}"):
            trainer(max_epochs=3).fit(module, _plain(train=loader()))
    trainer(limit_train_batches=0).fit(by_class, _plain(train=loader()))  # nothing is asked for


@pytest.mark.parametrize("several", [lambda *loaders: list(loaders), lambda a, b: {"a": a, "b": b}])
def test_several_training_loaders_of_a_plain_datamodule(several, trainer):
    data = _plain(train=several(DataLoader(DATA, batch_size=4), DataLoader(DATA, batch_size=6)))
    for module in (_module(goodness=ChannelGoodness(), **SIZES), BackpropModule(DenseUnit([5]), **SIZES)):
        with pytest.raises(ConfigurationError, match=r"(?s)the training data are those of 2 loaders.*ConcatDataset"):
            trainer().fit(module, data)


def test_a_schedule_over_a_stream_needs_the_length_of_the_run(trainer):
    module = BackpropModule(DenseUnit([5]), scheduler=functools.partial(CosineDecay), **SIZES)
    with pytest.raises(ConfigurationError, match="CosineDecay needs the length of the run: set"):
        trainer(max_epochs=2).fit(module, _plain(train=DataLoader(Stream(8), batch_size=4)))


# -------------------------------------------------------------------- datamodules


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _data(val_size=0, val_seed=3), "val_seed=3 has no effect: val_size=0 draws no validation samples"),
        (lambda: ImageFolderDataModule("x", 8, val_size=0, val_seed=3), "val_seed=3 has no effect"),
        (lambda: _data(batch_size=4.0), "batch_size=4.0: an integer is needed"),
        (lambda: _data(batch_size="4"), "batch_size='4'"),
        (lambda: _data(batch_size=True), "batch_size=True"),
        (lambda: _data(seed=1.5), "seed=1.5"),
        (lambda: _data(val_seed=None), "val_seed=None"),
        (lambda: _data().setup("train"), "stage='train': choose from 'fit', 'validate', 'test', 'predict'"),
        (lambda: _data(train=TensorDataset(X, 0 * Y), val_size=0).pair(X, 0 * Y, Y, True), "the data has one class"),
    ],
)
def test_options_of_data_that_cannot_be(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_the_seed_of_digits_also_draws_test_samples():
    first, second = (DigitsDataModule(val_size=0, val_seed=seed).dataset("test").image for seed in (0, 1))
    assert not torch.equal(first, second)


def test_labels_that_begin_at_one_are_warned_of():
    with pytest.warns(UserWarning, match=r"4 classes were counted, and no sample has the label 0 \(1 labels are"):
        assert _data(train=TensorDataset(X, Y + 1)).num_classes == 4


@pytest.mark.parametrize(("shape", "count"), [((8, 9, 3), 1), ((3, 8, 9), 0), ((1, 8, 3), 0), ((8, 9), 0)])
def test_channels_last_are_warned_of(shape, count, recwarn):
    assert _data(train=TensorDataset(torch.rand(N, *shape), Y)).input_shape == shape
    assert [str(warning.message)[:14] for warning in recwarn] == ["an image has s"] * count


def test_a_datamodule_serves_one_trainer_at_a_time(trainer):
    data, refused = _data(), []

    class Second(L.Callback):
        def on_train_batch_end(self, *_):
            if not refused:
                with pytest.raises(ConfigurationError, match="in use by another Trainer, which still runs"):
                    trainer().fit(_module(), data)
                refused.append(True)

    def fit(data, *callbacks):
        torch.manual_seed(0)
        module = _module(**SIZES)
        trainer(max_epochs=2, callbacks=[*callbacks]).fit(module, data)
        return list(module.parameters())

    whole = fit(_data())
    assert all(map(torch.equal, fit(data, Second()), whole))  # the first run ends as if there were no second one
    assert refused
    assert all(map(torch.equal, fit(data), whole))  # one after the other


def test_datamodules_are_copied_and_pickled(trainer):
    data = _data()
    trainer().fit(_module(), data)
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other.inner.classes.args[0] is other  # not the first one
        run = trainer()
        run.fit(_module(), other)
        assert run.global_step == 2


# -------------------------------------------------------------------- networks


@pytest.mark.parametrize("units", [lambda: [DenseUnit([5])], lambda: [ConvUnit([3], kernel_size=3)]])
def test_a_network_without_layers_computes_nothing(units):
    module = IntFFModule(units())
    asks = [module, module.label_goodness, module.embed, module.goodness, module.positive_probability]
    for ask in [*asks, BackpropModule(units()[0]), BackpropModule(torch.nn.Flatten())]:
        with pytest.raises(ConfigurationError, match="are not made before it knows the data: give input_shape="):
            ask(X)


@pytest.mark.parametrize("images", [X.transpose(2, 3), X.flatten(1), X[0]])
def test_images_of_another_shape_in_a_plain_call(images):
    module = _module(**SIZES)
    for ask in (module, module.label_goodness, module.embed):
        with pytest.raises(DataError, match=r"have shape .*, and the network was built for \(1, 4, 5\)"):
            ask(images)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
@pytest.mark.parametrize("sizes", [SIZES, {}])
def test_a_network_is_cast_before_it_is_trained(cast, sizes, trainer):
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}[cast]
    sgd = functools.partial(SGD, lr=0.01)
    for module in (_module(optimizer=sgd, **sizes), BackpropModule(DenseUnit([5]), optimizer=sgd, **sizes)):
        trainer().fit(getattr(module, cast)(), _data())
        assert {parameter.dtype for parameter in module.parameters()} == {dtype, module.dtype}
        assert module(X.to(dtype)).shape == (N, CLASSES)


def test_shapes_on_the_meta_device():
    with torch.device("meta"):
        module = _module(**SIZES)
        assert module(torch.empty(2, 1, 4, 5)).shape == (2, CLASSES)
    assert _module(**SIZES).to("meta").embed(X.to("meta")).device.type == "meta"
