"""Anomaly detection: each class in turn is normal, and a network that has seen nothing else must find the others.

    python -m intff_lightning.reproduce.tasks.anomaly --seeds 3 --out results/tasks/anomaly

trains IntFF, backpropagation of the same layers on the same negatives, and k nearest neighbours on principal components
for every class of MNIST and Fashion-MNIST. Every run is kept under ``--out``, so the command resumes with the runs that
are missing; ``--classes``, ``--datasets`` and ``--methods`` do a part of them.

Networks are trained on one class of the training images without its validation images (part of the last 5,000). The
weights after the last epoch are tested, so nothing is selected in a run. They are tested once, on all test images.

The settings (negatives, layers, goodness) were chosen among about twenty by one-class AUROC on the validation images, with
the normal classes of :data:`CHOSEN_ON`. So validation images of other classes served as anomalies in that choice; test
images had no part in it. The table also gives the mean over the normal classes that had no part in it.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from intff_lightning.backprop import BackpropModule
from intff_lightning.callbacks import AnomalyScore
from intff_lightning.datamodules import (
    FashionMNISTDataModule,
    InMemoryDataset,
    MNISTDataModule,
    OneClassDataModule,
)
from intff_lightning.detection import MEASURES, detection_metrics
from intff_lightning.distortions import Chained, CutPaste, Erased, Filled, OneOf, Superposed, Warped
from intff_lightning.errors import explain
from intff_lightning.files import atomic_write
from intff_lightning.functional import float_pixels
from intff_lightning.labels import NoLabel
from intff_lightning.lightning_compat import quiet
from intff_lightning.local import UnitL2
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import ImageNegatives, Perturbed
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.recipe import to_recipe
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce.configs import lean
from intff_lightning.units import DenseUnit, HiddenUnit
from intff_lightning.units.chain import UnitChain

DATASETS: dict[str, type[MNISTDataModule]] = {"mnist": MNISTDataModule, "fashion_mnist": FashionMNISTDataModule}
METHODS = {"intff": "IntFF", "bp": "backpropagation", "neighbours": "nearest neighbours"}
TITLES = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR-95"}
CLASSES = 10
CHOSEN_ON: dict[str, tuple[int, ...]] = {"mnist": (2, 5, 8), "fashion_mnist": (0, 4, 5, 6, 8)}
"""Normal classes on whose validation images the settings were chosen."""
EPOCHS = 10
QUICK_IMAGES = 2000  # training images of all classes


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


def network(method: str) -> Network:
    """Return an untrained network: ``intff`` or ``bp``."""
    options: dict[str, Any] = {"optimizer": functools.partial(torch.optim.AdamW, lr=1e-3), "scheduler": CosineDecay}
    if method == "intff":
        return IntFFModule(units(), encoder=NoLabel(), normalization=UnitL2(gain=20), **options)
    return BackpropModule(UnitChain(units(), normalization=UnitL2(gain=20)), negatives=True, **options)


def neighbour_scores(normal: Tensor, image: Tensor) -> Tensor:
    """Return the distance ``(N,)`` of images ``(N, *)`` to the nearest normal one, on 95 % of the normal variance."""
    pca = PCA(n_components=0.95, svd_solver="full").fit(normal.flatten(1).numpy())
    nearest = NearestNeighbors(n_neighbors=1).fit(pca.transform(normal.flatten(1).numpy()))
    distance, _ = nearest.kneighbors(pca.transform(image.flatten(1).numpy()))
    return torch.from_numpy(distance[:, 0])


@dataclass(frozen=True)
class AnomalyRun:
    """One method on one normal class with one seed.

    Args:
        dataset: ``mnist`` or ``fashion_mnist``.
        method: ``intff``, ``bp`` or ``neighbours``, which has no seed.
        normal: The normal class.
        seed: Seed of weights, order and negatives.
        quick: Train one epoch on a few images, to see the shape of the result.
    """

    dataset: str
    method: str
    normal: int
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        """Name of the run's file."""
        seed = "" if self.method == "neighbours" else f"_seed{self.seed}"
        return f"{self.dataset}_{self.method}_class{self.normal}{seed}{'_quick' if self.quick else ''}"

    def data(self, data_dir: str) -> OneClassDataModule:
        """Return the data: one class to train on, and all to test."""
        size = QUICK_IMAGES if self.quick else None
        whole = DATASETS[self.dataset](data_dir, train_size=size)
        return OneClassDataModule(whole, negatives(), normal=self.normal, seed=self.seed)

    @property
    def epochs(self) -> int:
        """Number of training epochs."""
        return 1 if self.quick else EPOCHS

    def settings(self) -> dict[str, Any]:
        """Return how it is trained, in plain values."""
        if self.method == "neighbours":
            return {"method": self.method}
        recipes = {"module": network(self.method), "negatives": negatives()}
        return {**{name: lean(to_recipe(part)) for name, part in recipes.items()}, "epochs": self.epochs}

    def measure(self, data_dir: str) -> dict[str, float]:
        """Train and test; returns the measures by name."""
        L.seed_everything(self.seed, verbose=False)
        data = self.data(data_dir)
        if self.method == "neighbours":
            return _of_neighbours(data)
        return _of_network(network(self.method), data, self.epochs)

    def result(self, data_dir: str, folder: Path) -> dict[str, Any]:
        """Measure, or read what an earlier call with the same settings has written to ``folder``."""
        settings = self.settings()
        path = folder / f"{self.name}.json"
        earlier = json.loads(path.read_text()) if path.is_file() else {}
        if earlier.get("settings") == settings:
            return dict(earlier["result"])
        begun = time.perf_counter()
        found = self.measure(data_dir)
        row = {"dataset": self.dataset, "method": self.method, "normal": self.normal, "seed": self.seed}
        result = {**row, **found, "seconds": time.perf_counter() - begun, "quick": self.quick}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(json.dumps({"settings": settings, "result": result}, indent=1) + "\n")
        return result


