"""Anomaly detection: each class in turn is normal, and a network that has seen nothing else must find the others."""

import functools
from typing import Any

import lightning as L
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from intff_lightning.backprop import BackpropModule
from intff_lightning.callbacks.anomaly import HasAnomalyScore
from intff_lightning.datamodules import (
    FashionMNISTDataModule,
    InMemoryDataset,
    MNISTDataModule,
    OneClassDataModule,
)
from intff_lightning.detection import detection_metrics
from intff_lightning.distortions import Chained, CutPaste, Erased, Filled, OneOf, Superposed, Warped
from intff_lightning.errors import DivergenceError
from intff_lightning.functional import float_pixels
from intff_lightning.labels import NoLabel
from intff_lightning.local import UnitL2
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import ImageNegatives, Perturbed
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce.configs import lean
from intff_lightning.reproduce.tasks.task import Task
from intff_lightning.reproduce.tasks.training import train
from intff_lightning.units import DenseUnit, HiddenUnit
from intff_lightning.units.chain import UnitChain

DATASETS: dict[str, type[MNISTDataModule]] = {"MNIST": MNISTDataModule, "Fashion-MNIST": FashionMNISTDataModule}
CLASSES = 10
CHOSEN_ON: dict[str, tuple[int, ...]] = {"MNIST": (2, 5, 8), "Fashion-MNIST": (0, 4, 5, 6, 8)}
"""Normal classes on whose validation images the settings were chosen."""
EPOCHS = 10
QUICK_IMAGES = 2000  # training images of all classes
_MEASURES = {"auroc": ("AUROC", "higher"), "aupr": ("AUPR", "higher"), "fpr95": ("FPR-95", "lower")}


def negatives() -> ImageNegatives:
    """Return the source of negatives for grey images of single objects before a black background."""
    bent = Warped(strength=0.08, grid=4, degrees=20, scale=0.15, shift=0.05)
    other = Warped(strength=0.15, grid=4, degrees=180, scale=0.3, shift=0.1)
    narrow = Warped(strength=0.05, grid=4, degrees=10, scale=0.5, shift=0.1)  # or wide: other proportions
    added = Superposed(Chained([other, Erased()]))
    return OneOf([bent, other, narrow, Erased(), added, Filled(), CutPaste(patches=3), Perturbed(0.3)])


def units() -> list[HiddenUnit]:
    """Return the layers of both networks."""
    return [DenseUnit([400, 400]), DenseUnit([400, 400])]


def make_network(algorithm: str) -> Network:
    """Make an untrained network, ``intff`` or ``bp``; both train the same layers."""
    options: dict[str, Any] = {"optimizer": functools.partial(torch.optim.AdamW, lr=1e-3), "scheduler": CosineDecay}
    if algorithm == "intff":
        return IntFFModule(units(), encoder=NoLabel(), normalization=UnitL2(gain=20), **options)
    return BackpropModule(UnitChain(units(), normalization=UnitL2(gain=20)), negatives=True, **options)


def data(dataset: str, normal: int, seed: int, data_dir: str, quick: bool = False) -> OneClassDataModule:
    """Return the data: one class to train on, and all to test."""
    whole = DATASETS[dataset](data_dir, train_size=QUICK_IMAGES if quick else None)
    whole.prepare_data()
    return OneClassDataModule(whole, negatives(), normal=normal, seed=seed)


def neighbour_scores(normal: Tensor, image: Tensor) -> Tensor:
    """Return the distance ``(N,)`` of images ``(N, *)`` to the nearest normal one, on 95 % of the normal variance."""
    pca = PCA(n_components=0.95, svd_solver="full").fit(normal.flatten(1).numpy())
    nearest = NearestNeighbors(n_neighbors=1).fit(pca.transform(normal.flatten(1).numpy()))
    distance, _ = nearest.kneighbors(pca.transform(image.flatten(1).numpy()))
    return torch.from_numpy(distance[:, 0])


def rows(seed: int, data_dir: str, quick: bool, dataset: str, normal: int) -> list[dict[str, Any]]:
    """Return how well each method tells the test images of one class from those of the others.

    The name of a measure holds the data set, so that means over everything with one measure are those of a data set.
    """
    known, tested = (data(dataset, normal, seed, data_dir, quick).dataset(part) for part in ("train", "test"))
    assert isinstance(known, InMemoryDataset)
    assert isinstance(tested, InMemoryDataset)
    found = {}
    for algorithm in ("intff", "bp"):
        L.seed_everything(seed, verbose=False)
        module = make_network(algorithm)
        if train(module, data(dataset, normal, seed, data_dir, quick), 1 if quick else EPOCHS) < 0:
            raise DivergenceError(f"the network of {algorithm} diverged: {dataset}, class {normal}, seed {seed}.")
        found[algorithm] = network_scores(module, tested.image)
    found["nearest neighbours"] = neighbour_scores(float_pixels(known.image), float_pixels(tested.image))
    made = []
    for algorithm, score in found.items():
        values = detection_metrics(score, tested.target > 0)
        for name, (title, better) in _MEASURES.items():
            row: dict[str, Any] = {"what": f"{dataset}, class {normal}", "algorithm": algorithm, "better": better}
            row |= {"measure": f"{title} on {dataset}", "value": values[name]}
            made.append(row)
            if normal not in CHOSEN_ON[dataset]:
                made.append({**row, "measure": f"{row['measure']}, other classes"})
    return made


def network_scores(module: Network, image: Tensor) -> Tensor:
    """Return the anomaly scores ``(N,)`` of images ``(N, *)`` uint8."""
    assert isinstance(module, HasAnomalyScore)
    with torch.no_grad():
        return torch.cat([module.anomaly_score(float_pixels(part)) for part in torch.split(image, 1000)])


TASK = Task(
    name="anomaly",
    title="Anomaly detection: one class of MNIST or Fashion-MNIST is normal",
    note="One class is normal, and all test images are scored. IntFF (no labels; the goodness says how normal an image "
    "is) and backpropagation train the same layers, two units of 400-400 neurons, against the same negatives: normal "
    "images that are bent, cut, erased in part, laid over one another, filled or disturbed. They see the normal class "
    f"of the training images without the validation images, for {EPOCHS} epochs; the last weights count. The settings "
    "were chosen for IntFF among about twenty, by the AUROC on validation images with the classes "
    f"{CHOSEN_ON['MNIST']} of MNIST and {CHOSEN_ON['Fashion-MNIST']} of Fashion-MNIST as the normal one, so images of "
    "the other classes served as anomalies in that choice. The rows `other classes` are over the classes that were "
    "never the normal one in it. Backpropagation has the same settings, and was not tuned. "
    "Nearest neighbours (scikit-learn): the distance to the nearest training image, on the "
    "principal components with 95 % of the variance.",
    cases={
        f"{dataset.lower().replace('-', '_')}_class{normal}": functools.partial(rows, dataset=dataset, normal=normal)
        for dataset in DATASETS
        for normal in range(CLASSES)
    },
    average=True,
    settings={
        "negatives": lean(to_recipe(negatives())),
        **{name: lean(to_recipe(make_network(name))) for name in ("intff", "bp")},
        "epochs": EPOCHS,
    },
)
