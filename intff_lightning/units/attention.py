"""Attention units: transformer blocks over patches of an image, or over any sequence of tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.units.hidden import HiddenUnit, activation_layer

__all__ = ["AttentionBlock", "AttentionUnit", "Tokens"]


class Tokens(nn.Module):
    """Patches of an image, or a sequence, as embedded tokens that know their position (Dosovitskiy et al. 2021).

    Args:
        input_shape: ``(C, H, W)`` of an image, or ``(T, F)`` of a sequence.
        patch: height and width of a patch.
        width: of a token.
    """

    def __init__(self, input_shape: tuple[int, ...], patch: int, width: int) -> None:
        super().__init__()
        if len(input_shape) == 3:
            channels, height, columns = input_shape
            self.embedding: nn.Module = nn.Conv2d(channels, width, patch, patch)
            count = (height // patch) * (columns // patch)
        else:
            self.embedding, count = nn.Linear(input_shape[1], width), input_shape[0]
        self.position = nn.Parameter(torch.randn(count, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` or ``(B, T, F)`` to ``(B, T, width)``."""
        tokens: Tensor = self.embedding(x)
        return (tokens.flatten(2).transpose(1, 2) if x.ndim == 4 else tokens) + self.position


class AttentionBlock(nn.Module):
    """A pre-norm transformer block: self-attention, then two dense layers, each added to its input.

    Args:
        width: of a token.
        heads: of the attention.
        expansion: neurons between the two dense layers, in token widths.
    """

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        inner = round(expansion * width)
        self.dense = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, width)`` to the same shape."""
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        y: Tensor = x + self.dense(self.norms[1](x))
        return y


class AttentionUnit(HiddenUnit):
    """A unit of self-attention: tokens, ``blocks`` pre-norm transformer blocks, and a dense output layer.

    The first unit cuts an image into patches (or takes the tokens of
    :class:`~intff_lightning.labels.LabelToken`); those after it take the tokens of the unit before. Hands over
    ``(T, width)``. Goodness is of the output layer: a residual stream would carry its input's goodness along.

    Args:
        width: of a token.
        blocks: transformer blocks, one to three.
        heads: of each attention; divides ``width``.
        patch: height and width of the patches of an image; divides both of the image.
        expansion: neurons between a block's two dense layers, in token widths.
        activation: of the output layer, the name of a class of :mod:`torch.nn`.
        **options: of :class:`~intff_lightning.units.HiddenUnit`.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 1,
        heads: int = 4,
        patch: int = 4,
        expansion: float = 2.0,
        activation: str = "ReLU",
        **options: Any,
    ) -> None:
        super().__init__(nn.Identity(), **options)
        if heads < 1 or width < 1 or width % heads:
            raise ConfigurationError(f"heads={heads} does not divide width={width}.")
        if blocks < 1 or patch < 1:
            raise ConfigurationError(f"blocks={blocks} and patch={patch} must be 1 or more.")
        activation_layer(activation)  # or it is refused
        self.width, self.blocks, self.heads, self.patch = width, blocks, heads, patch
        self.expansion, self.activation = expansion, activation

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """See :meth:`HiddenUnit.make_body`."""
        if len(input_shape) not in (2, 3):
            raise ConfigurationError(
                f"is of attention and needs an image (C, H, W) or tokens (T, F), not an input of shape {input_shape}."
            )
        if len(input_shape) == 3 and any(size % self.patch for size in input_shape[1:]):
            raise ConfigurationError(f"has patch={self.patch}, which does not divide an input of shape {input_shape}.")
        output = nn.Sequential(
            nn.LayerNorm(self.width), nn.Linear(self.width, self.width), activation_layer(self.activation)
        )
        blocks = [AttentionBlock(self.width, self.heads, self.expansion) for _ in range(self.blocks)]
        return nn.Sequential(Tokens(input_shape, self.patch, self.width), *blocks, output)

    def describe(self) -> str:
        """Width, blocks, heads, for tables."""
        return f"attention {self.width} wide, {self.blocks} blocks, {self.heads} heads, {self.activation}"
