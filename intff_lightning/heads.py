"""Goodness by class that is a linear map of what a unit knows, so that any unit can classify."""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, linear

from intff_lightning import functional as F
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import Goodness
from intff_lightning.sequences import mean_of_positions


class Head(Goodness):
    """Base of goodness by class that is a linear map of features of the unit: implement :meth:`features`.

    Args:
        learned: Let the unit's own optimizer train the linear map on the unit's own loss; else it stays as it is drawn.
    """

    by_class = True

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.linear: nn.Linear | None = None

    def features(self, h: Tensor) -> Tensor:
        """Map activations ``(B, *)`` to features ``(B, F)`` in float32 at least."""
        raise NotImplementedError

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().setup(input_shape, num_classes)
        self.linear = nn.Linear(self.features(torch.zeros(1, *input_shape)).shape[1], num_classes)
        if not self.learned:  # buffers: nothing trains or unfreezes them, and checkpoints hold them
            for name, value in list(self.linear.named_parameters()):
                delattr(self.linear, name)
                self.linear.register_buffer(name, value.detach())

    def forward(self, h: Tensor) -> Tensor:
        assert self.linear is not None  # after setup
        with torch.autocast(h.device.type, enabled=False):  # goodness in float32 whatever the precision
            weight, bias = F.at_least_float32(self.linear.weight), F.at_least_float32(self.linear.bias)
            return linear(self.features(h), weight, bias)


def _check_maps(head: Head, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"gives {input_shape}, and {type(head).__name__} reads patches of maps (C, H, W): choose another goodness."
        )


def average_patches(h: Tensor, patches: int) -> Tensor:
    """Average maps ``(B, D, H, W)`` over this number of patches along each side, at most one per position.

    It does what adaptive pooling does, whose backward pass is slower.
    """
    height, width = h.shape[2:]
    rows, columns = min(patches, height), min(patches, width)
    if (rows, columns) == (height, width):
        return h
    if height % rows or width % columns:
        return adaptive_avg_pool2d(h, (rows, columns))
    return avg_pool2d(h, (height // rows, width // columns))


class PatchGoodness(Head):
    """Goodness of spatial positions, :func:`~intff_lightning.functional.patch_goodness` (ASGE, Gong et al. 2025).

    A linear map of the goodness of all patches gives one goodness per class, so a unit needs no channels of its own for
    each class. Use it with ``LabelCrossEntropy(threshold_weight=0)``.

    Args:
        patches: Number of patches along each side of the maps, at most one per position. The paper takes more in early
            layers, which have fewer channels.
        learned: Train the linear map; the paper's is random and fixed.
    """

    def __init__(self, patches: int = 2, learned: bool = False) -> None:
        super().__init__(learned)
        if patches < 1:
            raise ConfigurationError(f"PatchGoodness(patches={patches}): 1 or more are needed.")
        self.patches = patches

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        _check_maps(self, input_shape)
        super().setup(input_shape, num_classes)

    def features(self, h: Tensor) -> Tensor:
        return F.patch_goodness(h, self.patches)


class LinearHead(Head):
    r"""A linear classifier of the unit's activations, trained with the unit (Mono-Forward, Gong et al. 2025).

    .. math:: g = W h + b

    Use it with ``LabelCrossEntropy(threshold_weight=0)``: the goodness of all units are then the logits of the classes,
    on one scale, which suits a vote.

    Args:
        pool: Average maps ``(D, H, W)`` over this number of patches along each side first, at most one per position,
            which makes the head smaller (global average pooling is 1). Sequences ``(T, D)`` are averaged over all
            positions that are no padding by 1. ``None`` reads every activation, as the paper does. In mixed
            precision, averages of maps are in the dtype of the maps, such as bfloat16; all else is in float32.
    """

    reads_padding = True

    def __init__(self, pool: int | None = None) -> None:
        super().__init__(learned=True)
        if pool is not None and pool < 1:
            raise ConfigurationError(f"LinearHead(pool={pool}): 1 or more is needed.")
        self.pool = pool

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if self.pool is not None and (len(input_shape) != 2 or self.pool > 1):
            _check_maps(self, input_shape)
        super().setup(input_shape, num_classes)

    def features(self, h: Tensor) -> Tensor:
        if self.pool is not None and h.ndim == 3:
            return mean_of_positions(h) if self.padded else h.mean(1, dtype=torch.promote_types(h.dtype, torch.float32))
        if self.pool is not None:
            h = average_patches(h, self.pool)
        return F.at_least_float32(h.flatten(1))
