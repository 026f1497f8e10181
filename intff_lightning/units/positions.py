"""Units over the positions of a sequence, some of which may be padding; and the unit that embeds token ids."""

from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import l2_norm, scale_samples
from intff_lightning.local import ScaleNormalization
from intff_lightning.sequences import PADDING, PaddedShape, TokenShape, mark, real_positions
from intff_lightning.units.hidden import HiddenUnit, activation_layer


class PaddedLayers(nn.Module):
    """Layers over sequences with padding: activations are zero at padded positions.

    Args:
        layers: Any module that takes ids ``(B, T)`` or activations ``(B, T, D)``, and the positions that are no
            padding ``(B, T)``, bool. What it returns at padded positions is dropped; the rest must not depend on what
            it is given there.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        real = real_positions(x)
        return mark(self.layers(x, real), real)


class SequenceUnit(HiddenUnit):
    """Base of units over positions that know padding: implement :meth:`make_padded_body`, and ``make_body`` if need be.

    Normalization and goodness are those of the positions that are no padding. A normalization that scales samples
    (``UnitL2``, ``RMS``) measures all of these positions together; any other is applied to each position by itself.
    """

    reads_padding = True

    def make_padded_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the layers for sequences with padding, see :class:`PaddedLayers`."""
        raise NotImplementedError

    def body_for(self, input_shape: tuple[int, ...]) -> nn.Module:
        self.check_input(input_shape)
        if isinstance(input_shape, TokenShape | PaddedShape):
            return PaddedLayers(self.make_padded_body(input_shape))
        return self.make_body(input_shape)

    def shape_after(self, input_shape: tuple[int, ...], h: Tensor) -> tuple[int, ...]:
        shape = tuple(h.shape[1:])
        return PaddedShape(shape) if isinstance(input_shape, TokenShape | PaddedShape) else shape

    def normalize(self, x: Tensor) -> Tensor:
        if not isinstance(self.input_shape, PaddedShape):
            return super().normalize(x)
        real = real_positions(x)
        if isinstance(self.normalization, ScaleNormalization):
            features = real.sum(1, keepdim=True) * x.shape[2]
            h = scale_samples(x, self.normalization.scale(l2_norm(x).unsqueeze(1), features.clamp_(min=1)))
        else:
            h = self.normalization(x.flatten(0, 1)).view_as(x)
        # a token without activity may have become zero, like padding; all others stay as they are
        return torch.where((real_positions(h) == real).unsqueeze(2), h, mark(h, real))


class _Embedding(nn.Module):
    """Embeds ids and lets each position see its neighbours; an id out of range becomes NaN."""

    def __init__(self, vocabulary: int, width: int, context: int, activation: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.layer = nn.Conv1d(width, width, context, padding=context // 2)
        self.activation = activation

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        if ids.is_floating_point():
            raise DataError(f"token ids are needed, integers, and the input is {ids.dtype}: give vocabulary=.")
        known = (ids >= 0) & (ids < self.embedding.num_embeddings)
        x = self.embedding(torch.where(known, ids, PADDING)).masked_fill(~known.unsqueeze(2), float("nan"))
        h: Tensor = self.activation(self.layer(x.transpose(1, 2)).transpose(1, 2))
        return h


class EmbeddingUnit(SequenceUnit):
    """The first unit for token sequences: a learned embedding of each id, and a dense layer over neighbouring tokens.

    It takes ids ``(T,)`` and returns one vector per position, ``(T, width)``; see
    :mod:`intff_lightning.sequences` for padding. Goodness is that of the dense layer over all positions. Ids have no
    length to normalize, so the module's default normalization is for the units that follow.

    Args:
        width: Number of features per token, of the embedding and of the dense layer.
        context: Number of neighbouring tokens that the dense layer reads, odd: 1 is each token alone, 3 are trigrams.
            Beyond the ends of a sequence there are zeros.
        activation: Activation function of the dense layer, by the name of its class in :mod:`torch.nn`.
        **options: Arguments of :class:`~intff_lightning.units.HiddenUnit`, without ``normalization``.
    """

    reads_tokens = True

    def __init__(self, width: int = 64, context: int = 3, activation: str = "ReLU", **options: Any) -> None:
        super().__init__(nn.Identity(), **options)
        if width < 1 or context < 1 or context % 2 == 0:
            raise ConfigurationError(f"width={width} must be 1 or more, and context={context} an odd number.")
        if options.get("normalization") is not None:
            raise ConfigurationError("EmbeddingUnit: normalization has no effect on token ids. Leave it out.")
        activation_layer(activation)  # refuses unknown names now, not when the body is built
        self.width, self.context, self.activation = width, context, activation

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        raise ConfigurationError(
            f"embeds token ids, and its input of shape {tuple(input_shape)} holds none: put it first, and give the "
            "number of ids, PairedDataModule(..., vocabulary=...)."
        )

    def make_padded_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        if not isinstance(input_shape, TokenShape):
            return self.make_body(input_shape)
        return _Embedding(input_shape.vocabulary, self.width, self.context, activation_layer(self.activation))

    def describe(self) -> str:
        return f"embedding {self.width} wide, context {self.context}, {self.activation}"
