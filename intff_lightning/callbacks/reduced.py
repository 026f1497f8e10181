"""Logging values that a callback has reduced over processes itself."""

import warnings
from collections.abc import Mapping

import lightning as L

__all__ = ["log_reduced"]


def log_reduced(module: L.LightningModule, values: Mapping[str, float], prog_bar: bool = False) -> None:
    """Log values that are equal on all processes, without Lightning's advice to reduce them once more."""
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\('(train|val|test|goodness)/")
    module.log_dict(values, prog_bar=prog_bar, batch_size=1)