def _of_network(module: Network, data: OneClassDataModule, epochs: int) -> dict[str, float]:
    trainer = L.Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        callbacks=[AnomalyScore()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    validation = float(trainer.callback_metrics["val/auroc"])
    (tested,) = trainer.test(module, data, verbose=False)
    units = {name: value for name, value in tested.items() if name.startswith("test/auroc/unit_")}
    return {
        **{name: tested[f"test/{name}"] for name in MEASURES},
        **{name.removeprefix("test/").replace("/", "_"): value for name, value in units.items()},
        "synthetic_auroc": validation,
    }


def _of_neighbours(data: OneClassDataModule) -> dict[str, float]:
    train, test = (data.dataset(part) for part in ("train", "test"))
    assert isinstance(train, InMemoryDataset)
    assert isinstance(test, InMemoryDataset)
    return detection_metrics(neighbour_scores(float_pixels(train.image), float_pixels(test.image)), test.target > 0)


def results(
    runs: Sequence[AnomalyRun], data_dir: str, folder: Path, say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Return the results of all runs, trained where they are missing."""
    found = []
    for number, run in enumerate(runs, 1):
        found.append(run.result(data_dir, folder))
        say(f"[{number}/{len(runs)}] {run.name}: AUROC {found[-1]['auroc']:.4f} ({found[-1]['seconds']:.0f} s)")
    return found


def case(dataset: str, normal: int, seed: int, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Measure all methods on one normal class: rows ``what``, ``algorithm``, ``measure``, ``value`` and ``better``.

    The name of a measure holds the data set, so that means over everything with one measure are those of a data set.
    """
    found = []
    for method in METHODS:
        values = AnomalyRun(dataset, method, normal, seed, quick).measure(data_dir)
        for name, title in TITLES.items():
            row = {"what": f"{dataset}, class {normal}", "algorithm": method, "measure": f"{title} on {dataset}"}
            found.append({**row, "value": values[name], "better": "lower" if name == "fpr95" else "higher"})
    return found


CASES = {
    f"{dataset}_class{normal}": functools.partial(case, dataset, normal)
    for dataset in DATASETS
    for normal in range(CLASSES)
}
"""The measurements of one seed; each is a function of ``(seed, data_dir, quick)``."""


def rows(seed: int, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of all :data:`CASES` for a seed; nothing is kept, so it does not resume."""
    return [row for measure in CASES.values() for row in measure(seed, data_dir, quick)]


def summarize(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over the classes for each data set and method: mean and standard deviation over the seeds."""
    lines = []
    for dataset in DATASETS:
        for method, title in METHODS.items():
            mine = [row for row in found if (row["dataset"], row["method"]) == (dataset, method)]
            seeds = sorted({row["seed"] for row in mine})
            if not mine:
                continue
            line: dict[str, Any] = {"dataset": dataset, "method": title, "seeds": len(seeds)}
            line["classes"] = len({row["normal"] for row in mine})
            for name in MEASURES:
                means = [statistics.fmean(row[name] for row in mine if row["seed"] == seed) for seed in seeds]
                line[name], line[f"{name}_std"] = statistics.fmean(means), 0.0
                if len(seeds) > 1:
                    line[f"{name}_std"] = statistics.stdev(means)
            others = [row["auroc"] for row in mine if row["normal"] not in CHOSEN_ON[dataset]]
            line["auroc_others"] = statistics.fmean(others) if others else None
            lines.append(line)
    return lines


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Return the table of the means, and one of the AUROC of every class."""
    head = ["data set", "method", "classes", "seeds", *(part for title in TITLES.values() for part in (title, "±"))]
    head.append("AUROC of other classes")
    lines = []
    for line in summarize(found):
        cells = [f"{line[name]:.4f}" for measure in TITLES for name in (measure, f"{measure}_std")]
        others = "" if line["auroc_others"] is None else f"{line['auroc_others']:.4f}"
        lines.append([line["dataset"], line["method"], str(line["classes"]), str(line["seeds"]), *cells, others])
    each = []
    for dataset in DATASETS:
        for method, title in METHODS.items():
            mine = [row for row in found if (row["dataset"], row["method"]) == (dataset, method)]
            values = [[row["auroc"] for row in mine if row["normal"] == normal] for normal in range(CLASSES)]
            if mine:
                each.append([dataset, title, *(f"{statistics.fmean(v):.4f}" if v else "" for v in values)])
    classes = ["data set", "method", *map(str, range(CLASSES))]
    return (
        "# Anomaly detection\n\nOne class is normal, and all test images are scored. Means over the normal classes, "
        "then mean and standard deviation over the seeds. Other classes: those that had no part, as the normal one, in "
        f"the choice of the settings.\n\n{markdown_table(head, lines)}\n"
        f"AUROC by normal class, mean over the seeds:\n\n{markdown_table(classes, each)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m intff_lightning.reproduce.tasks.anomaly", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds.")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--classes", nargs="+", type=int, choices=range(CLASSES), default=list(range(CLASSES)))
    parser.add_argument("--data_dir", default=None, help="Folder of the data; default $INTFF_DATA_DIR, else data.")
    parser.add_argument("--out", type=Path, default=Path("results/tasks/anomaly"), help="Folder of the results.")
    parser.add_argument(
        "--quick", action="store_true", help="One epoch on a few images, to see the shape of the result."
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing, and write ``anomaly.json`` and ``anomaly.md`` of all runs that were asked for."""
    quiet()
    asked = _parser().parse_args(args)
    runs = [
        AnomalyRun(dataset, method, normal, seed, asked.quick)
        for dataset in asked.datasets
        for method in asked.methods
        for seed in range(1 if method == "neighbours" else asked.seeds)
        for normal in asked.classes
    ]
    try:
        found = results(runs, asked.data_dir, asked.out, functools.partial(print, flush=True))
    except Exception as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    for path in write_results("anomaly", asked.out, {**about(), "rows": found}, markdown(found)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
