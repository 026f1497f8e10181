"""A look at the first sample of another datamodule, for the shape of its images."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from intff_lightning.datamodules.datasets import PARTS, Part
from intff_lightning.datamodules.loading import defines, flat_loaders
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.samples import Reader


def first_image(
    datamodule: Any, trainer: Any, loaders: Callable[[Part], Any], reader: Reader, reads_late: bool, name: str
) -> Tensor:
    """Return the first image of a datamodule, as its hooks and ``reader`` make it.

    Args:
        datamodule: Any LightningDataModule.
        trainer: Its Trainer, if it has one.
        loaders: Makes the loaders of a part.
        reader: Reads a batch.
        reads_late: Whether the datamodule changes batches after their transfer.
        name: Name of the datamodule in messages.

    Raises:
        ConfigurationError: The datamodule has no loader.
        DataError: There is no batch, or none can be read.
    """
    stage = {"validate": "val", "test": "test", "predict": "predict"}.get(
        str(trainer.state.fn.value if trainer and trainer.state.fn else ""), "train"
    )
    parts = sorted(PARTS, key=lambda part: part != stage)  # it may be set up for the running stage alone
    part = next((part for part in parts if defines(datamodule, f"{part}_dataloader")), None)
    if part is None:
        raise ConfigurationError(f"{name} defines no dataloader.")
    with isolate_rng():  # a look must not change the order of a shuffling loader
        try:
            for batch in flat_loaders(loaders(part))[0]:
                batch = datamodule.on_before_batch_transfer(batch, 0)
                if reads_late:
                    batch = datamodule.on_after_batch_transfer(batch, 0)
                image: Tensor = reader.batch(batch, labelled=False)[0][0]
                return image
        except (AttributeError, TypeError, RuntimeError) as error:  # of the datamodule
            reason = str(error).splitlines()[0][:200]
            raise DataError(f"{name}: its {part}_dataloader gives no batch to look at: {reason}") from error
    raise DataError(f"{name}: its {part}_dataloader gives no batch.")
