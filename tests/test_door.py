"""One door for data: what samples and batches may be, what becomes of them, and what is refused by name."""

import inspect

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.tuner import Tuner
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from intff_lightning import BackpropModule, DenseUnit, IntFFModule, PairedBatch
from intff_lightning.augmentations import HorizontalFlip, RandomAffine, RandomShift
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.callbacks.predictions import PredictionWriter
from intff_lightning.datamodules import DigitsDataModule, InMemoryDataset, MNISTDataModule, PairedDataModule
from intff_lightning.draws import Draws, sample_numbers
from intff_lightning.errors import ConfigurationError, DataError, DivergenceError, IntFFError
from intff_lightning.local import ChannelGoodness, NoNormalization
from intff_lightning.pairs import image_and_target, images_to_predict
from intff_lightning.samples import Reader, checked

N, CLASSES = 6, 3
Y = torch.arange(N) % CLASSES
X = torch.rand(N, 1, 4, 5, generator=torch.Generator().manual_seed(0))


class Samples(Dataset):
    """A map-style data set of any samples."""

    num_classes = CLASSES

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class Loaders(L.LightningDataModule):
    """A datamodule with the loaders that it is given."""

    num_classes = CLASSES

    def __init__(self, **loaders):
        super().__init__()
        self.loaders = loaders


def _wrap(**loaders):
    """A datamodule that defines just these loaders."""
    methods = {f"{part}_dataloader": lambda self, part=part: self.loaders[part] for part in loaders}
    return type("Foreign", (Loaders,), methods)(**loaders)


class Watch(IntFFModule):
    """Keeps what its steps are given."""

    def training_step(self, batch, batch_idx):
        self.batch = batch
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.batch = batch
        return super().validation_step(batch, batch_idx)

    def begin(self, batch):
        passage = super().begin(batch)
        self.paired = passage.batch
        return passage

    def predict_step(self, batch, batch_idx):
        self.batch = batch
        return super().predict_step(batch, batch_idx)


def _by_class():
    return Watch([DenseUnit([6], goodness=ChannelGoodness())], input_shape=[1, 4, 5], num_classes=CLASSES)


# -------------------------------------------------------------------- any kind of data, by every route

IMAGES = {
    "float32": (lambda x: x, lambda x: x),
    "float64": (lambda x: x.double(), lambda x: x),
    "float16": (lambda x: x.half(), lambda x: x.half().float()),
    "bfloat16": (lambda x: x.bfloat16(), lambda x: x.bfloat16().float()),
    "uint8": (lambda x: (x * 255).byte(), lambda x: torch.tensor((x * 255).byte().numpy() / np.float32(255))),
    "bool": (lambda x: x > 0.5, lambda x: (x > 0.5).float()),
    "grid": (lambda x: (x * 16).long(), None),  # 0..15: nothing tells the range
    "int32": (lambda x: (x * 4095).int(), None),
    "int8": (lambda x: (x * 100).to(torch.int8), None),
    "uint16": (lambda x: (x * 4095).to(torch.uint16), None),
    "complex": (lambda x: x * 1j, None),
    "NaN": (lambda x: torch.where(x == x[2, 0, 1, 1], torch.nan, x), None),
    "infinite": (lambda x: torch.where(x == x[2, 0, 1, 1], torch.inf, x).double(), None),
    "too large for float32": (lambda x: x.double() * 1e300, None),
}
"""Images by dtype, and the float32 images that they mean, or None if they are refused."""

LABELS = {
    "int64": (lambda y: y, True),
    "int32": (lambda y: y.int(), True),
    "uint8": (lambda y: y.byte(), True),
    "column": (lambda y: y[:, None], True),
    "from one": (lambda y: y + 1, False),
    "unknown": (lambda y: torch.where(torch.arange(len(y)) == 1, -100, y), False),
    "one-hot": (lambda y: torch.nn.functional.one_hot(y, CLASSES), False),
    "float": (lambda y: y.float(), False),
    "pairs": (lambda y: torch.stack([y, y], 1), False),
    "too few": (lambda y: y[:-1], False),
}
"""Labels by kind, and whether they are taken."""

