"""What the tasks share: a network trained for a number of steps, as it was at its best validation."""

import copy
import functools
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from intff_lightning.callbacks import metrics_of
from intff_lightning.errors import DivergenceError
from intff_lightning.local import NoNormalization
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.units import DenseUnit, HiddenUnit

SETTINGS: tuple[dict[str, float], ...] = tuple(
    {"lr": lr, "weight_decay": decay} for lr in (0.002, 0.008) for decay in (0.01, 0.3)
)
"""What is tried of every algorithm; the best validation decides."""


def make_units() -> list[HiddenUnit]:
    """Make two units of two layers for standardized columns.

    The first one reads them as they are: the length of a row may say something about its target.
    """
    return [
        DenseUnit([64, 64], initialization="kaiming_normal", normalization=NoNormalization()),
        DenseUnit([64, 64], initialization="kaiming_normal"),
    ]


def schedule(setting: dict[str, float]) -> dict[str, Any]:
    """Return the optimizer and the learning-rate schedule of a setting, as arguments of a module."""
    rate, decay = setting["lr"], setting["weight_decay"]
    optimizer = functools.partial(torch.optim.AdamW, lr=rate, weight_decay=decay, fused=True)
    return {"optimizer": optimizer, "scheduler": CosineDecay}


class Best(Callback):
    """Keeps the weights of the best validation, and of the latest one among equals.

    Args:
        monitor: Metric that is to be high.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor, self.value = monitor, float("-inf")
        self.weights: dict[str, Any] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if value >= self.value:
            self.value, self.weights = value, copy.deepcopy(pl_module.state_dict())


def train(module: Network, data: L.LightningDataModule, epochs: int, monitor: str) -> float:
    """Train a network, give it the weights of the best of about 20 validations, and return that metric.

    Args:
        module: The network; it is in eval mode afterwards.
        data: Training and validation data.
        epochs: Epochs to train.
        monitor: Metric of the validation.

    Returns:
        The metric; minus infinity for a run that diverged.
    """
    best = Best(monitor)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[metrics_of(module), best],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=max(1, epochs // 20),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        try:
            trainer.fit(module, data)
        except DivergenceError:
            best.value = float("-inf")
    if trainer.interrupted:
        raise KeyboardInterrupt
    if best.weights:
        module.load_state_dict(best.weights)
    module.eval()
    return best.value
