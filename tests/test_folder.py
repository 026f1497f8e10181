"""Image files in a folder per class."""

import functools
import os
import shutil

import numpy as np
import pytest
import torch
from lightning import LightningDataModule
from PIL import Image
from sklearn.datasets import load_digits

from intff_lightning import DenseUnit, HybridImages, IntFFModule
from intff_lightning.augmentations import HorizontalFlip
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import (
    ImageFolderDataModule,
    InMemoryDataset,
    OneClassDataModule,
    PairedDataModule,
    image_files,
)
from intff_lightning.datamodules.pictures import read_pictures
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.local import UnitL2

NAMES = ["zero", "one", "two", "three"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The first digits of four classes as grey 8x8 PNG files: 400 to train, 80 to validate and 80 to test."""
    folder = tmp_path_factory.mktemp("images")
    digits = load_digits()
    index = np.flatnonzero(digits.target < 4)[:560]
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    for part, chosen in (("train", index[:400]), ("val", index[400:480]), ("test", index[480:])):
        for k in chosen:
            path = folder / part / NAMES[digits.target[k]] / f"{k:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[k]).save(path)
    return folder


@pytest.fixture
def own(files, tmp_path):
    """A copy to change."""
    return shutil.copytree(files, tmp_path / "images")


def test_samples(files):
    data = ImageFolderDataModule(str(files), image_size=8, grey=True)
    assert [len(data.dataset(part)) for part in ("train", "val", "test", "predict")] == [400, 80, 80, 80]
    assert (data.input_shape, data.num_classes) == ((1, 8, 8), 4)
    train = data.dataset("train")
    assert train.classes == sorted(NAMES)
    for k in (0, 150, 399):
        path, target = train.samples[k]
        image, label = train[k]
        assert image.dtype == torch.uint8
        assert torch.equal(image[0], torch.as_tensor(np.array(Image.open(path))))  # of the same size: as it is
        assert label == target
        assert f"/{train.classes[label]}/" in path
    colour = ImageFolderDataModule(str(files), image_size=[6, 12]).dataset("train")[0][0]
    assert colour.shape == (3, 6, 12)
    assert torch.equal(colour[0], colour[2])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_cached_images_train_as_those_read_from_files(files, trainer, monkeypatch, workers):
    runs, reads = [], []
    read = image_files.read
    monkeypatch.setattr(image_files, "read", lambda path, **options: reads.append(path) or read(path, **options))
    for cache in (False, True):
        torch.manual_seed(0)
        module = IntFFModule([DenseUnit([20])], optimizer=functools.partial(torch.optim.SGD, lr=0.1))
        options = {"cache": cache, "num_workers": workers if cache else 0, "augmentation": HorizontalFlip(), "seed": 3}
        data = ImageFolderDataModule(str(files), image_size=8, grey=True, batch_size=64, **options)
        reads.clear()
        trainer(max_epochs=3).fit(module, data)
        runs.append(module.state_dict())
    assert data.num_classes == 4
    assert isinstance(data.dataset("train"), InMemoryDataset)
    assert workers or len(set(reads)) == 480  # training and validation; the test images stay closed
    assert workers or len(reads) < 480 + 40  # each once, but for the first ones, read again to see if they change
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_pictures_from_elsewhere_are_read_as_the_files_are(files):
    data = ImageFolderDataModule(str(files), [6, 11], grey=True, pixel_range=[0, 510])
    data = OneClassDataModule(data, HybridImages())
    pictures = read_pictures(files / "test", (1, 6, 11), data.framing, data.read_picture)
    expected = torch.stack([image for image, _ in data.data.dataset("test")])
    assert torch.equal(pictures.image, expected)
    assert pictures.names[0].startswith("one/")


def test_what_cannot_be_cached_is_refused(files, own):
    def refused(message, data):
        with pytest.raises(ConfigurationError, match=message):
            data.dataset("train")

    dataset = [(torch.rand(1, 4, 5), k % 3) for k in range(30)]
    random = Transformed(dataset)
    refused("the transforms of train data are random", PairedDataModule(train=random, num_classes=3, cache=True))
    memory = InMemoryDataset(torch.rand(30, 1, 4, 5), torch.arange(30) % 3)
    refused("train data is in memory", PairedDataModule(train=memory, cache=True))
    with pytest.raises(ConfigurationError, match="cache=True has no effect"):
        PairedDataModule(LightningDataModule(), cache=True)
    broken = next((own / "train" / "one").iterdir())
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        ImageFolderDataModule(str(own), image_size=8, cache=True).dataset("train")
    dictionaries = [{"picture": torch.rand(1, 4, 5).numpy(), "kind": k % 3} for k in range(30)]
    data = PairedDataModule(train=dictionaries, keys=["picture", "kind"], cache=True, val_size=6)
    assert [len(data.dataset(part)) for part in ("train", "val")] == [24, 6]
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (torch.rand(1, 4, 5), r"train data: image 256 is torch.float32 .* first one torch.uint8 .* one dtype"),
        (torch.zeros(1, 5, 5, dtype=torch.uint8), r"train data: image 256 is .* \(1, 5, 5\), and .* \(1, 4, 5\)"),
    ],
)
def test_all_cached_images_are_of_one_kind(late, message):
    early = torch.full((1, 4, 5), 200, dtype=torch.uint8)
    samples = [(early, 0)] * 256 + [(late, 1)] * 44
    with pytest.raises(DataError, match=message):
        PairedDataModule(train=samples, cache=True).dataset("train")


def test_cached_sequences_are_of_one_length():
    samples = [([1, 2, 0], 0)] * 256 + [([1, 2, 3, 0], 1)]
    with pytest.raises(DataError, match=r"train data: sequence 256 .* Pad the sequences"):
        PairedDataModule(train=samples, cache=True, vocabulary=4).dataset("train")


@pytest.fixture
def few_files():
    """Allow this process and its workers 48 more open files."""
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 48, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files as Linux does")
def test_workers_read_whole_data_with_few_open_files(few_files):
    source = {"train": Counted(256 * 30), "val_size": 0, "num_classes": 3}
    train = PairedDataModule(**source, num_workers=2, cache=True).dataset("train")
    assert torch.equal(train.image[:, 0, 0], torch.arange(256 * 30.0))
    assert torch.equal(train.target, torch.arange(256 * 30) % 3)
    normal = OneClassDataModule(PairedDataModule(**source), HybridImages(), normal=1, num_workers=2)
    assert len(normal.dataset("train")) == 256 * 10


@pytest.mark.slow
@pytest.mark.parametrize("one_class", [False, True])
def test_workers_return_errors_of_whole_data(one_class):
    samples = [(torch.zeros(1, 4, 5), 0)] * 300 + [(torch.zeros(1, 4, 6), 1)]
    if one_class:
        data = OneClassDataModule(PairedDataModule(train=samples, val_size=0), HybridImages(), num_workers=2)
    else:
        data = PairedDataModule(train=samples, num_workers=2, cache=True)
    with pytest.raises(DataError, match=r"^train data: image 44 of a batch is .* resize or convert them"):
        data.dataset("train")


class Counted(torch.utils.data.Dataset):
    """Images with the number of the sample, of three classes in turn."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, number):
        return torch.full((1, 1), float(number)), number % 3


class Transformed(list):
    """Samples whose images differ each time that they are read."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image + torch.rand(()), target


@pytest.mark.parametrize("workers", [0, 1])
def test_training(files, trainer, workers):
    data = ImageFolderDataModule(str(files), image_size=10, grey=True, batch_size=20, num_workers=workers, seed=1)
    run = trainer(max_epochs=1 if workers else 4, callbacks=[GoodnessAccuracy()])
    module = IntFFModule([DenseUnit([100], normalization=UnitL2(20.0)), DenseUnit([50], normalization=UnitL2(20.0))])
    run.fit(module, data)
    assert run.global_step == 20 * run.max_epochs
    assert "val/accuracy" in run.callback_metrics
    (metrics,) = run.test(module, data, verbose=False)
    assert metrics["test/accuracy"] > (0.5 if workers else 0.8)
    assert torch.cat(run.predict(module, data)).shape == (80, 4)


def test_without_val_and_test(own):
    shutil.rmtree(own / "val")
    shutil.rmtree(own / "test")
    data = [ImageFolderDataModule(str(own), 8, val_size=50, val_seed=seed) for seed in (0, 0, 1)]
    assert [len(data[0].dataset(part)) for part in ("train", "val")] == [350, 50]
    assert data[0].dataset("test") is None
    assert data[0].num_classes == 4
    held_out = [d.dataset("val").indices for d in data]
    assert held_out[0] == held_out[1] != held_out[2]
    assert not set(held_out[0]) & set(data[0].dataset("train").indices)


def test_other_files(own):
    folder = own / "train" / "one"
    path = sorted(folder.iterdir())[0]
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(wide).save(path)  # 16 bits a pixel
    opaque = np.full((8, 8, 4), 90, dtype=np.uint8)
    opaque[:, :, 3] = 255
    Image.fromarray(opaque).save(folder / "zz.png")  # with an alpha channel
    data = ImageFolderDataModule(str(own), 8, grey=True).dataset("train")
    number = {name: k for k, (name, _) in enumerate(data.samples)}
    assert torch.equal(data[number[str(path)]][0][0], torch.as_tensor((wide >> 8).astype(np.uint8)))
    assert set(data[number[str(folder / "zz.png")]][0].flatten().tolist()) == {90}


def test_data_that_cannot_be(own, trainer):
    with pytest.raises(DataError, match=r"nothing/train: images in train/CLASS/ are needed"):
        ImageFolderDataModule(str(own / "nothing"), 8).dataset("train")
    (own / "test/nine").mkdir()
    with pytest.raises(DataError, match=r"test: images in .*no valid file for the classes nine"):
        ImageFolderDataModule(str(own), 8).dataset("test")
    shutil.copy(next((own / "test/one").iterdir()), own / "test/nine")
    shutil.rmtree(own / "test/two")
    with pytest.raises(DataError, match="test: its classes must be those of train: two missing; nine not in train"):
        ImageFolderDataModule(str(own), 8).dataset("test")
    shutil.rmtree(own / "val/zero")
    with pytest.raises(DataError, match="val: its classes must be those of train: zero missing"):
        trainer().fit(IntFFModule([DenseUnit([5])]), ImageFolderDataModule(str(own), 8))
    shutil.rmtree(own / "val")
    broken = sorted((own / "train/one").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"{broken.name} cannot be read as an image: remove or repair it"):
        ImageFolderDataModule(str(own), 8).dataset("train")[0]
    for size in (0, [8], [8, 8, 3]):
        with pytest.raises(ConfigurationError, match="image_size="):
            ImageFolderDataModule(str(own), size)


GREY = np.tile(np.linspace(0, 1, 12), (12, 1))  # its mean is 0.5
DARK = "pixels from .* give an image folder pixel_range"
KINDS = {
    "8 bits": ((GREY * 255).astype(np.uint8), "png", {}, None),
    "16 bits": ((GREY * 65535).astype(np.uint16), "png", {}, None),
    "12 of 16 bits": ((GREY * 4095).astype(np.uint16), "png", {"pixel_range": [0, 4095]}, None),
    "float": (GREY.astype(np.float32), "tiff", {}, None),
    "float up to 255": ((GREY * 255).astype(np.float32), "tiff", {"pixel_range": [0, 255]}, DARK),
    "float from -1": ((GREY * 2 - 1).astype(np.float32), "tiff", {"pixel_range": [-1, 1]}, DARK),
    "32 bits": ((GREY * 255).astype(np.int32), "tiff", {"pixel_range": [0, 255]}, DARK),
    "32 bits, all used": ((GREY * (2**31 - 1)).astype(np.int32), "tiff", {"pixel_range": [0, 2**31 - 1]}, DARK),
    "alpha": (
        np.dstack([np.zeros((12, 12, 3)), 255 - GREY * 255]).astype(np.uint8),
        "png",
        {"background": 255},
        "transparent pixels",
    ),
    "grey and alpha": (
        np.dstack([np.full((12, 12), 255), GREY * 255]).astype(np.uint8),
        "png",
        {"background": 0},
        "transparent pixels",
    ),
}
"""Files, the options that they need, and how they are refused without these options."""


@pytest.mark.parametrize(("pixels", "ending", "options", "refusal"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("grey", [True, False])
def test_the_range_of_files(pixels, ending, options, refusal, grey, tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / name / f"0.{ending}")

    def first(**options):
        return ImageFolderDataModule(str(tmp_path), 12, grey=grey, val_size=0, **options).dataset("train")[0][0]

    image = first(**options)
    assert image.shape == (1 if grey else 3, 12, 12)
    assert (image.double() / 255 - torch.as_tensor(GREY)).abs().max() < 0.006
    if refusal:
        with pytest.raises(DataError, match=refusal):
            first()
    with pytest.raises(DataError, match=r"pixels from .* pixel_range=\[0, 0.5\]: give"):
        first(**{**options, "pixel_range": [0, 0.5]})


def test_palettes_and_single_bits(own):
    folder = own / "train" / "one"
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("P").save(folder / "yy.png")
    clear = Image.fromarray(np.zeros((8, 8), dtype=np.uint8))
    clear.save(folder / "zz.png", transparency=0)  # black is transparent
    Image.new("1", (8, 8), 1).save(folder / "xx.png")
    data = ImageFolderDataModule(str(own), 8, background=128).dataset("train")
    pixel = {path.rsplit("/", 1)[1]: data[k][0][:, 0, 0].tolist() for k, (path, _) in enumerate(data.samples)}
    assert pixel["yy.png"] == [255, 0, 0]
    assert pixel["zz.png"] == [128, 128, 128]
    assert pixel["xx.png"] == [255, 255, 255]
    (bare,) = [k for k, (path, _) in enumerate(data.samples) if path.endswith("zz.png")]
    with pytest.raises(DataError, match=r"zz\.png has transparent pixels: say what is behind them, background=0"):
        ImageFolderDataModule(str(own), 8).dataset("train")[bare]
    with pytest.raises(ConfigurationError, match="background=300"):
        ImageFolderDataModule(str(own), 8, background=300)
    with pytest.raises(ConfigurationError, match=r"pixel_range=\[1\]"):
        ImageFolderDataModule(str(own), 8, pixel_range=[1])


def test_a_validation_size_beside_a_folder_of_validation_images(files):
    for options in ({"val_size": 50}, {"val_seed": 1}):
        with pytest.raises(ConfigurationError, match=r"has no effect: the validation images are those in .*val"):
            ImageFolderDataModule(str(files), 8, **options).dataset("train")


def test_a_damaged_file_is_named_by_a_worker(own):
    broken = sorted((own / "train/one").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])
    data = ImageFolderDataModule(str(own), 8, num_workers=1)
    with pytest.raises(DataError) as error:
        list(data.train_dataloader())
    assert str(error.value).startswith(f"{broken} cannot be read as an image: remove or repair it.")
