"""Anomaly detection: each class in turn is normal, and a network that has seen nothing else must find the others."""

import functools
import statistics
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
from intff_lightning.views import ShiftsAndFlips

DATASETS: dict[str, type[MNISTDataModule]] = {"MNIST": MNISTDataModule, "Fashion-MNIST": FashionMNISTDataModule}
CLASSES = 10
CHOSEN_ON: dict[str, tuple[int, ...]] = {"MNIST": (2, 5, 8), "Fashion-MNIST": (0, 4, 5, 6, 8)}
"""Normal classes on whose validation images settings are chosen."""
TRIED: tuple[dict[str, float], ...] = tuple(
    {"learning rate": rate, "weight decay": decay} for rate in (5e-4, 1e-3, 2e-3) for decay in (0.01, 0.3)
)
"""What each algorithm tries by itself."""
SHIFT = 1
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


def make_network(algorithm: str, setting: dict[str, float]) -> Network:
    """Make an untrained network, ``intff`` or ``bp``; both train the same layers."""
    rates: dict[str, Any] = {"lr": setting["learning rate"], "weight_decay": setting["weight decay"]}
    options: dict[str, Any] = {"optimizer": functools.partial(torch.optim.AdamW, **rates), "scheduler": CosineDecay}
    options["views"] = ShiftsAndFlips(SHIFT)
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


def trained(
    algorithm: str, setting: dict[str, float], dataset: str, normal: int, seed: int, data_dir: str, quick: bool
) -> Network:
    """Train a network on one class."""
    L.seed_everything(seed, verbose=False)
    module = make_network(algorithm, setting)
    if train(module, data(dataset, normal, seed, data_dir, quick), 1 if quick else EPOCHS) < 0:
        raise DivergenceError(f"the network of {algorithm} diverged: {dataset}, class {normal}, seed {seed}.")
    return module


@functools.lru_cache
def best_setting(algorithm: str, dataset: str, data_dir: str, quick: bool) -> dict[str, float]:
    """Return the setting with the best mean AUROC on validation images, over the classes of :data:`CHOSEN_ON`."""
    whole = DATASETS[dataset](data_dir, train_size=QUICK_IMAGES if quick else None)
    whole.prepare_data()
    held = whole.dataset("val")
    assert isinstance(held, InMemoryDataset)

    def mean_auroc(setting: dict[str, float]) -> float:
        found = []
        for normal in CHOSEN_ON[dataset][: 1 if quick else None]:
            module = trained(algorithm, setting, dataset, normal, 0, data_dir, quick)
            found.append(detection_metrics(network_scores(module, held.image), held.target != normal)["auroc"])
        return statistics.fmean(found)

    return max(TRIED[: 2 if quick else None], key=mean_auroc)


def rows(seed: int, data_dir: str, quick: bool, dataset: str, normal: int) -> list[dict[str, Any]]:
    """Return how well each method tells the test images of one class from those of the others.

    The name of a measure holds the data set, so that means over everything with one measure are those of a data set.
    """
    known, tested = (data(dataset, normal, seed, data_dir, quick).dataset(part) for part in ("train", "test"))
    assert isinstance(known, InMemoryDataset)
    assert isinstance(tested, InMemoryDataset)
    found = {}
    made: list[dict[str, Any]] = []
    for algorithm in ("intff", "bp"):
        setting = best_setting(algorithm, dataset, data_dir, quick)
        module = trained(algorithm, setting, dataset, normal, seed, data_dir, quick)
        found[algorithm] = network_scores(module, tested.image)
        if normal == 0:  # it is the same for all classes
            tried: dict[str, Any] = {"what": dataset, "algorithm": algorithm, "better": "", "averaged": False}
            made += [{**tried, "measure": name, "value": value} for name, value in setting.items()]
    found["nearest neighbours"] = neighbour_scores(float_pixels(known.image), float_pixels(tested.image))
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
    f"of the training images without the validation images, for {EPOCHS} epochs; the last weights count. The score of "
    f"an image is averaged over its shifts by up to {SHIFT} pixel. Each algorithm chooses its own learning rate and "
    f"weight decay among {len(TRIED)} pairs, by the AUROC on validation images with the classes {CHOSEN_ON['MNIST']} "
    f"of MNIST and {CHOSEN_ON['Fashion-MNIST']} of Fashion-MNIST as the normal one, so images of the other classes "
    "serve as anomalies in that choice. The negatives, the layers and the averaging were chosen for IntFF alone, in "
    "about thirty trials of the same kind. The rows `other classes` are over the classes that were never the normal "
    "one in a choice. Nearest neighbours (scikit-learn): the distance to the nearest training image, on the "
    "principal components with 95 % of the variance.",
    cases={
        f"{dataset.lower().replace('-', '_')}_class{normal}": functools.partial(rows, dataset=dataset, normal=normal)
        for dataset in DATASETS
        for normal in range(CLASSES)
    },
    average=True,
    settings={
        "negatives": lean(to_recipe(negatives())),
        **{name: lean(to_recipe(make_network(name, TRIED[0]))) for name in ("intff", "bp")},
        "tried": TRIED,
        "epochs": EPOCHS,
    },
)
