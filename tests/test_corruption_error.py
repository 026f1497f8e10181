"""The characteristic corruption: accuracy under every kind, and the mean corruption error by hand."""

import numpy as np
import pytest
import torch

from intff_lightning import BackpropModule, DenseUnit
from intff_lightning.corruptions import MNIST_C, Rotate
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.reproduce.characteristics import corruption
from intff_lightning.reproduce.characteristics.networks import Trained


def _rows(accuracy):
    return [
        {"what": what, "measure": "accuracy", "value": value, "better": "higher"} for what, value in accuracy.items()
    ]


def test_the_mean_corruption_error_by_hand():
    ours = {"no corruption": 0.99, "fog, severity 1": 0.9, "fog, severity 2": 0.7, "shear, severity 1": 0.95}
    theirs = {"no corruption": 0.98, "fog, severity 1": 0.8, "fog, severity 2": 0.4, "shear, severity 1": 0.9}
    ours["fog, MNIST-C"], theirs["fog, MNIST-C"] = 0.9, 0.7
    found = {(row["what"], row["measure"]): row["value"] for row in corruption.summarize(_rows(ours), _rows(theirs))}
    assert found == pytest.approx(
        {
            ("mean of 15 kinds", "accuracy"): (0.9 + 0.7 + 0.95) / 3,
            ("mean of 15 kinds", "mCE"): ((0.1 + 0.3) / (0.2 + 0.6) + 0.05 / 0.1) / 2,
            ("fog", "CE"): 0.5,
            ("shear", "CE"): 0.5,
            ("mean of 15 kinds, MNIST-C", "accuracy"): 0.9,
            ("mean of 15 kinds, MNIST-C", "mCE"): 0.1 / 0.3,
            ("fog, MNIST-C", "CE"): 0.1 / 0.3,
        }
    )
    itself = corruption.summarize(_rows(theirs), _rows(theirs))
    assert all(row["value"] == pytest.approx(1) for row in itself if row["measure"] in ("CE", "mCE"))
    flawless = {"fog, severity 1": 1.0}
    (_, error, _) = corruption.summarize(_rows(flawless), _rows(flawless))
    assert error["value"] == 1


@pytest.fixture
def trained():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (60, 1, 28, 28), generator=generator, dtype=torch.uint8)
    module = BackpropModule(DenseUnit([10]), input_shape=[1, 28, 28], num_classes=10).eval()
    with torch.no_grad():  # what the network says is right, but for some
        target = module(image / 255).argmax(1)
    target[:5] = (target[:5] + 1) % 10
    data = InMemoryDataset(image, target)
    return Trained("bp", "dense", "mnist", 0, module, data, data)


def test_a_network_under_every_kind(trained, monkeypatch):
    monkeypatch.setattr(corruption, "_QUICK_IMAGES", 40)
    rows = corruption.measure(trained, "nowhere", quick=True)
    found = {row["what"]: row["value"] for row in rows}
    assert found["no corruption"] == pytest.approx(35 / 40)
    assert list(found) == ["no corruption", *(f"{kind}, severity {s}" for kind in MNIST_C for s in (1, 5))]
    image = trained.test.image[:40] / 255
    worse = Rotate(5).of_test_images(image, torch.arange(40), seed=0).mul(255).round() / 255
    with torch.no_grad():
        right = trained.module(worse).argmax(1) == trained.test.target[:40]
    assert found["rotate, severity 5"] == pytest.approx(float(right.double().mean()))
    made = corruption.summarize(rows, rows)
    assert all(corruption.shown(row) for row in made)
    assert not any(corruption.shown(row) for row in rows)


def test_published_images_are_measured_where_they_are(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(corruption, "_IMAGES", 20)
    monkeypatch.setattr(corruption, "SEVERITIES", (2,))
    monkeypatch.setattr(corruption, "MNIST_C", {"shear": MNIST_C["shear"], "rotate": MNIST_C["rotate"]})
    folder = tmp_path / "mnist_c/shear"
    folder.mkdir(parents=True)
    np.save(folder / "test_images.npy", trained.test.image.permute(0, 2, 3, 1).numpy())
    np.save(folder / "test_labels.npy", trained.test.target.numpy())
    found = {row["what"]: row["value"] for row in corruption.measure(trained, str(tmp_path))}
    assert list(found) == ["no corruption", "shear, severity 2", "shear, MNIST-C", "rotate, severity 2"]
    assert found["shear, MNIST-C"] == pytest.approx(55 / 60)
