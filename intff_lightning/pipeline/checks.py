"""What a pipeline cannot do, refused before it starts."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision

from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import datamodule_of
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import NegativeSource


def check_module(module: Any, precision: Any) -> None:
    """Refuse a run whose results would not be those of one process.

    Args:
        module: The LightningModule, with its trainer.
        precision: Lightning's plugin for the precision.

    Raises:
        ConfigurationError: It cannot be trained in a pipeline.
    """
    if not isinstance(module, IntFFModule):
        raise ConfigurationError(
            f"unit_pipeline trains an IntFFModule, not {type(module).__name__}: use --trainer.strategy ddp."
        )
    if module.predicts == "numbers":
        raise ConfigurationError(f"unit_pipeline: {type(module).__name__} needs all units in one process: use ddp.")
    if module.update == "joint":
        raise ConfigurationError("unit_pipeline needs update=immediate: joint steps all units at the same time.")
    if module.fits_votes:
        raise ConfigurationError("unit_pipeline: vote_weights=validation needs all units in one process. Give numbers.")
    datamodule = datamodule_of(module)
    negatives = datamodule.negatives if isinstance(datamodule, PairedDataModule) else None
    if isinstance(negatives, NegativeSource) and negatives.uses_model:
        raise ConfigurationError(
            f"unit_pipeline: {type(negatives).__name__} asks the whole network for each batch. Use WrongLabels."
        )
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        raise ConfigurationError("unit_pipeline: precision 16-mixed scales all units together. Use bf16-mixed.")
    trainer: Any = module.trainer  # its connectors add attributes that its class does not declare
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
        raise ConfigurationError("unit_pipeline: weight averaging needs all weights in one process. Leave it out.")


def check_stages(module: IntFFModule, stages: Sequence[range]) -> None:
    """Refuse units of different stages that share a parameter.

    Raises:
        ConfigurationError: There are such units.
    """
    owners: dict[int, int] = {}
    for number, units in enumerate(stages):
        for parameter in (p for k in units for p in module.units[k].parameters()):
            other = owners.setdefault(id(parameter), number)
            if other != number:
                raise ConfigurationError(
                    f"unit_pipeline: units of stage {other} and of stage {number} share a parameter. Put them into one "
                    "stage, stages=[...], or use --trainer.strategy ddp."
                )
