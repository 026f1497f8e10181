"""Attention units: transformer blocks over the patches of an image, or over any sequence of tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.units.hidden import activation_layer
from intff_lightning.units.positions import SequenceUnit


class Tokens(nn.Module):
    """Patches of an image, or a sequence, as tokens with learned positions (Dosovitskiy et al. 2021).

    Args:
        input_shape: Shape of one image ``(C, H, W)`` or one sequence ``(T, F)``.
        patch: Height and width of a patch, in pixels.
        width: Number of features per token.
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
        tokens: Tensor = self.embedding(x)
        return (tokens.flatten(2).transpose(1, 2) if x.ndim == 4 else tokens) + self.position


class _PaddedBlocks(nn.Module):
    """Transformer blocks in which no position attends to padding."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        tokens, *blocks, output = layers
        self.tokens, self.blocks, self.output = tokens, nn.ModuleList(blocks), output

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        padding = ~real
        padding[:, 0] = False  # a softmax over no position would be NaN
        h: Tensor = self.tokens(x)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=padding)
        h = self.output(h)
        return h


class AttentionUnit(SequenceUnit):
    """A unit of self-attention: tokens, ``blocks`` pre-norm transformer blocks, and a dense output layer.

    The first unit cuts an image into patches, or takes the tokens of :class:`~intff_lightning.labels.LabelToken`. Later
    units take the tokens of the unit before; no token attends to padding. The output shape is ``(T, width)``. Goodness
    is that of the output layer, because a residual stream would carry the goodness of its input along.

    Args:
        width: Number of features per token.
        blocks: Number of transformer blocks, one to three.
        heads: Number of attention heads; it divides ``width``.
        patch: Height and width of a patch, in pixels; it divides the height and width of the image.
        expansion: Number of neurons between the two dense layers of a block, as a multiple of ``width``.
        activation: Activation function of the output layer, by the name of its class in :mod:`torch.nn`.
        **options: Arguments of :class:`~intff_lightning.units.HiddenUnit`.
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
        activation_layer(activation)  # refuses unknown names now, not when the body is built
        self.width, self.blocks, self.heads, self.patch = width, blocks, heads, patch
        self.expansion, self.activation = expansion, activation

    def make_padded_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        return _PaddedBlocks(self.make_body(input_shape))

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Sequential:
        if len(input_shape) not in (2, 3):
            raise ConfigurationError(
                f"uses attention and needs an image (C, H, W) or tokens (T, F), not an input of shape {input_shape}."
            )
        if len(input_shape) == 3 and any(size % self.patch for size in input_shape[1:]):
            raise ConfigurationError(f"has patch={self.patch}, which does not divide an input of shape {input_shape}.")
        output = nn.Sequential(
            nn.LayerNorm(self.width), nn.Linear(self.width, self.width), activation_layer(self.activation)
        )
        inner = round(self.expansion * self.width)
        options: dict[str, Any] = {"dropout": 0.0, "activation": nn.functional.gelu, "norm_first": True}
        blocks = [
            nn.TransformerEncoderLayer(self.width, self.heads, inner, batch_first=True, **options)
            for _ in range(self.blocks)
        ]
        return nn.Sequential(Tokens(input_shape, self.patch, self.width), *blocks, output)

    def describe(self) -> str:
        return f"attention {self.width} wide, {self.blocks} blocks, {self.heads} heads, {self.activation}"
