"""The networks whose characteristics are measured: trained once, kept as checkpoints, and never trained twice.

Four algorithms train a dense and a convolutional network on MNIST and Fashion-MNIST, with the settings that won their
studies (``intff_lightning.reproduce.winners``). All four have the same layers, data, number of epochs and precision.
Where a study has no winner yet, a network takes the settings with which its search starts. The convolutional network
has fewer channels than those of its studies, and few epochs, because hundreds of them are trained.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from intff_lightning.backprop import BackpropModule
from intff_lightning.checkpoints import AtomicCheckpointIO, read_checkpoint
from intff_lightning.corruptions import LabelNoise
from intff_lightning.datamodules import FashionMNISTDataModule, InMemoryDataset, MNISTDataModule, PairedDataModule
from intff_lightning.datamodules.datasets import Part
from intff_lightning.draws import Draws
from intff_lightning.module import IntFFModule
from intff_lightning.network import Network
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce.configs import lean
from intff_lightning.reproduce.runs import close_run, fit, open_run
from intff_lightning.reproduce.spaces import STUDIES, Study, make, start_of
from intff_lightning.reproduce.winners import WINNERS

NETWORKS = {"dense": "the dense network of table 2", "conv": "three convolutional units"}
"""The networks, by the name that ``--networks`` takes."""
DATASETS: dict[str, type[MNISTDataModule]] = {"mnist": MNISTDataModule, "fashion_mnist": FashionMNISTDataModule}
"""The data sets, by the name that ``--datasets`` takes."""
CLASSES = 10
TASKS = 5
"""Two-class tasks of ``Training.tasks``: classes 0 and 1, then 2 and 3, and so on."""

_EPOCHS = {"dense": 20, "conv": 4}
_FEW_PER_EPOCH = 10_000
_PARTS: tuple[Part, ...] = ("train", "val", "test")
_CONV_UNITS = ((16, 16), (32, 32), (64, 64))
_QUICK_UNITS = ((12, 12), (12, 12), (16, 16))
_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters")


@dataclasses.dataclass(frozen=True)
class Training:
    """What a network is trained on; by default all training images.

    Args:
        images: Train on this many images only, as many of each class. Which ones depends on the seed. An epoch repeats
            them until it has 10,000 images, so that small sets get as many steps as larger ones.
        noise: Share of training images whose label is replaced by a wrong one.
        tasks: Train on the first so many of :data:`TASKS` two-class tasks, one after the other, each with a fifth of
            the epochs and without images of the earlier ones. The weights after the last epoch are kept, because the
            validation data of one task say nothing about the others.
    """

    images: int | None = None
    noise: float = 0.0
    tasks: int = 0

    @property
    def name(self) -> str:
        """Part of a folder's name."""
        parts = {"images": self.images, "noise": self.noise, "task": self.tasks}
        return "_".join(f"{part}{value:g}" for part, value in parts.items() if value) or "all"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, and the data by which it is judged.

    Args:
        algorithm: The algorithm that trained it, one of :data:`~intff_lightning.reproduce.spaces.ALGORITHMS`.
        network: ``dense`` or ``conv``.
        dataset: ``mnist`` or ``fashion_mnist``.
        seed: Seed of weights, order, negatives, augmentation and corruption.
        module: The network, in eval mode, on the accelerator if there is one. ``module(image)`` returns scores
            ``(B, C)`` for images ``(B, 1, 28, 28)``, float in [0, 1], on its device.
        validation: Validation data, on the CPU.
        test: Test data, on the CPU.
        training: What it was trained on.
    """

    algorithm: str
    network: str
    dataset: str
    seed: int
    module: Network
    validation: InMemoryDataset
    test: InMemoryDataset
    training: Training = Training()


@dataclasses.dataclass(frozen=True)
class NetworkRun:
    """One network to be trained; for the arguments see :class:`Trained`. ``quick`` trains a small one, two epochs."""

    algorithm: str
    network: str
    dataset: str
    seed: int
    training: Training = Training()
    quick: bool = False

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        parts = [self.algorithm, self.network, self.dataset, self.training.name, f"seed{self.seed}"]
        return "_".join([*parts, *(["quick"] if self.quick else [])])

    @property
    def before(self) -> "NetworkRun | None":
        """The run with whose weights this one starts, in a sequence of tasks."""
        if self.training.tasks < 2:
            return None
        return dataclasses.replace(self, training=dataclasses.replace(self.training, tasks=self.training.tasks - 1))

    @property
    def study(self) -> str:
        """The study of the settings. Both data sets share that of the dense network, which is of MNIST."""
        return "dense_clean" if self.network == "dense" else f"{self.dataset}_conv"

    @property
    def settings(self) -> str:
        """Where the settings of the training are from, and which units vote, if not all do."""
        won = WINNERS.get((self.study, self.algorithm))
        if won is None:
            return f"start of study {self.study}"
        vote = won["vote"]
        return f"study {self.study}" + ("" if vote is None else f", vote of unit {', '.join(str(k + 1) for k in vote)}")

    def train(self, data_dir: str, folder: Path, say: Callable[[str], None]) -> None:
        """Train the network, unless an earlier call has.

        A run that was interrupted resumes from its last epoch. A run whose recipe has changed since starts anew, and
        what was measured of it is removed.

        Args:
            data_dir: Folder of the data.
            folder: Folder of all runs; this one's is ``folder / name``.
            say: Prints one line of progress.
        """
        before = self.before
        if before is not None:
            before.train(data_dir, folder, say)
        L.seed_everything(self.seed, verbose=False)
        module, options = self._make(data_dir)
        epochs = self._epochs
        recipe = {
            "module": lean(to_recipe(module)),
            "data": lean(to_recipe(options)),
            "training": dataclasses.asdict(self.training),
            "epochs": epochs,
            "precision": self._study().precision,
        }
        place = folder / self.name
        if open_run(place, recipe) is not None:
            return
        if before is not None:
            module = before.load(folder)
            module.train()
        fitted = fit(module, self._data(data_dir, options), epochs, place, say, precision=recipe["precision"])
        checkpoint = read_checkpoint(fitted.checkpoint)
        AtomicCheckpointIO().save_checkpoint({key: checkpoint[key] for key in _KEPT}, place / "network.ckpt")
        parameters = sum(parameter.numel() for parameter in module.parameters())
        result = {"epochs": epochs, "parameters": parameters, **fitted.record(), "quick": self.quick}
        close_run(place, {**result, "settings": self.settings}, keep=["network.ckpt"])

    def load(self, folder: Path) -> Network:
        """Return the network that was trained, on the CPU, in training mode."""
        kind: type[Network] = BackpropModule if self.algorithm == "bp" else IntFFModule
        return kind.load_from_checkpoint(folder / self.name / "network.ckpt", map_location="cpu")

    def trained(self, data_dir: str, folder: Path) -> Trained:
        """Return the network that was trained, and its data."""
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        module = self.load(folder).to(device or "cpu").eval()
        _, validation, test = load_sets(self.dataset, data_dir, self.quick)
        return Trained(self.algorithm, self.network, self.dataset, self.seed, module, validation, test, self.training)

    @property
    def _epochs(self) -> int:
        epochs = 2 if self.quick else _EPOCHS[self.network]
        return max(1, epochs // TASKS) if self.training.tasks else epochs

    def _make(self, data_dir: str) -> tuple[Network, dict[str, Any]]:
        """Return the untrained network, and how the datamodule is to present its data."""
        study, won = self._study(), WINNERS.get((self.study, self.algorithm))
        if won is None:
            won = {"settings": start_of(study, self.algorithm), "vote": None}
        module, data = make(study, self.algorithm, won["settings"], data_dir, vote=won["vote"])
        given = data.init_arguments()
        return module, {name: given.get(name) for name in ("batch_size", "negatives", "augmentation")}

    def _study(self) -> Study:
        study = STUDIES[self.study]
        units = _QUICK_UNITS if self.quick else _CONV_UNITS
        return dataclasses.replace(study, units=units) if study.conv else study

    def _data(self, data_dir: str, options: dict[str, Any]) -> PairedDataModule:
        train, validation, test = load_sets(self.dataset, data_dir, self.quick)
        options = {**options, "seed": self.seed, "num_classes": CLASSES, "test": test}
        if self.training.noise:
            options["corruption"] = LabelNoise(self.training.noise)
        if self.training.images is not None:
            train = few_images(train, self.training.images, self.seed)
        if self.training.tasks:
            return PairedDataModule(train=of_task(train, self.training.tasks), val_size=0, **options)
        return PairedDataModule(train=train, val=validation, **options)


@functools.lru_cache(maxsize=2)
def load_sets(dataset: str, data_dir: str, quick: bool) -> tuple[InMemoryDataset, InMemoryDataset, InMemoryDataset]:
    """Return training, validation and test data of a data set.

    The validation data are the last 5,000 training images. A quick look has 1,000, 500 and 500 images.
    """
    options: dict[str, Any] = {"val_size": 0.2} if quick else {}
    source = DATASETS[dataset](data_dir, **options)
    source.prepare_data()
    train, validation, test = (_whole(source, part) for part in _PARTS)
    if quick:
        return first_images(train, 1000), first_images(validation, 500), first_images(test, 500)
    return train, validation, test


def _whole(source: MNISTDataModule, part: Part) -> InMemoryDataset:
    found = source.dataset(part)
    assert isinstance(found, InMemoryDataset)
    return found


def first_images(data: InMemoryDataset, count: int) -> InMemoryDataset:
    """Return the first images of a data set."""
    return InMemoryDataset(data.image[:count], data.target[:count])


def few_images(data: InMemoryDataset, count: int, seed: int) -> InMemoryDataset:
    """Return so many images, as many of each class, repeated as often as :class:`Training` says; all, if it has fewer.

    Args:
        data: Training data.
        count: Number of images; classes get one more or less if it is no multiple of their number.
        seed: Seed by which they are drawn.
    """
    if count >= len(data):
        return data
    order = Draws(seed, 0, torch.arange(len(data)), stream=3).shuffle()
    classes = data.target[order]
    # the place of each image among those of its class
    place = torch.nn.functional.one_hot(classes, CLASSES).cumsum(0).gather(1, classes.unsqueeze(1)).squeeze(1)
    chosen = order[(place * CLASSES + classes).argsort()[:count]].sort().values
    index = chosen.repeat(max(1, min(_FEW_PER_EPOCH, len(data)) // count))
    return InMemoryDataset(data.image[index], data.target[index])


def classes_of(task: int) -> tuple[int, int]:
    """Return the two classes of a task, numbered from 1."""
    return 2 * task - 2, 2 * task - 1


def of_task(data: InMemoryDataset, task: int) -> InMemoryDataset:
    """Return the images of a task, numbered from 1."""
    index = torch.isin(data.target, torch.tensor(classes_of(task)))
    return InMemoryDataset(data.image[index], data.target[index])
