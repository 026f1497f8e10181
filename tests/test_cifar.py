"""CIFAR-10 in its own file layout, with pixels of our own."""

import pickletools
import warnings

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.datamodules import CIFAR10DataModule
from intff_lightning.errors import DataError


def test_pixels_are_torchvisions(cifar):
    names = {op.name for op, _, _ in pickletools.genops((cifar / "cifar-10-batches-py/data_batch_1").read_bytes())}
    assert "SHORT_BINSTRING" in names  # the files are those of Python 2
    assert "BINUNICODE" not in names
    data = CIFAR10DataModule(str(cifar), val_size=0)
    data.prepare_data()
    for part in ("train", "test"):
        mine = data.dataset(part)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's of such old files, which users of ours do not see
            theirs = CIFAR10(cifar, train=part == "train")
        assert len(mine) == len(theirs) == {"train": 100, "test": 30}[part]
        assert mine.image.dtype == torch.uint8
        assert mine.image.is_contiguous()
        for k, (picture, label) in enumerate(theirs):
            assert torch.equal(mine.image[k], torch.as_tensor(np.asarray(picture).copy()).permute(2, 0, 1))
            assert int(mine.target[k]) == label


def test_validation_is_the_last_training_images(cifar, monkeypatch):
    monkeypatch.setenv("INTFF_DATA_DIR", str(cifar))
    data, whole = CIFAR10DataModule(val_size=25, train_size=40), CIFAR10DataModule(val_size=0)
    assert [len(data.dataset(part)) for part in ("train", "val", "test", "predict")] == [40, 25, 30, 30]
    assert torch.equal(data.dataset("val").image, whole.dataset("train").image[75:])
    assert torch.equal(data.dataset("train").image, whole.dataset("train").image[:40])
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)
    share, alone = CIFAR10DataModule(val_size=0.25, train_size=40), CIFAR10DataModule(val_size=0, train_size=40)
    for part in ("train", "val"):
        assert torch.equal(share.dataset(part).image, data.dataset(part).image)
    assert torch.equal(alone.dataset("train").image, data.dataset("train").image)
    assert alone.dataset("val") is None
    assert CIFAR10DataModule().held_out(50000) == 5000


def test_training(cifar, trainer):
    data = CIFAR10DataModule(str(cifar), val_size=20, batch_size=16)
    run = trainer()
    run.fit(IntFFModule([DenseUnit([8])]), data)
    assert run.global_step == 5


def test_missing_and_damaged_data_say_what_to_do(cifar, tmp_path):
    with pytest.raises(DataError, match=r"(?s)CIFAR10: there is none under .*--data.data_dir"):
        CIFAR10DataModule(str(tmp_path / "nothing"), download=False).dataset("train")
    damaged = cifar / "cifar-10-batches-py/data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"(?s)cifar-10-batches-py is incomplete or damaged.*Delete that folder"):
        CIFAR10DataModule(str(cifar), val_size=10).dataset("train")
    damaged.unlink()
    with pytest.raises(DataError, match="incomplete or damaged"):
        CIFAR10DataModule(str(cifar), val_size=10).dataset("test")