CONTAINERS = {
    "pair": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "weights": lambda x, y: (x, y, 1.0),
    "usual keys": lambda x, y: {"image": x, "label": y},
    "other usual keys": lambda x, y: {"img": x, "target": y, "id": 7},
    "unknown keys": lambda x, y: {"picture": x, "kind": y},
    "ambiguous keys": lambda x, y: {"image": x, "img": x, "label": y},
    "image alone": lambda x, y: x,
}
"""Containers of an image and its label."""

ROUTES = ("tensors", "samples", "wrapped", "hooks", "by class", "predict")


def _feed(trainer, route, images, labels, container, form):
    """Give the data to a module by a route; return the images and targets that reach its network."""
    wrap = CONTAINERS[container]
    formed = {"tensor": lambda t: t, "numpy": lambda t: t.numpy()}[form]
    if route in ("tensors", "samples"):
        if route == "tensors":
            data = TensorDataset(images, labels)
        else:
            data = Samples([wrap(formed(image), formed(label)) for image, label in zip(images, labels, strict=True)])
        module = Watch([DenseUnit([4])])
        data = PairedDataModule(val=data, batch_size=N, num_classes=CLASSES)
        trainer.validate(module, data, verbose=False)
        return module.batch.image, module.batch.target
    loader = DataLoader([wrap(formed(images), formed(labels))], batch_size=None, collate_fn=lambda batch: batch)
    if route == "by class":
        module = _by_class()
        trainer.fit(module, loader)
        return module.paired.image, module.paired.target
    module = Watch([DenseUnit([4])], input_shape=images.shape[1:], num_classes=CLASSES)
    if route == "predict":
        trainer.predict(module, PairedDataModule(_wrap(predict=loader)))
        return module.batch, Y
    foreign = _wrap(train=loader)
    if route == "hooks":
        type(foreign).on_after_batch_transfer = lambda self, batch, dataloader_idx: batch
    trainer.fit(module, PairedDataModule(foreign))
    return module.batch.image, module.batch.target


def _expected(route, images, labels, container, form):
    """Return the images that reach the network, or None if the data is refused."""
    meaning = IMAGES[images][1]
    labelled = route != "predict"
    names = container in ("unknown keys", "ambiguous keys") or (container == "image alone" and labelled)
    if meaning is None or (labelled and not LABELS[labels][1]) or (names and route != "tensors"):
        return None
    return meaning(X)


@st.composite
def _data(draw):
    route = draw(st.sampled_from(ROUTES))
    # half of the draws are data that is taken, as far as this dimension is concerned
    images = draw(st.sampled_from([name for name in IMAGES if IMAGES[name][1]]) | st.sampled_from(sorted(IMAGES)))
    labels = draw(st.sampled_from([name for name in LABELS if LABELS[name][1]]) | st.sampled_from(sorted(LABELS)))
    container = draw(st.sampled_from(["pair", "weights", "usual keys"]) | st.sampled_from(sorted(CONTAINERS)))
    form = "tensor" if images == "bfloat16" or route == "tensors" else draw(st.sampled_from(["tensor", "numpy"]))
    if labels == "too few" and route in ("tensors", "samples"):
        labels = "float"  # torch's own data sets refuse it
    return route, images, labels, container, form


