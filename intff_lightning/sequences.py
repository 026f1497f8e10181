"""Token sequences: ids ``(B, T)``, of which 0 is padding, and activations ``(B, T, D)`` with padded positions.

Padding is at the end of a sequence. Activations are exactly zero at padded positions, and in every other position at
least one of them is not (see :func:`mark`). So one plain tensor says which positions are padding, in every process and
on every device. Shapes say whether it does: see :class:`PaddedShape`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import DataError
from intff_lightning.functional import float_pixels

PADDING = 0
"""Id of the padding."""

_TRACE = 1e-5  # far below any goodness that matters; float16 and bfloat16 can hold it


class TokenShape(tuple[int, ...]):
    """Shape ``(T,)`` of sequences of token ids.

    Attributes:
        vocabulary: Number of ids, the padding included: ids are 0 to ``vocabulary - 1``.
    """

    vocabulary: int

    def __new__(cls, shape: Iterable[int], vocabulary: int) -> "TokenShape":
        """Make the shape from ``(T,)`` and the number of ids."""
        made = super().__new__(cls, shape)
        made.vocabulary = vocabulary
        return made

    def __getnewargs__(self) -> Any:
        """Return the arguments for a copy."""
        return tuple(self), self.vocabulary


class PaddedShape(tuple[int, ...]):
    """Shape ``(T, D)`` of activations of sequences; positions in which all of them are zero are padding."""


Shape = tuple[int, ...]


def shape_of(input_shape: Iterable[int], vocabulary: int | None) -> Shape:
    """Return the shape of images or tables, or that of token sequences if there is a vocabulary."""
    return tuple(input_shape) if vocabulary is None else TokenShape(input_shape, vocabulary)


def example(shape: Shape, size: int, like: Tensor | None = None) -> Tensor:
    """Return inputs ``(size, *shape)`` for a look at shapes, with the dtype and device of ``like``."""
    like = torch.empty(0) if like is None else like
    if isinstance(shape, TokenShape):
        return torch.ones(size, *shape, dtype=torch.int64, device=like.device)
    return torch.full((size, *shape), float(isinstance(shape, PaddedShape)), dtype=like.dtype, device=like.device)


def real_positions(x: Tensor) -> Tensor:
    """Return which positions are no padding, bool ``(B, T)``, for ids ``(B, T)`` or activations ``(B, T, D)``.

    >>> real_positions(torch.tensor([[7, 3, 0]]))
    tensor([[ True,  True, False]])
    """
    return x != PADDING if x.ndim == 2 else (x != 0).any(2)


def mark(h: Tensor, real: Tensor) -> Tensor:
    """Return activations ``(B, T, D)`` that are zero at padded positions, and at no other position all zero.

    A ReLU may leave a position that is no padding without any activity, so 1e-5 is added there.

    Args:
        h: ``(B, T, D)``.
        real: Positions that are no padding, ``(B, T)``.
    """
    return torch.where(real.unsqueeze(2), h + _TRACE, 0)


def length_ratio(h: Tensor) -> Tensor:
    """Return T divided by the length of each sequence ``(B, T, D)``: it turns means over T into means over the length.

    >>> length_ratio(torch.tensor([[[2.0], [1.0], [0.0], [0.0]]]))
    tensor([2.])
    """
    return h.shape[1] / real_positions(h).sum(1).clamp_(min=1)


def mean_of_positions(h: Tensor) -> Tensor:
    """Average ``(B, T, D)`` over the positions that are no padding, to ``(B, D)`` in float32 at least."""
    wide = torch.promote_types(h.dtype, torch.float32)
    return h.mean(1, dtype=wide) * length_ratio(h).unsqueeze(1)


class PositionMean(nn.Module):
    """The mean over the positions that are no padding, ``(B, T, D)`` to ``(B, D)``, in the dtype of the input."""

    def forward(self, h: Tensor) -> Tensor:
        return mean_of_positions(h).to(h.dtype)


def network_input(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Return pixels in the dtype of a network, and token ids (int64) as they are."""
    return image if image.dtype == torch.int64 else float_pixels(image, dtype).to(dtype)


def bad_sequences(ids: Tensor, vocabulary: int) -> Tensor:
    """Tell which sequences ``(B, T)`` have an id out of range, no token, or padding before a token: bool ``(B,)``."""
    real = ids != PADDING
    out_of_range = ((ids < 0) | (ids >= vocabulary)).any(1)
    return out_of_range | ~real[:, 0] | (real[:, 1:] & ~real[:, :-1]).any(1)


def check_sequences(ids: Tensor, vocabulary: int, where: str) -> None:
    """Refuse token sequences ``(B, T)`` by a DataError that names the first bad one, see :func:`bad_sequences`."""
    bad = bad_sequences(ids, vocabulary)
    if bad.any():
        first = int(bad.nonzero()[0])
        outside = ids[first][(ids[first] < 0) | (ids[first] >= vocabulary)]
        if len(outside):
            what = f"the id {int(outside[0])}, and ids must be 0 to {vocabulary - 1}. Correct it, or vocabulary"
        elif not ids[first].any():
            what = "no token: all of it is padding (0). Leave it out"
        else:
            what = "padding (0) before a token. Pad sequences at their end"
        raise DataError(f"{where}: sample {first} has {what} ({int(bad.sum())} of {len(bad)} samples are bad).")
