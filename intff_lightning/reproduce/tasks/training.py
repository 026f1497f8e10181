"""What the tasks share: a network trained for a number of steps, as it was at its best validation."""

import copy
import functools
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from intff_lightning.callbacks import metrics_of
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import DivergenceError
from intff_lightning.local import NoNormalization
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.units import DenseUnit, HiddenUnit

_STEPS = 400
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


def epochs_of(data: PairedDataModule, quick: bool) -> int:
    """Return the number of epochs that make about 400 steps, at most 100; one for a quick look."""
    rows: Any = data.dataset("train")
    return 1 if quick else min(100, -(-_STEPS // max(1, len(rows) // data.batch_size)))


def train(module: Network, data: PairedDataModule, epochs: int, monitor: str | None = None) -> float:
    """Train a network; it is in eval mode afterwards.

    Args:
        module: The network.
        data: Training data, and validation data if there is a ``monitor``.
        epochs: Number of epochs.
        monitor: Metric of about 20 validations, of which the best one gives the weights; ``None`` keeps the last.

    Returns:
        The best value of the metric, or 0 without one; minus infinity for a run that diverged.
    """
    best = None if monitor is None else Best(monitor)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[] if best is None else [metrics_of(module), best],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0 if best is None else None,
        check_val_every_n_epoch=max(1, epochs // 20),
    )
    value = float("-inf")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*too few to calibrate.*")  # Linnerud, whose table shows the coverage
        try:
            trainer.fit(module, data)
            value = 0.0 if best is None else best.value
        except DivergenceError:
            pass
    if trainer.interrupted:
        raise KeyboardInterrupt
    module.eval()
    if best is not None and best.weights:
        module.load_state_dict(best.weights)
    return value