@pytest.mark.slow
def test_any_data_by_any_route_is_taken_as_it_is_meant_or_refused(trainer, caplog):
    seen, taken = set(), 0

    @settings(max_examples=320, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(_data())
    def run(case):
        nonlocal taken
        route, images, labels, container, form = case
        seen.add(case)
        expected = _expected(*case)
        given_images, given_labels = IMAGES[images][0](X), LABELS[labels][0](Y)
        before = given_images.clone()
        one_step = {"max_steps": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
        feed = (trainer(**one_step), route, given_images, given_labels, container, form)
        if expected is None:
            with pytest.raises(IntFFError) as refusal:
                _feed(*feed)
            assert 1 <= len(str(refusal.value).splitlines()) <= 4
            assert len(str(refusal.value)) < 400
        else:
            found = _feed(*feed)
            taken += 1
            assert found[0].dtype == torch.float32
            assert torch.equal(found[0], expected)
            assert found[1].dtype == torch.int64
            assert torch.equal(found[1], Y)
        assert torch.equal(torch.nan_to_num(before), torch.nan_to_num(given_images))  # nothing is changed in place

    run()
    assert len(seen) >= 300
    assert 80 < taken < 240


# -------------------------------------------------------------------- single kinds


def _own(dataset, **options):
    """The image and targets of the first batch of a data set, without a Trainer."""
    data = PairedDataModule(train=dataset, val_size=0, batch_size=N, **{"num_classes": CLASSES, **options})
    image, target, index = next(iter(data.train_dataloader()))
    order = index.argsort()
    return data.pair(image, target, index, training=False).image[order], target[order]


def test_pil_images():
    grey = [Image.fromarray((x[0].numpy() * 255).astype(np.uint8)) for x in X]
    image, target = _own(Samples(list(zip(grey, Y.tolist(), strict=True))))
    assert torch.equal(image, torch.tensor((X * 255).byte().numpy() / np.float32(255)))
    assert torch.equal(target, Y)
    colour, _ = _own(Samples([(picture.convert("RGB"), 0) for picture in grey]))
    assert torch.equal(colour, image.expand(-1, 3, -1, -1))
    black_and_white, _ = _own(Samples([(picture.point(lambda p: 255 * (p > 127), "1"), 0) for picture in grey]))
    assert torch.equal(black_and_white, ((X * 255).byte() > 127).float())
    with pytest.raises(DataError, match="colours from a palette"):
        _own(Samples([(picture.convert("P"), 0) for picture in grey]))
    deep = Samples([(Image.fromarray((x[0].numpy() * 60000).astype(np.uint16)), 0) for x in X])
    with pytest.raises(DataError, match=r"uint16, and nothing tells their range. Give it: PairedDataModule"):
        _own(deep)
    assert (_own(deep, pixel_range=[0, 60000])[0] - X).abs().max() < 2e-5


def test_arrays_of_other_byte_orders_and_read_only_ones():
    other = X.numpy().astype(">f4")
    other.setflags(write=False)
    image, target = _own(Samples(list(zip(other, Y.numpy().astype(">i2"), strict=True))))
    assert torch.equal(image, X)
    assert torch.equal(target, Y)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("make", [TensorDataset, InMemoryDataset, lambda x, y: Samples(list(zip(x, y, strict=True)))])
def test_a_range_of_pixels_that_is_told(dtype, make):
    pixels = (X * 16).round().to(dtype)
    image, _ = _own(make(pixels, Y), pixel_range=[0, 16])
    assert torch.equal(image, (X * 16).round() / 16)
    if dtype != torch.float32:
        with pytest.raises(DataError, match=r"a pixel is \d+, and pixel_range=\[0, 15\]"):
            _own(make(pixels, Y), pixel_range=[0, 15])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(X[0], 0), (X[1, :, :3], 1)], "image 1 of a batch is torch.float32 of shape .1, 3, 5., and the first one"),
        ([(X[0], "cat")], "a label is the text 'cat'"),
        ([(X[0], None)], "a label is NoneType"),
        ([(X[0], 0.5)], "a label is float"),
        ([(torch.tensor(1.0), 0)], "an image is a single number"),
        ([([0.1, 0.2], 0)], "it holds list of length 2"),
        ([(np.array(["a"]), 0)], "an array is of <U1"),
        ([X[0]], r"\(image, target\) is needed, and it gives torch.float32 of shape"),
        ([(X[0],)], r"\(image, target\) is needed, and it gives tuple of length 1"),
        ([(X[0].to_sparse(), 0)], "a dense tensor"),
    ],
)
def test_samples_that_cannot_be(samples, message):
    with pytest.raises(DataError, match=f"(?i){message}"):
        _own(Samples(samples))


def test_keys():
    samples = Samples([{"picture": x, "kind": y, "image": 0, "label": 0} for x, y in zip(X, Y, strict=True)])
    image, target = _own(samples, keys=["picture", "kind"])
    assert torch.equal(image, X)
    assert torch.equal(target, Y)
    with pytest.raises(ConfigurationError, match=r"which entry is the image\? The dictionary has 'a', 'b'"):
        _own(Samples([{"a": X[0], "b": 0}]))
    with pytest.raises(ConfigurationError, match="which entry is the label"):
        _own(samples, keys=["picture", "nothing"])
    for dataset in (Samples([(X[0], 0)]), TensorDataset(X, Y), InMemoryDataset(X, Y)):
        with pytest.raises(ConfigurationError, match=r"keys=.*has no effect"):
            _own(dataset, keys=["a", "b"])
    with pytest.raises(ConfigurationError, match="two names"):
        PairedDataModule(keys=["image"])


