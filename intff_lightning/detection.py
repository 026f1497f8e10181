"""How well anomaly scores tell anomalies from normal data."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

from intff_lightning.errors import DataError

MEASURES = ("auroc", "aupr", "fpr95")
"""Names of the measures of :func:`detection_metrics`."""


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
