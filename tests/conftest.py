"""Shared fixtures: real data, small modules, a quiet trainer."""

import gc
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

# torch and Lightning are imported in fixtures: the controller of pytest-xdist reads this file too, and needs neither
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker per core, and the processes that it starts

gc.disable()  # until all is imported: a quarter of that is a search for garbage among what is made and kept

HERE = Path(__file__).parent
ROOT = HERE.parent


def pytest_collection_modifyitems(config, items):
    """Start the files with long tests first, so that no process has one left at the end."""
    if config.getoption("dist", "no") != "no":
        items.sort(key=lambda item: "slow" not in item.keywords)


def pytest_collection_finish():
    """Look for garbage again, among what the tests make, and less often: every parser is made of many small objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, with a seed that no other test has moved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    import torch

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
def cifar(tmp_path, monkeypatch):
    """A data_dir of five batches of 20 images and 30 test images, whose checksums torchvision is told."""
    from cifar_files import CLASSES, OldArray, write
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "sets/cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def batch(name, size):
        rows = random.integers(0, 256, (size, 3072), dtype=np.uint8)  # red, green, blue planes, row by row
        labels = [int(label) for label in random.integers(0, 10, size)]
        names = [f"{name}_{k}.png" for k in range(size)]
        content = {"batch_label": name, "labels": labels, "data": OldArray(rows), "filenames": names}
        return [name, write(folder / name, content)]

    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{k}", 20) for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 30)])
    meta = {"num_cases_per_batch": 20, "label_names": CLASSES, "num_vis": 3072}
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": write(folder / "batches.meta", meta)})
    return folder.parent


def save_blank_figures(patch):
    """Have figures composed and saved as ever, without their ink: to draw it takes most of the time of a short run."""
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    patch.setattr(Figure, "savefig", lambda figure, path, **_: imsave(path, np.ones((2, 2, 3)), format="png"))


@pytest.fixture
def blank_figures(monkeypatch):
    save_blank_figures(monkeypatch)


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Starts processes that have imported the package already."""
    from forks import Forks

    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.end()


@pytest.fixture
def trainer():
    """A factory of trainers that write nothing."""
    import lightning as L

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
    from intff_lightning.datamodules import DigitsDataModule

    return lambda **options: DigitsDataModule(**{"batch_size": 64, **options})


@pytest.fixture
def network():
    """A factory of small modules for 1x4x5 images of 3 classes (or whatever is asked for)."""
    from intff_lightning import DenseUnit, IntFFModule

    def make(*widths, **options):
        widths = widths or ([7, 6], [5])
        defaults = {"input_shape": [1, 4, 5], "num_classes": 3}
        return IntFFModule([DenseUnit(list(w)) for w in widths], **{**defaults, **options})

    return make


@pytest.fixture
def batches():
    """A factory of paired batches with k strictly wrong labels each."""
    import torch
    from torch.utils.data import DataLoader

    from intff_lightning import PairedBatch

    def make(count=1, size=8, k=1, shape=(1, 4, 5), classes=3, dtype=torch.float32, seed=1):
        generator = torch.Generator().manual_seed(seed)
        made = []
        for _ in range(count):
            image = torch.rand(size, *shape, generator=generator, dtype=dtype)
            target = torch.randint(classes, (size,), generator=generator)
            wrong = (
                target[:, None] + 1 + torch.rand(size, classes - 1, generator=generator).argsort(1)[:, :k]
            ) % classes
            made.append(PairedBatch(image, target, None, wrong))
        return DataLoader(made, batch_size=None)  # a bare list would be taken for several loaders

    return make