def test_an_error_in_a_worker_is_the_same_message(trainer):
    class Damaged(Samples):
        def __getitem__(self, index):
            raise DataError("file 3 is damaged: remove it.")

    for dataset, message in (
        (Damaged([0] * N), "file 3 is damaged: remove it."),
        (
            Samples([(X[0], 7)] * N),
            "a batch of PairedDataModule: sample 0 has the label 7, and labels must be 0 to 2 (6 of 6 are not). "
            "Correct the labels, or num_classes.",
        ),
    ):
        data = PairedDataModule(train=dataset, val_size=0, num_workers=1)
        with pytest.raises(DataError) as error:
            next(iter(data.train_dataloader()))
        assert str(error.value) == message


def test_a_tensor_data_set_of_a_class_of_its_own_keeps_its_samples():
    class Doubled(TensorDataset):
        num_classes = CLASSES

        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image * 0.5, target

    assert torch.equal(_own(Doubled(X, Y))[0], X * 0.5)


@pytest.mark.parametrize("name", ["bool", "uint8"])
def test_accuracy_does_not_depend_on_how_pixels_are_stored(name, trainer):
    digits = DigitsDataModule().dataset("train")
    stored = {"bool": digits.image > 0.5, "uint8": (digits.image * 255).byte()}[name]
    floats = {"bool": (digits.image > 0.5).float(), "uint8": (digits.image * 255).byte().float() / 255}[name]
    accuracy = []
    for image in (stored, floats):
        torch.manual_seed(0)
        run = trainer(max_epochs=2, callbacks=[GoodnessAccuracy()], num_sanity_val_steps=0)
        module = BackpropModule(DenseUnit([60], normalization=NoNormalization()))
        run.fit(module, PairedDataModule(train=TensorDataset(image, digits.target), batch_size=32))
        accuracy.append(float(run.callback_metrics["val/accuracy"]))
    assert accuracy[0] == accuracy[1] > 0.5


def test_plain_batches_are_read_for_the_module_that_takes_them():
    module = _by_class().double()
    image, target = image_and_target({"x": X.numpy(), "y": Y.tolist()}, module, CLASSES)
    assert image.dtype == torch.float64
    assert torch.equal(image, X.double())
    assert torch.equal(target, Y)
    unknown = [X, torch.full((N,), -100)]
    assert torch.equal(image_and_target(unknown)[1], unknown[1])  # callbacks: the step has checked it
    for module in (_by_class(), BackpropModule(DenseUnit([4]), input_shape=[1, 4, 5], num_classes=CLASSES)):
        with pytest.raises(DataError, match="has the label -100"):
            module.training_step(unknown, 0)
        with pytest.raises(DataError, match="begins with a single PIL image"):
            module.training_step([Image.new("L", (5, 4)), 0], 0)
        with pytest.raises(DataError, match=r"\(image, target\) is needed"):
            module.training_step(X, 0)
        with pytest.raises(DataError, match=r"shape \(\) for 6 images"):
            module.training_step([X, torch.tensor(1)], 0)


def test_on_an_accelerator_labels_out_of_range_end_in_nan():
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    target = torch.tensor([0, -100, 3, 2, 1, 0])
    image, safe = checked(X.as_subclass(Elsewhere), target, CLASSES, "a batch", wait=False)
    assert image.as_subclass(torch.Tensor).isnan().flatten(1).all(1).tolist() == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert safe.tolist() == [0, 0, 0, 2, 1, 0]
    with pytest.raises(DataError, match="label -100"):
        checked(X.as_subclass(Elsewhere), target, CLASSES, "a batch", wait=True)


# -------------------------------------------------------------------- classes


def test_a_class_that_only_validation_data_has():
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    data = PairedDataModule(train=TensorDataset(X, y), val=TensorDataset(X, y + 1))
    assert data.num_classes == 3
    last = torch.tensor([0, 0, 0, 0, 0, 4])
    for seed in range(3):  # wherever the last class comes to lie
        with pytest.warns(UserWarning, match=r"5 classes were counted, and no sample has the label 1 \(3 labels are"):
            assert PairedDataModule(train=TensorDataset(X, last), val_size=2, val_seed=seed).num_classes == 5
    assert PairedDataModule(train=TensorDataset(X, last), num_classes=5).num_classes == 5  # and nothing is warned of


