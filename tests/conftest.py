"""Shared fixtures: real data, small modules, a quiet trainer."""

import gzip
import os
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from intff_lightning import DenseUnit, IntFFModule, PairedBatch
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.labels import LabelOverlay

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, with a seed that no other test has moved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A data_dir with the first 500 + 200 images of MNIST, which also stand in for Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("MNIST", "FashionMNIST"):
        (folder / name / "raw").mkdir(parents=True)
        for packed in (HERE / "data/MNIST/raw").glob("*.gz"):
            with gzip.open(packed) as source, (folder / name / "raw" / packed.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
    return folder


@pytest.fixture(scope="session")
def real_data():
    """The real data sets, where INTFF_DATA_DIR names a copy."""
    folder = os.environ.get("INTFF_DATA_DIR")
    if not folder or not (Path(folder) / "MNIST").is_dir():
        pytest.skip("INTFF_DATA_DIR names no folder with MNIST")
    return folder


@pytest.fixture
def trainer():
    """A factory of trainers that write nothing."""

    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 1,
        }
        return L.Trainer(**{**defaults, **options})

    return make


@pytest.fixture
def digits():
    """A factory of digits datamodules."""
    return lambda **options: DigitsDataModule(**{"batch_size": 64, **options})


@pytest.fixture
def network():
    """A factory of small modules for 1x4x5 images of 3 classes (or whatever is asked for)."""

    def make(*widths, **options):
        widths = widths or ([7, 6], [5])
        defaults = {"input_shape": [1, 4, 5], "num_classes": 3}
        return IntFFModule([DenseUnit(list(w)) for w in widths], **{**defaults, **options})

    return make


@pytest.fixture
def batches():
    """A factory of paired batches with k strictly wrong labels each."""

    def make(count=1, size=8, k=1, shape=(1, 4, 5), classes=3, dtype=torch.float32, seed=1):
        generator = torch.Generator().manual_seed(seed)
        encoder = LabelOverlay()
        encoder.num_classes = classes
        made = []
        for _ in range(count):
            image = torch.rand(size, *shape, generator=generator, dtype=dtype)
            target = torch.randint(classes, (size,), generator=generator)
            wrong = (
                target[:, None] + 1 + torch.rand(size, classes - 1, generator=generator).argsort(1)[:, :k]
            ) % classes
            negative = encoder(image.repeat_interleave(k, 0), wrong.flatten())
            made.append(PairedBatch(encoder(image, target), negative, image, target, wrong))
        return DataLoader(made, batch_size=None)  # a bare list would be taken for several loaders

    return make
