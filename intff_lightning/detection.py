"""Anomaly scores: averaged over shifts of an image, and how well they tell anomalies from normal data."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

from intff_lightning.errors import ConfigurationError, DataError

MEASURES = ("auroc", "aupr", "fpr95")
"""Names of the measures of :func:`detection_metrics`."""


def check_shift(pixels: int, input_shape: tuple[int, ...] | None = None) -> None:
    """Refuse a number of pixels that is below 0, or that has no effect on samples of this shape."""
    if pixels < 0:
        raise ConfigurationError(f"anomaly_shift={pixels} must be 0 or more.")
    if pixels and input_shape is not None and len(input_shape) != 3:
        raise ConfigurationError(
            f"anomaly_shift={pixels} moves images (C, H, W), and samples have shape {input_shape}."
        )


def mean_over_shifts(read: Callable[[Tensor], Tensor], image: Tensor, pixels: int) -> Tensor:
    """Average what is read from images over their shifts by up to so many pixels in each direction.

    Args:
        read: Maps images ``(B, C, H, W)`` to any tensor.
        image: ``(B, C, H, W)``. Zeros enter at the border.
        pixels: Largest shift N; ``(2 N + 1) ** 2`` copies are read one after the other.
    """
    if not pixels:
        return read(image)
    height, width = image.shape[2:]
    padded = pad(image, [pixels] * 4)
    starts = range(2 * pixels + 1)
    read_of = [read(padded[:, :, row : row + height, column : column + width]) for row in starts for column in starts]
    return torch.stack(read_of).mean(0)


def detection_metrics(score: Tensor, anomalous: Tensor) -> dict[str, float]:
    """Return the AUROC, the AUPR and the FPR-95 of anomaly scores (Hendrycks, Mazeika and Dietterich 2019).

    - ``auroc``: the probability that an anomaly has a higher score than a normal sample; equal scores count one half.
    - ``aupr``: the average precision, with anomalies as the class to be found. A detector that knows nothing has the
      share of anomalies in the data.
    - ``fpr95``: the share of normal samples that raise an alarm at the highest threshold that finds 95 % of the
      anomalies, or more.

    Args:
        score: Anomaly scores ``(N,)``, higher for anomalies, on any scale.
        anomalous: True for anomalies, bool ``(N,)``.

    Raises:
        DataError: Normal samples or anomalies are missing, or a score is not a number.

    >>> score = torch.tensor([0.9, 0.5, 0.4, 0.3, 0.2, 0.1])
    >>> detection_metrics(score, torch.tensor([True, False, False, True, False, False]))
    {'auroc': 0.75, 'aupr': 0.75, 'fpr95': 0.5}
    """
    if score.isnan().any():
        raise DataError("an anomaly score is not a number.")
    if anomalous.all() or not anomalous.any():
        raise DataError("normal data and anomalies are needed to compare their scores, and there is only one of them.")
    # ranks: torchmetrics takes numbers outside of [0, 1] for logits, and large ones would become equal
    ranks = torch.unique(score, return_inverse=True)[1].double()
    ranks, target = ranks / max(1.0, float(ranks.max())), anomalous.long()
    false, true, _ = binary_roc(ranks, target)
    return {
        "auroc": float(binary_auroc(ranks, target)),
        "aupr": float(binary_average_precision(ranks, target)),
        "fpr95": float(false[true >= 0.95].min()),
    }