def test_a_class_that_only_test_data_has_is_refused_by_name(trainer):
    data = PairedDataModule(train=TensorDataset(X, Y % 2), val_size=2, test=TensorDataset(X, Y))
    module, run = IntFFModule([DenseUnit([4])]), trainer(max_steps=1)
    run.fit(module, data)
    with pytest.raises(DataError, match="test data: sample 2 has the label 2, and labels must be 0 to 1"):
        run.test(module, data)
    data = PairedDataModule(train=TensorDataset(X, Y % 2), test=TensorDataset(X, Y), val_size=0, num_classes=3)
    run.fit(IntFFModule([DenseUnit([4])]), data)
    run.test(datamodule=data, model=IntFFModule([DenseUnit([4])]), verbose=False)


def test_a_module_that_was_built_for_more_classes_than_occur(trainer):
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=5)
    data = PairedDataModule(train=TensorDataset(X, Y), val_size=0)
    trainer(max_steps=1).fit(module, data)
    assert data.num_classes == 5
    with pytest.raises(ConfigurationError, match="built for num_classes=2, and the data has 3"):
        trainer().fit(
            IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=2),
            PairedDataModule(train=TensorDataset(X, Y), val_size=0),
        )


# -------------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 256}, "batch_size=256"),
        ({"batch_size": 128}, "batch_size=128"),  # the default, and yet it was asked for
        ({"train": TensorDataset(X, Y)}, "train"),
        ({"val": TensorDataset(X, Y)}, "val"),
        ({"test": TensorDataset(X, Y)}, "test"),
        ({"predict": TensorDataset(X, Y)}, "predict"),
        ({"val_size": 0.2}, "val_size=0.2"),
        ({"val_size": 0}, "val_size=0"),
        ({"val_seed": 3}, "val_seed=3"),
        ({"num_workers": 2}, "num_workers=2"),
    ],
)
def test_options_beside_a_datamodule(options, name):
    with pytest.raises(ConfigurationError, match=f"{name} has no effect: Foreign has its own data and loaders"):
        PairedDataModule(_wrap(), **options)


