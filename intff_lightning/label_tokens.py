"""The label as a token of a sequence."""

import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelColumns, LabelEncoder, LabelOverlay
from intff_lightning.sequences import PADDING, TokenShape


class LabelPrefix(LabelEncoder):
    """The label as one more token in front of a sequence of token ids ``(T,)``, which becomes ``(T + 1,)``.

    Label c is the id ``vocabulary + c``. The neutral label is left out: the sequence has one more padded position at
    its end instead. It is the default for token sequences.
    """

    takes_tokens = True
    vocabulary: int = 0
    """Number of token ids without the labels, known after ``setup``."""

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if not isinstance(input_shape, TokenShape):
            raise ConfigurationError(
                f"LabelPrefix needs token sequences, and these samples of shape {tuple(input_shape)} are none:\n"
                "use another encoder, or give the number of token ids, PairedDataModule(..., vocabulary=...)."
            )
        self.num_classes, self.vocabulary = num_classes, input_shape.vocabulary
        self.output_shape = TokenShape([input_shape[0] + 1], self.vocabulary + num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return torch.cat([image, torch.full_like(image[:, :1], PADDING)], dim=1)
        return torch.cat([self.vocabulary + label.unsqueeze(1), image], dim=1)


def default_encoder(input_shape: tuple[int, ...]) -> LabelEncoder:
    """Return the encoder of a network that was given none.

    It is a prefix for token sequences, columns for a table, and the paper's overlay for images.
    """
    if isinstance(input_shape, TokenShape):
        return LabelPrefix()
    return LabelColumns() if len(input_shape) == 1 else LabelOverlay()
