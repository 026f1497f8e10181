"""PairedDataModule: positive and negative data from any datamodule or data set of ``(image, target)``."""

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from intff_lightning.augmentations import Augmentation
from intff_lightning.corruptions import Corruption
from intff_lightning.datamodules import loading, options
from intff_lightning.datamodules.datasets import OF_DATASETS, PARTS, DatasetDataModule, Part, PartDataModule
from intff_lightning.datamodules.loading import IndexedBatch, InMemoryDataset, defines
from intff_lightning.datamodules.looking import first_image
from intff_lightning.draws import Draws, sample_numbers
from intff_lightning.errors import ConfigurationError
from intff_lightning.modes import evaluating
from intff_lightning.negatives import NegativeSource, ShiftedTargets, WrongLabels, check_negatives
from intff_lightning.pairs import PairedBatch, data_share
from intff_lightning.recipe import Recorded, record
from intff_lightning.samples import Reader, check_pixels, check_shape, checked, warn_of_mistakes
from intff_lightning.sequences import network_input


class PairedDataModule(Recorded, PartDataModule):
    """Emits a :class:`~intff_lightning.pairs.PairedBatch` for training, validation and test; images for prediction.

    It wraps any datamodule and forwards all of its hooks; data sets are put into a small datamodule of its own. Pairs
    are made on the device, one batch at a time, after the transfer. The order of the samples of data sets is a function
    of (seed, epoch), and negatives and augmentation are functions of (seed, epoch, sample), without the epoch outside
    training. A datamodule of yours keeps its own loaders and order; its draws are functions of (seed, epoch, batch,
    rank). What samples and batches may be, and when they are checked, is said in :mod:`intff_lightning.samples`.

    An option that would have no effect is refused: those of data sets and their loaders (``train`` to ``predict``,
    ``batch_size``, ``val_size``, ``val_seed``, ``num_workers``, ``cache``) beside a datamodule, which has its own.

    Args:
        datamodule: Any LightningDataModule whose batches begin ``(image, target)``, or are dictionaries of them. It has
            one loader for each stage; only for ``trainer.predict`` it may have several.
        train: Instead of a datamodule, a map-style data set of ``(image, target)`` or dictionaries; likewise ``val``,
            ``test`` and ``predict``.
        val: Validation data; ``None`` divides ``val_size`` samples off ``train``.
        test: Data for ``trainer.test``.
        predict: Data for ``trainer.predict``; ``None`` takes ``test``.
        negatives: Source of negative data; default :class:`~intff_lightning.negatives.WrongLabels`, or
            :class:`~intff_lightning.negatives.ShiftedTargets` for a regression.
        corruption: Corruption of training data, see ``intff_lightning.corruptions``; validation and test data stay
            clean.
        test_corruption: Corruption of the images of tests and predictions, such as the kinds of MNIST-C; training and
            validation data stay clean, and so do labels.
        augmentation: Augmentation of training images, after their corruption.
        batch_size: Positive samples per process and batch.
        val_size: Number of samples, or below 1 the share, of ``train`` that become validation data; 0 for none.
        val_seed: Seed by which validation samples are drawn, apart from ``seed`` so that runs share them.
        seed: Seed of order, negatives and augmentation; ``None`` takes that of ``seed_everything``, else 0.
        num_workers: Number of processes that read samples; data in memory needs none.
        num_classes: Number of classes; ``None`` asks the data, or counts the labels of training and validation data.
        regression: Targets are numbers; those of the training data are scaled to 0..1.
        target_range: Lowest and highest training target in a regression; ``None`` looks at training data in memory.
        keys: Names of the image and of the label in samples or batches that are dictionaries; ``None`` finds the usual
            names (``image``, ``img``, ``x``, ...; ``label``, ``target``, ``y``, ...).
        pixel_range: Lowest and highest pixel, which become 0 and 1; ``None`` takes 0..255 for uint8, and floating point
            pixels as they are. Other integers need it.
        vocabulary: Number of token ids, 0 (padding, at the end) included, if samples are token sequences ``(T,)``.
        cache: Read data sets into memory once, at their first use, so that an epoch reads no files. Their transforms
            must not be random.

    Raises:
        ConfigurationError: Arguments that cannot work, alone or together, or that have no effect.
    """

    draws_test_samples = False  # by val_seed, as digits do

    def __init__(
        self,
        datamodule: L.LightningDataModule | None = None,
        train: Dataset[Any] | None = None,
        val: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        predict: Dataset[Any] | None = None,
        negatives: NegativeSource | None = None,
        corruption: Corruption | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 128,
        val_size: float = 0.1,
        val_seed: int = 0,
        seed: int | None = None,
        num_workers: int = 0,
        num_classes: int | None = None,
        keys: list[str] | None = None,
        pixel_range: list[float] | None = None,
        vocabulary: int | None = None,
        cache: bool = False,
        test_corruption: Corruption | None = None,
        regression: bool = False,
        target_range: list[float] | None = None,
    ) -> None:
        super().__init__()
        given: Mapping[Part, Dataset[Any] | None] = dict(zip(PARTS, (train, val, test, predict), strict=True))
        options.check_options(
            batch_size, val_size, val_seed, seed, num_workers, num_classes, keys, pixel_range, vocabulary
        )
        options.check_test_corruption(test_corruption, vocabulary)
        for part, dataset in given.items():
            options.check_dataset(part, dataset)
        self._given = given
        default = ShiftedTargets() if regression else WrongLabels()
        self.negatives: NegativeSource = default if negatives is None else negatives
        self.corruption, self.augmentation, self.test_corruption = corruption, augmentation, test_corruption
        options.check_task(regression, target_range, num_classes, self.negatives, corruption)
        self.regression, num_classes = regression, 1 if regression else num_classes
        self._target_range = None if target_range is None else [float(end) for end in target_range]
        self.val_size, self.val_seed, self.seed = val_size, val_seed, seed
        self.vocabulary, self._name = vocabulary, type(datamodule or self).__name__
        self._reader = Reader(f"a batch of {self._name}", keys, pixel_range, vocabulary, regression)
        read_as = (batch_size, num_workers, self._reader, cache, self._name)
        count = functools.partial(getattr, self, "num_classes")  # pickles, unlike a lambda
        own = (self.load, self.divide, self._corrupt_set, self.settle_seed, num_classes, count)
        self.inner: Any = datamodule or DatasetDataModule(*own, *read_as)
        hooks = ("transfer_batch_to_device", "on_after_batch_transfer")
        self._reads_late = datamodule is not None and any(defines(datamodule, hook) for hook in hooks)
        self._corrupts_batches = corruption is not None
        self._user: Any = None  # the Trainer that set it up
        self._input_shape: tuple[int, ...] | None = None
        self._num_classes = num_classes
        record(self, logger=False)
        self._check_effects(datamodule)

    def _check_effects(self, datamodule: L.LightningDataModule | None) -> None:
        """Refuse options that were given and would have no effect."""
        if datamodule is not None:
            self.refuse(OF_DATASETS, f"{self._name} has its own data and loaders, so set it there")
            for name in OF_DATASETS:  # the command line records defaults, which are not in force
                self.hparams.pop(name, None)
        if type(self).load is not PairedDataModule.load:
            self.refuse(("datamodule", *PARTS), f"{type(self).__name__} reads its own data")
        elif self._given["val"] is not None:
            self.refuse(("val_size", "val_seed"), "val= gives the validation data, and nothing is divided")
        elif self._given["train"] is None and any(data is not None for data in self._given.values()):
            self.refuse(("val_size", "val_seed"), "there is no training data to divide")
        if not (self.val_size or self.draws_test_samples):
            self.refuse(("val_seed",), "val_size=0 draws no validation samples")
        own, inner = self._given, datamodule
        tested = any(own[p] is not None if inner is None else defines(inner, f"{p}_dataloader") for p in PARTS[2:])
        if type(self).load is PairedDataModule.load and not tested:
            self.refuse(("test_corruption",), "there are no data for tests or predictions")

    def refuse(self, names: Iterable[str], why: str) -> None:
        """Refuse options of these names that were given, because they would have no effect."""
        options.check_effects(names, self.init_arguments(), PairedDataModule, why)

    # ---------------------------------------------------------------- data sets, for families to override

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, or ``None``; ``train`` includes what becomes validation data."""
        return self._given[part]

    def divide(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Return the indices of the training and of the validation samples in a whole training set."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        held_out = self.held_out(size)
        order = Draws(self.val_seed, 0, torch.arange(size)).shuffle()
        return order[held_out:].sort().values, order[:held_out].sort().values

    def held_out(self, size: int) -> int:
        """Return the number of validation samples in a training set of this size."""
        return options.count_of("val_size", self.val_size, size)

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, or ``None`` if there is none.

        Raises:
            ConfigurationError: The data are those of another datamodule.
        """
        if not isinstance(self.inner, DatasetDataModule):
            raise ConfigurationError(f"the data sets are those of {type(self.inner).__name__}: ask it for them.")
        return self.inner.dataset(part)

    # ---------------------------------------------------------------- what the network must know of the data

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, from a look at one sample."""
        if self._input_shape is None:
            image = self._look()
            self._input_shape = tuple(image.shape)
            warn_of_mistakes(image)
        return self._input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes: given, told by the data, or counted in training and validation data.

        A module that was built for more classes than were counted knows better.
        """
        if self._num_classes is None:
            inner = self.inner
            told = inner.told_classes() if isinstance(inner, DatasetDataModule) else loading.told_classes(inner)
            built = loading.built_for(self.trainer, "num_classes")
            if isinstance(built, int) and (told is None or (isinstance(inner, DatasetDataModule) and told < built)):
                told = built
            if told is None:
                name = self._name if not isinstance(inner, DatasetDataModule) else "the data"
                raise ConfigurationError(f"{name} does not tell its number of classes: pass num_classes=.")
            self._num_classes = told
        return self._num_classes

    @property
    def target_range(self) -> list[float] | None:
        """Lowest and highest target of the training data, in a regression."""
        if self.regression and self._target_range is None:
            train = self.dataset("train") if isinstance(self.inner, DatasetDataModule) else None
            self._target_range = loading.training_range(train, loading.built_for(self.trainer, "target_range"))
        return self._target_range

    @property
    def batch_size(self) -> int:
        """Samples per process and batch; beside a datamodule, its own. Lightning's batch-size finder may set it."""
        return options.batch_size_of(self.inner)

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self.inner.batch_size = value
        if "batch_size" in self.inner.hparams:
            self.inner.hparams["batch_size"] = value

    def _look(self) -> Tensor:
        """Return the image of one sample."""
        if isinstance(self.inner, DatasetDataModule):
            source: Any = next((data for data in map(self.dataset, PARTS) if data is not None), None)
            if source is None:
                raise ConfigurationError("PairedDataModule has no data: give it a datamodule, or train=a dataset.")
            return replace(self._reader, where="a sample").samples([source[0]], labelled=False)[0][0]
        return first_image(self.inner, self.trainer, self.loader, self._reader, self._reads_late, self._name)

    def settle_seed(self) -> int:
        """Return the seed in force: the given one, else that of ``seed_everything``, else 0."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        return self.seed

    # ---------------------------------------------------------------- loaders

    def prepare_data(self) -> None:
        self.inner.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the data of a stage and settle the seed; refuse a second Trainer while another one runs."""
        if self._user not in (None, self.trainer) and self._user.state.status == "running":
            self.trainer = self._user  # its run continues
            raise ConfigurationError(
                f"{type(self).__name__} is in use by another Trainer, which still runs: give each one its own."
            )
        self._user = self.trainer
        self.settle_seed()
        self.inner.trainer = self.trainer
        self.inner.setup(stage)

    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        self.inner.on_exception(exception)

    def has_data(self, part: Part) -> bool:
        """Tell whether there is data of a part."""
        if isinstance(self.inner, DatasetDataModule):
            return self.dataset(part) is not None
        return defines(self.inner, f"{part}_dataloader")

    def loader(self, part: Part) -> Any:
        """Return the loader of the wrapped datamodule.

        Raises:
            ConfigurationError: The running stage has no data, or several loaders although it is not ``predict``.
        """
        if isinstance(self.inner, DatasetDataModule):
            return self.inner.loader(part)
        made = getattr(self.inner, f"{part}_dataloader")() if defines(self.inner, f"{part}_dataloader") else None
        optional = part == "val" and (self.trainer is None or self.trainer.state.fn != "validate")
        return loading.usable(made, f"{part}_dataloader of {self._name}", part, optional)

    # ---------------------------------------------------------------- pairs

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Read and check what the loaders of another datamodule give, while it is still on the CPU."""
        batch = self.inner.on_before_batch_transfer(batch, dataloader_idx)
        if isinstance(self.inner, DatasetDataModule) and isinstance(batch, IndexedBatch):
            image = self._in_dtype(batch.image)
            if image is batch.image:  # it was checked when it was loaded
                return batch
            check_pixels(image, f"a batch of {self._name} in {image.dtype}")
            return IndexedBatch(image, batch.target, batch.sample)
        return batch if self._reads_late else self._read(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make a :class:`PairedBatch`, on the device; images alone for prediction."""
        trainer: Any = self.trainer
        batch = self.inner.on_after_batch_transfer(batch, dataloader_idx)
        if self._reads_late:
            batch = self._read(batch, dataloader_idx)
        image, target, index = batch
        tested = (trainer.testing or trainer.predicting) and not self.reads_training_data
        if self.test_corruption is not None and tested:
            image = network_input(image, trainer.lightning_module.dtype)
            number = index if isinstance(self.inner, DatasetDataModule) else None
            image = self.test_corruption.of_test_images(image, number, seed=self.settle_seed())
        if trainer.predicting:
            return network_input(image, trainer.lightning_module.dtype)
        return self.pair(image, target, index, training=bool(trainer.training))

    def _read(self, batch: Any, dataloader_idx: int) -> IndexedBatch:
        """Read and check a batch of another datamodule."""
        if isinstance(batch, PairedBatch):
            raise ConfigurationError(f"{self._name} gives paired batches already: use it without PairedDataModule.")
        trainer, reader = self.trainer, self._reader
        image, target = reader.batch(batch, labelled=trainer is None or not trainer.predicting)
        image = self._in_dtype(image)
        number = 0 if trainer is None else loading.batches_begun(trainer)
        if isinstance(batch, IndexedBatch):
            index = batch.sample
        else:
            index = sample_numbers(len(image), number, data_share(trainer)[0], dataloader_idx).to(image.device)
        if target is None:
            check_pixels(image, reader.where, self.vocabulary)
            return IndexedBatch(image, torch.full_like(index, -1), index)
        target, classes, wait = target.to(image.device), self.num_classes, number == 0
        return IndexedBatch(*checked(image, target, classes, reader.where, wait, self.vocabulary), index)

    def _in_dtype(self, image: Tensor) -> Tensor:
        """Return images in the dtype of the module; on the CPU, uint8 is kept, because it is sent faster."""
        dtype: Any = torch.float32 if self.trainer is None else self.trainer.lightning_module.dtype
        if image.device.type == "cpu" and image.dtype in (dtype, torch.uint8):
            return image
        return network_input(image, dtype)

    def pair(self, image: Tensor, target: Tensor, index: Tensor, training: bool) -> PairedBatch:
        """Corrupt and augment images, and draw their negatives.

        Args:
            image: ``(B, *)``, uint8, or float in [0, 1].
            target: True classes ``(B,)``; in a regression, numbers that are not scaled.
            index: Numbers of the samples ``(B,)``, on which the draws depend.
            training: Corrupt and augment, and draw anew in every epoch.
        """
        trainer, seed = self.trainer, self.settle_seed()
        epoch = trainer.current_epoch if training and trainer else 0
        # training and evaluation data both count their samples from 0, and must not share draws
        generator = Draws(seed, epoch, index if training else ~index)
        module = trainer.lightning_module if trainer else None
        dtype: Any = torch.float32 if module is None else module.dtype
        image = network_input(image, dtype)
        if self.target_range is not None:
            target = loading.scaled(target, self.target_range).to(dtype)
        if training and self.corruption is not None and self._corrupts_batches:
            image, target = self.corruption.of_batch(image, target, num_classes=self.num_classes, seed=seed)
        if training and self.augmentation is not None:
            image = self.augmentation(image, generator=generator)
        if module is not None:
            check_shape(image, module.hparams.get("input_shape"), f"a batch of {self._name}")
        model = module if isinstance(self.negatives, NegativeSource) and self.negatives.uses_model else None
        with torch.no_grad(), contextlib.nullcontext() if model is None else evaluating(model, views=False):
            negatives = self.negatives(image, target, num_classes=self.num_classes, model=model, generator=generator)
        name = type(self.negatives).__name__
        check_negatives(*negatives, image=image, num_classes=self.num_classes, source=name, dtype=target.dtype)
        return PairedBatch(image, target, *negatives)

    def _corrupt_set(self, train: InMemoryDataset) -> InMemoryDataset:
        """Corrupt training data in memory once; other data is corrupted batch by batch, see :meth:`pair`."""
        if self.corruption is None:
            return train
        self._corrupts_batches = False
        worse = self.corruption.of_set(train.image, train.target, num_classes=self.num_classes, seed=self.settle_seed())
        return InMemoryDataset(*worse)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the seed in force and the state of the wrapped datamodule."""
        return {"seed": self.seed, "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the draws of the checkpoint; refuse another seed, if one was given."""
        options.check_seed(self.init_arguments().get("seed"), state_dict["seed"])
        if state_dict["seed"] != self.seed and isinstance(self.inner, DatasetDataModule):
            self.inner.forget()  # the data may be corrupted by another seed
        self.seed = state_dict["seed"]
        self.inner.load_state_dict(state_dict["inner"])