def test_the_command_lines_defaults_beside_a_datamodule_are_not_asked_for():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(PairedDataModule).parameters.items()
        if name != "datamodule"
    }
    data = PairedDataModule(_wrap(), **defaults)
    assert not {"batch_size", "val_size", "val_seed", "num_workers", "train"} & data.hparams.keys()
    with pytest.raises(ConfigurationError, match="batch_size=64 has no effect"):
        PairedDataModule(_wrap(), **{**defaults, "batch_size": 64})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: PairedDataModule(train=d, val=d, val_size=3), "val_size=3 has no effect: val= gives"),
        (lambda d: PairedDataModule(train=d, val=d, val_seed=3), "val_seed=3 has no effect"),
        (lambda d: PairedDataModule(test=d, val_size=0.5), "val_size=0.5 has no effect: there is no training data"),
        (lambda d: DigitsDataModule(train=d), "train has no effect: DigitsDataModule reads its own data"),
        (lambda d: DigitsDataModule(datamodule=_wrap()), "datamodule has no effect: DigitsDataModule"),
        (lambda d: MNISTDataModule(val_seed=1), "val_seed=1 has no effect: the last training images"),
        (lambda d: MNISTDataModule(train_size=0), "train_size=0"),
        (lambda d: MNISTDataModule(pad=-1), "pad=-1"),
        (lambda d: PairedDataModule(val_size=1.5), "val_size=1.5"),
        (lambda d: PairedDataModule(val_size=float("nan")), "val_size=nan"),
        (lambda d: PairedDataModule(num_workers=-1), "num_workers=-1"),
        (lambda d: PairedDataModule(pixel_range=[1, 0]), "pixel_range=.1, 0."),
        (lambda d: PairedDataModule(train=DataLoader(d)), "train is of type DataLoader, and a map-style"),
        (lambda d: PairedDataModule(val=Stream()), "val is of type Stream, and a map-style"),
        (lambda d: PairedDataModule(train=[DataLoader(d)]), "train is a list of loaders"),
        (lambda d: PairedDataModule(train={"a": DataLoader(d)}), "train is of type dict"),
        (lambda d: PairedDataModule(train=(X, Y)), "train is of type tuple"),
        (lambda d: PairedDataModule(train=X), "train is of type Tensor"),
        (lambda d: PairedDataModule(train=_wrap()), "train is of type Foreign"),
    ],
)
def test_options_that_cannot_be(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make(TensorDataset(X, Y))


class Stream(IterableDataset):
    """Samples without numbers."""

    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


@pytest.mark.slow
def test_the_batch_size_finder_sets_what_loaders_use(trainer):
    sizes = []

    class Note(IntFFModule):
        def training_step(self, batch, batch_idx):
            sizes.append(len(batch.target))
            return super().training_step(batch, batch_idx)

    data = PairedDataModule(train=TensorDataset(X.repeat(20, 1, 1, 1), Y.repeat(20)), val_size=0, batch_size=8)
    found = Tuner(trainer()).scale_batch_size(Note([DenseUnit([4])]), datamodule=data, max_trials=3, steps_per_trial=1)
    assert found == data.batch_size == 8
    assert sizes == [8, 4, 8]  # Lightning takes the loader that there is for its first trial

    class Sized(L.LightningDataModule):
        num_classes = CLASSES

        def __init__(self):
            super().__init__()
            self.batch_size = 4

        def train_dataloader(self):
            return DataLoader(ConcatDataset([TensorDataset(X, Y)] * 20), batch_size=self.batch_size)

    sizes.clear()
    wrapped = PairedDataModule(Sized())
    Tuner(trainer()).scale_batch_size(Note([DenseUnit([4])]), datamodule=wrapped, max_trials=3, steps_per_trial=1)
    assert sizes == [4, 4, 8]
    assert wrapped.batch_size == wrapped.inner.batch_size == 8

    class InHparams(L.LightningDataModule):
        def __init__(self, batch_size=4):
            super().__init__()
            self.save_hyperparameters()

    wrapped = PairedDataModule(InHparams())
    assert wrapped.batch_size == 4
    wrapped.batch_size = 5
    assert wrapped.inner.hparams["batch_size"] == 5
    fixed = PairedDataModule(_wrap(train=DataLoader(TensorDataset(X, Y), batch_size=2)))
    with pytest.raises(ConfigurationError, match="Foreign has no batch_size: its loaders set the size of batches"):
        Tuner(trainer()).scale_batch_size(Note([DenseUnit([4])]), datamodule=fixed)


# -------------------------------------------------------------------- stages and loaders


def _loader(size=N):
    return DataLoader(TensorDataset(X[:size], Y[:size]), batch_size=3)


@pytest.mark.parametrize("loader", ["none", None, [], "empty"])
@pytest.mark.parametrize(("part", "stage"), [("train", "fit"), ("val", "validate"), ("test", "test"), ("predict",) * 2])
def test_a_stage_without_data_is_refused(part, stage, loader, trainer):
    other = "train" if part != "train" else "test"
    loaders = {other: _loader()} if loader == "none" else {part: _loader(0) if loader == "empty" else loader}
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=CLASSES)
    data = PairedDataModule(_wrap(**loaders))
    with pytest.raises(ConfigurationError, match=f"there is no {part} data: {part}_dataloader of Foreign"):
        getattr(trainer(), stage)(module, datamodule=data)
    assert data.has_data(part) == (loader != "none")
    data = PairedDataModule(**{other: TensorDataset(X, Y)}, **({} if part == "train" else {"val_size": 0}))
    assert not data.has_data(part)
    with pytest.raises(ConfigurationError, match=f"there is no {part} data: PairedDataModule"):
        getattr(trainer(), stage)(IntFFModule([DenseUnit([4])]), datamodule=data)


def test_training_without_validation_data(trainer):
    for loaders in ({}, {"val": []}, {"val": None}):
        run = trainer()
        run.fit(IntFFModule([DenseUnit([4])]), PairedDataModule(_wrap(train=_loader(), **loaders)))
        assert run.global_step == 2


