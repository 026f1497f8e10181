"""The one way by which data enters: samples and batches of any kind become images and classes, or are refused.

A sample or a batch is ``(image, target, ...)`` or a dictionary. Further elements are ignored. Accepted are:

- images: tensors, NumPy arrays and PIL images, or a list of them in a batch. uint8 is scaled from 0..255 to 0..1 on the
  device, bool becomes 0 and 1, floating point is taken as it is, and ``pixel_range`` tells the range of any other;
- token sequences: integers of one length T, also as lists: ids from 0 (padding, at the end alone) to
  ``vocabulary - 1``. A datamodule says that its data are sequences, because integers could also be pixels:
  ``PairedDataModule(..., vocabulary=...)``;
- targets: integers, one per image, as tensors ``(B,)`` or ``(B, 1)``, arrays or lists; for a regression, numbers.

Data sets in memory are checked once, when they are loaded. The batches of any other data are checked one by one on the
CPU: those of a data set in the process that reads it, those of another datamodule before the transfer. A batch that can
only be read on an accelerator (plain batches without a ``PairedDataModule``; datamodules with their own
``on_after_batch_transfer`` or ``transfer_batch_to_device``) is not waited for while a network trains: a sample with a
label out of range becomes NaN there, and so does the loss, which stops the run.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import l2_norm
from intff_lightning.sequences import bad_sequences, check_sequences

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input_ids")
"""Names under which a dictionary's image, or its token sequence, is found."""
LABEL_KEYS = ("label", "labels", "target", "targets", "y")
"""Names under which a dictionary's label is found."""


