"""Activations as features that a linear probe reads."""

from collections.abc import Sequence

from torch import Tensor

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import rms_normalize
from intff_lightning.heads import average_patches


def flat_features(layers: Sequence[Tensor], normalize: bool, pool: int | None) -> list[Tensor]:
    """Return the activations ``(B, *)`` of layers as features, ``(B, F)`` each.

    Args:
        layers: Activations of one or more layers.
        normalize: Divide the activations of each layer by their root mean square.
        pool: Average maps ``(C, H, W)`` over patches first: at most ``pool`` x ``pool`` positions are left.
    """
    read = [h if pool is None or h.ndim != 4 else average_patches(h, pool) for h in layers]
    return [rms_normalize(h.flatten(1)) if normalize else h.flatten(1) for h in read]


def check_pool(pool: int | None) -> None:
    """Refuse a number of positions below 1."""
    if pool is not None and pool < 1:
        raise ConfigurationError(f"pool={pool}: a number of positions of 1 or more is needed.")


def check_maps(pool: int | None, dimensions: Sequence[int]) -> None:
    """Refuse to average maps if no layer gives any; ``dimensions`` holds ``h.ndim`` of each layer's activations."""
    if pool is not None and 4 not in dimensions:
        raise ConfigurationError(f"pool={pool} has no effect: nothing gives maps (C, H, W). Leave it out.")