class Staged(L.LightningDataModule):
    """Each stage makes what it needs."""

    num_classes = CLASSES

    def setup(self, stage):
        if stage == "fit":
            self.train = TensorDataset(X, Y)
        if stage == "validate":
            self.val = TensorDataset(X, Y)
        if stage == "test":
            self.test = TensorDataset(X, Y)
        if stage == "predict":
            self.predict = TensorDataset(X, Y)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=3)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=3)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=3)

    def predict_dataloader(self):
        return DataLoader(self.predict, batch_size=3)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("told", [True, False])
def test_a_stage_alone(stage, told, trainer, monkeypatch):
    if not told:  # the network knows
        monkeypatch.delattr(Staged, "num_classes")
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=CLASSES)
    assert len(getattr(trainer(), stage)(module, datamodule=PairedDataModule(Staged()))) in (1, 2)


@pytest.mark.parametrize("several", [lambda a: [a, a], lambda a: (a, a), lambda a: {"a": a, "b": a}])
def test_several_loaders_are_for_prediction(several, trainer):
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=CLASSES)
    for part, stage in (("train", "fit"), ("val", "validate"), ("test", "test")):
        data = PairedDataModule(_wrap(**{part: several(_loader())}))
        with pytest.raises(
            ConfigurationError, match=rf"(?s){part}_dataloader of Foreign gives 2 loaders.*ConcatDataset"
        ):
            getattr(trainer(), stage)(module, datamodule=data)
    made = trainer().predict(module, datamodule=PairedDataModule(_wrap(predict=several(_loader()))))
    assert [len(batches) for batches in made] == [2, 2]


@pytest.mark.parametrize("one", [lambda a: [a], lambda a: {"a": a}])
def test_a_collection_of_one_loader_is_that_loader(one, trainer):
    run, module = trainer(), Watch([DenseUnit([4])])
    run.fit(module, PairedDataModule(_wrap(train=one(_loader()), val=one(_loader()))))
    assert run.global_step == 2
    assert isinstance(module.batch, PairedBatch)


def test_streams_train_and_predict(trainer, tmp_path):
    stream = DataLoader(Stream(), batch_size=4)
    module, writer = IntFFModule([DenseUnit([4])]), PredictionWriter("predictions.csv")
    run = trainer(callbacks=[writer])
    run.fit(module, PairedDataModule(_wrap(train=stream)))
    with pytest.warns(UserWarning, match="Couldn't infer the batch indices"):
        scores = torch.cat(run.predict(module, PairedDataModule(_wrap(predict=stream))))
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "index,label,score_0,score_1,score_2"
    assert [row.split(",")[:2] for row in rows[1:]] == [[str(k), str(int(s.argmax()))] for k, s in enumerate(scores)]


def test_predictions_of_several_loaders_and_of_diverged_weights(trainer, tmp_path):
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=CLASSES)
    data = PairedDataModule(_wrap(predict=[_loader(2), _loader(1)]))
    trainer(callbacks=[PredictionWriter("predictions.csv")]).predict(module, data)
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("loader,index,label,")
    assert [row.split(",")[:2] for row in rows[1:]] == [["0", "0"], ["0", "1"], ["1", "0"]]
    module = BackpropModule(DenseUnit([4]), input_shape=[1, 4, 5], num_classes=CLASSES)
    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="the scores of 2 of the 2 images in batch 0 are not finite"):
        trainer(callbacks=[PredictionWriter("predictions.csv")]).predict(module, data)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == rows


@pytest.mark.parametrize("images", [TensorDataset(X), Samples(list(X)), Samples([(x,) for x in X]), list(X.numpy())])
def test_images_to_predict_need_no_labels(images, trainer):
    module = IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=CLASSES)
    scores = torch.cat(trainer().predict(module, PairedDataModule(predict=images, num_classes=CLASSES, batch_size=4)))
    with torch.no_grad():
        assert torch.allclose(scores, module.eval()(X))