@dataclass(frozen=True)
class Reader:
    """Reads samples and batches; their values are checked by :func:`check_labels` and :func:`check_pixels`.

    Args:
        where: Name of the data in messages.
        keys: Names of the image and the label in dictionaries; ``None`` takes the usual names, see ``IMAGE_KEYS`` and
            ``LABEL_KEYS``, if there is one of each.
        pixel_range: Lowest and highest value of the pixels, which become 0 and 1; ``None`` takes uint8, bool and
            floating point as they are, and refuses other integers.
        vocabulary: Number of token ids, if the data are token sequences ``(B, T)`` and no images. They become int64.
        regression: Targets are numbers, which become float32, and no classes.

    Raises:
        DataError: The data is of another kind.
        ConfigurationError: ``keys`` do not fit the data.
    """

    where: str
    keys: Sequence[str] | None = None
    pixel_range: Sequence[float] | None = None
    vocabulary: int | None = None
    regression: bool = False

    def batch(self, batch: Any, labelled: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the images ``(B, *)`` of a batch, uint8 or floating point, and its targets, see :meth:`labels`.

        Without ``labelled``, the batch may be the images alone, and there are no classes. Token sequences are int64.
        """
        images, labels = self._fields(batch, labelled)
        if isinstance(images, list | tuple):
            image = self._stacked(images)
        elif isinstance(images, Image.Image):
            raise self._refusal("a batch begins with a single PIL image", "Let the loader's collate_fn stack images.")
        else:
            image = self.pixels(self.tensor(images))
        if image.ndim < 2 or not image.numel():
            raise self._refusal(f"images have shape {tuple(image.shape)}", "A batch (B, *) of one or more is needed.")
        return image, self.labels(labels, len(image)) if labelled else None

    def samples(self, samples: Sequence[Any], labelled: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the images ``(B, *)`` of a list of samples, and their targets, as :meth:`batch` does."""
        images, labels = zip(*(self._fields(sample, labelled) for sample in samples), strict=True)
        return self._stacked(images), self.labels(labels, len(images)) if labelled else None

    def labels(self, labels: Any, size: int) -> Tensor:
        """Return the classes ``(B,)`` int64 of ``size`` images, or numbers float32 for a regression."""
        if self.regression:
            return self._numbers(labels, size)
        if isinstance(labels, list | tuple):
            target = torch.tensor([self._label(label) for label in labels], dtype=torch.int64)
        else:
            target = self.tensor(labels)
        if target.ndim == 2 and target.shape[1] == 1:
            target = target.squeeze(1)
        if target.is_floating_point() or target.is_complex() or target.shape != (size,):
            hint = "One-hot labels become classes by label.argmax(1)." if target.ndim == 2 else ""
            if target.is_floating_point() and target.ndim == 1:
                hint = "Whole numbers become integers by label.long()."
            kind = f"{target.dtype} of shape {tuple(target.shape)} for {size} images"
            raise self._refusal(f"one integer label per image is needed, and labels are {kind}", hint)
        return target.to(torch.int64)

    def _numbers(self, values: Any, size: int) -> Tensor:
        """Return the targets ``(B,)`` float32 of a regression."""
        if isinstance(values, list | tuple):
            parts = [torch.tensor(v) if isinstance(v, int | float) else self.tensor(v) for v in values]
            target = torch.cat([part.double().reshape(-1) for part in parts]) if parts else torch.empty(0)
        else:
            target = self.tensor(values)
        if target.ndim == 2 and target.shape[1] == 1:
            target = target.squeeze(1)
        if target.is_complex() or target.shape != (size,):
            kind = f"{target.dtype} of shape {tuple(target.shape)} for {size} images"
            raise self._refusal(f"one number per image is needed, and targets are {kind}", "")
        return target.float()

    def _fields(self, sample: Any, labelled: bool) -> tuple[Any, Any]:
        """Return the image and the label of a sample or a batch."""
        if isinstance(sample, Mapping):
            image = self._key(sample, IMAGE_KEYS, 0)
            return sample[image], sample[self._key(sample, LABEL_KEYS, 1)] if labelled else None
        if self.keys is not None:
            raise ConfigurationError(
                f"{self.where}: keys={list(self.keys)} has no effect, because it holds {_kind(sample)} and no "
                "dictionaries. Leave keys out."
            )
        if isinstance(sample, list | tuple):
            if not labelled and len(sample) > 1 and _are_images(sample[:2]):
                raise self._refusal(
                    f"it gives {len(sample)} tensors of one shape", "Stack them to one, torch.stack(images)."
                )
            if len(sample) >= (2 if labelled else 1):
                return sample[0], sample[1] if labelled else None
        elif not labelled:
            return sample, None
        raise self._refusal(
            f"(image, target) is needed, and it gives {_kind(sample)}",
            "Let its data set or its collate_fn return them.",
        )

    def _key(self, sample: Mapping[Any, Any], usual: Sequence[str], position: int) -> Any:
        found = [name for name in usual if name in sample] if self.keys is None else [self.keys[position]]
        if len(found) != 1 or found[0] not in sample:
            what = "image" if position == 0 else "label"
            raise ConfigurationError(
                f"{self.where}: which entry is the {what}? The dictionary has {', '.join(map(repr, sample))}.\n"
                f"Name both: PairedDataModule(..., keys=[IMAGE, LABEL])."
            )
        return found[0]

    def _stacked(self, images: Sequence[Any]) -> Tensor:
        """Return one tensor of a list of images."""
        arrays = [_of_pil(image, self.where) if isinstance(image, Image.Image) else image for image in images]
        tensors = [self.tensor(array) for array in arrays]
        for number, tensor in enumerate(tensors):
            self.check_alike(tensor, tensors[0], f"{number} of a batch")
        if tensors and not tensors[0].ndim:
            raise self._refusal("an image is a single number", "Images (*) of one or more dimensions are needed.")
        return self.pixels(default_collate(tensors))

    def check_alike(self, image: Tensor, first: Tensor, number: str) -> None:
        """Refuse an image, or a sequence, of another shape or dtype than the first one; ``number`` names it."""
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            what, advice = "image", "All images need one shape and one dtype: resize or convert them."
            if self.vocabulary is not None:
                what, advice = "sequence", "Pad the sequences of token ids with zeros to one length."
            raise self._refusal(f"{what} {number} is {_kind(image)}, and the first one {_kind(first)}", advice)

    def tensor(self, value: Any) -> Tensor:
        """Return a tensor of the same values."""
        if self.vocabulary is not None and isinstance(value, list) and all(isinstance(item, int) for item in value):
            value = torch.tensor(value, dtype=torch.int64)
        if isinstance(value, np.ndarray | np.generic):
            try:  # a copy: torch has no read-only arrays and no foreign byte order
                value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
            except TypeError:
                raise self._refusal(f"an array is of {value.dtype}", "Numbers are needed.") from None
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise self._refusal(f"it holds {_kind(value)}", "A dense tensor, an array or a PIL image is needed.")
        return value.detach() if value.requires_grad else value

    def _label(self, value: Any) -> int:
        """Return the class of one sample."""
        if isinstance(value, Tensor | np.ndarray):
            value = self.tensor(value)
            whole = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
            value = value.item() if whole else value
        if not isinstance(value, int | np.integer | np.bool_):
            hint = ""
            if isinstance(value, float | np.floating) or (isinstance(value, Tensor) and value.numel() == 1):
                hint = "Whole numbers become integers by int(label)."
            elif isinstance(value, Tensor):
                hint = "One-hot labels become classes by label.argmax()."
            elif isinstance(value, str):
                hint = "Number the classes from 0."
            raise self._refusal(f"one integer label per image is needed, and a label is {_kind(value)}", hint)
        if abs(int(value)) >= 2**63:
            raise self._refusal(f"a label is {value}", "Classes are numbered from 0.")
        return int(value)

    def pixels(self, image: Tensor) -> Tensor:
        """Return pixels as uint8 (0..255) or floating point, and token ids as int64."""
        if self.vocabulary is not None:
            return self._ids(image)
        if image.is_complex():
            raise self._refusal(f"images are {image.dtype}", "Real numbers are needed.")
        if self.pixel_range is not None:
            low, high = self.pixel_range
            scaled = (image.to(torch.float64) - low) / (high - low)
            if not image.is_floating_point():
                outside = (scaled < 0) | (scaled > 1)
                if image.device.type != "cpu":
                    scaled = scaled.masked_fill(outside, float("nan"))
                elif outside.any():
                    value = image[outside][0].item()
                    raise self._refusal(f"a pixel is {value}, and pixel_range={list(self.pixel_range)}", "Correct it.")
            return scaled.float()
        if image.dtype in (torch.uint8, torch.float32, torch.float64):
            return image
        if image.is_floating_point() or image.dtype == torch.bool:
            return image.float()
        raise self._refusal(
            f"pixels are {image.dtype}, and nothing tells their range",
            "Give it: PairedDataModule(..., pixel_range=[LOWEST, HIGHEST]). For token ids, give vocabulary=.",
        )

    def _ids(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim != 2:
            raise self._refusal(
                f"vocabulary={self.vocabulary}, and the batch is {_kind(ids)}", "Token ids are integers (B, T)."
            )
        return ids.to(torch.int64)

    def _refusal(self, what: str, advice: str) -> DataError:
        return DataError(f"{self.where}: {what}. {advice}".rstrip())


def _are_images(pair: Sequence[Any]) -> bool:
    """Tell whether two arrays look like two images rather than images and labels."""
    first, second = pair
    arrays = isinstance(first, Tensor | np.ndarray) and isinstance(second, Tensor | np.ndarray)
    return arrays and first.ndim > 1 and first.shape == second.shape


def _kind(value: Any) -> str:
    """Describe a value in a message."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, str):
        return f"the text {value[:20]!r}"
    return f"{type(value).__name__} of length {len(value)}" if isinstance(value, list | tuple) else type(value).__name__


def _of_pil(image: Image.Image, where: str) -> np.ndarray[Any, Any]:
    """Return the pixels ``(C, H, W)`` of a PIL image."""
    if image.mode in ("P", "PA"):
        raise DataError(
            f"{where}: a PIL image has colours from a palette (mode {image.mode}). Convert it, image.convert('RGB')."
        )
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def check_labels(target: Tensor, num_classes: int | None, where: str) -> None:
    """Refuse labels ``(B,)`` out of range by a DataError that names the first such sample of ``where``.

    Without ``num_classes`` every label from 0 on is allowed. The targets of a regression must be finite.
    """
    bad = _out_of_range(target, num_classes)
    if bad.any():
        first = int(bad.nonzero()[0])
        if target.is_floating_point():
            raise DataError(f"{where}: sample {first} has the target {target[first].item()}. Remove or correct it.")
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise DataError(
            f"{where}: sample {first} has the label {int(target[first])}, and labels must be {allowed} "
            f"({int(bad.sum())} of {len(bad)} are not). Correct the labels, or num_classes."
        )


def check_pixels(image: Tensor, where: str, vocabulary: int | None = None) -> None:
    """Refuse images ``(B, *)`` with NaN or infinite pixels by a DataError that names the first of them in ``where``.

    Pixels so large that the L2 norm of their image overflows are refused too: a normalization would make them zero.
    With a ``vocabulary``, bad token sequences are refused, see :func:`~intff_lightning.sequences.check_sequences`.
    """
    if vocabulary is not None:
        check_sequences(image, vocabulary, where)
    if image.is_floating_point():
        bad = ~l2_norm(image).isfinite()
        if bad.any():
            first = int(bad.nonzero()[0])
            what, advice = "NaN or infinite pixels", "Remove or repair them."
            if image[first].isfinite().all():
                what, advice = f"pixels too large for {image.dtype}", "Scale them to 0..1."
            raise DataError(
                f"{where}: sample {first} has {what} ({int(bad.sum())} of {len(bad)} samples have). {advice}"
            )


def check_shape(image: Tensor, shape: Sequence[int] | None, where: str) -> None:
    """Refuse images ``(B, *)`` of another shape than those for which the network was built, if that is known."""
    if shape is not None and tuple(image.shape[1:]) != tuple(shape):
        raise DataError(
            f"{where}: images have shape {tuple(image.shape[1:])}, and the network was built for {tuple(shape)}. "
            "Resize or reshape them."
        )


def warn_of_mistakes(image: Tensor) -> None:
    """Warn if an image looks like ``(H, W, C)``, as in image libraries, or like 8-bit pixels that nobody has scaled."""
    if image.ndim == 3 and image.shape[2] in (1, 3, 4) and min(image.shape[:2]) > 4:
        channels, height, width = image.shape
        warnings.warn(
            f"an image has shape {tuple(image.shape)}, which is taken as {channels} channels of {height} x {width} "
            "pixels. If the last number is that of the channels, move them to the front: numpy.moveaxis(image, -1, 0).",
            stacklevel=2,
        )
    if image.ndim > 1 and image.is_floating_point() and image.numel() and image.min() >= 0 and 10 < image.max() < 1e6:
        warnings.warn(
            f"an image has pixels up to {image.max():g}. They are taken as they are, and images in [0, 1] are "
            "expected: scale them, for example by PairedDataModule(..., pixel_range=[0, 255]).",
            stacklevel=2,
        )


def checked(
    image: Tensor, target: Tensor, num_classes: int | None, where: str, wait: bool, vocabulary: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return floating point images, or token sequences, and targets that are checked.

    Samples on the CPU are refused by name. So are those on an accelerator if ``wait`` allows to wait for it. Otherwise
    images with a label out of range become NaN; the ids of such a sequence, or of a bad one, become -1, which an
    :class:`~intff_lightning.units.EmbeddingUnit` turns into NaN.
    """
    if wait or image.device.type == "cpu":
        check_labels(target, num_classes, where)
        check_pixels(image, where, vocabulary)
        return image, target
    bad = _out_of_range(target, num_classes)
    target = target.masked_fill(bad, 0)
    if vocabulary is not None:
        return image.masked_fill((bad | bad_sequences(image, vocabulary)).unsqueeze(1), -1), target
    return image.masked_fill(bad.view(-1, *[1] * (image.ndim - 1)), float("nan")), target


def _out_of_range(target: Tensor, num_classes: int | None) -> Tensor:
    if target.is_floating_point():
        return ~target.isfinite()
    return (target < 0) if num_classes is None else (target < 0) | (target >= num_classes)