def test_a_datamodule_whose_first_batch_fails_is_named(trainer):
    pictures = DataLoader(Samples([(Image.new("L", (5, 4)), 0)] * 4))
    with pytest.raises(DataError, match=r"Foreign: its train_dataloader gives no batch to look at: default_collate"):
        trainer().fit(IntFFModule([DenseUnit([4])]), PairedDataModule(_wrap(train=pictures)))
    empty = DataLoader(type("Nothing", (Stream,), {"__iter__": lambda self: iter(())})())
    with pytest.raises(DataError, match="Foreign: its train_dataloader gives no batch"):
        trainer().fit(IntFFModule([DenseUnit([4])]), PairedDataModule(_wrap(train=empty)))


def test_batches_that_are_paired_already(trainer, batches):
    with pytest.raises(ConfigurationError, match="Foreign gives paired batches already"):
        trainer().fit(
            IntFFModule([DenseUnit([4])], input_shape=[1, 4, 5], num_classes=3),
            PairedDataModule(_wrap(train=batches())),
        )


# -------------------------------------------------------------------- draws, and random transforms


def test_numbers_are_distinct_over_ranks_batches_and_loaders():
    cases = [
        (batch, rank, loader)
        for batch in (0, 1, 2**27 - 1)
        for rank in (0, 1, 7, 8, 255, 65535)
        for loader in (0, 1, 300, 10**6)
    ]
    numbers = torch.cat([sample_numbers(50, *case) for case in cases])
    assert len(numbers.unique()) == len(numbers)
    assert sample_numbers(3, 2).tolist() == [2 << 20, (2 << 20) + 1, (2 << 20) + 2]
    assert len(Draws(0, 0, numbers).bits().unique()) == len(numbers)


@pytest.mark.parametrize("rank", [0, 8, 65535])
def test_any_rank_draws_negatives(rank, trainer, monkeypatch):
    run = trainer(max_steps=1)
    data = PairedDataModule(_wrap(train=_loader()))
    run.fit(IntFFModule([DenseUnit([4])]), data)
    monkeypatch.setattr(type(run), "global_rank", rank)
    run.training = True
    batch = data.on_after_batch_transfer(data.on_before_batch_transfer([X, Y], 300), 300)
    assert bool((batch.negative_target != Y[:, None]).all())


def test_validation_samples_of_a_training_set_with_random_transforms(trainer):
    class Noisy(Samples):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image.flip(-1) if torch.rand(()) < 0.5 else image, target

    samples = list(zip(X, Y.tolist(), strict=True))
    state = torch.get_rng_state()
    data = PairedDataModule(train=Noisy(samples), val_size=3)
    with pytest.warns(UserWarning, match="3 validation samples are divided off the training data, whose transforms"):
        data.setup("fit")
    assert torch.equal(torch.get_rng_state(), state)
    data.setup("fit")  # said once: another warning would be an error here
    PairedDataModule(train=Samples(samples), val_size=3).setup("fit")
    PairedDataModule(train=Noisy(samples), val=Samples(samples)).setup("fit")


def test_what_a_reader_gives_is_collated_as_torch_does():
    images, _ = Reader("data").samples([(x, 0) for x in X])
    assert torch.equal(images, default_collate(list(X)))


@pytest.mark.parametrize("batch", [X, [X], (X, "no label"), {"x": X}, [list(X)], X.numpy(), (X * 255).byte()])
def test_plain_batches_to_predict(batch):
    image = images_to_predict(batch, _by_class())
    assert image.dtype == torch.float32
    assert torch.allclose(image, X, atol=1 / 255)
    with pytest.raises(DataError, match="a batch to predict: sample 0 has NaN"):
        images_to_predict(torch.full((2, 1, 4, 5), torch.nan), _by_class())
    with pytest.raises(DataError, match="it gives 6 tensors of one shape"):
        images_to_predict(list(X), _by_class())


@pytest.mark.parametrize("augmentation", [RandomShift(1), RandomAffine(), HorizontalFlip()])
def test_augmentations_need_rows_and_columns(augmentation):
    draws = Draws(0, 0, torch.arange(N))
    with pytest.raises(ConfigurationError, match=rf"{type(augmentation).__name__} needs images \(C, H, W\), not .*20"):
        augmentation(X.flatten(1), generator=draws)
    half = augmentation(X.half(), generator=draws)
    assert half.dtype == torch.float16
    exact = augmentation(X.half().float(), generator=Draws(0, 0, torch.arange(N)))
    again = augmentation(X.half(), generator=Draws(0, 0, torch.arange(N)))
    assert torch.equal(again, exact.half())
