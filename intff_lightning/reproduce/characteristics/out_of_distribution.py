r"""Out-of-distribution detection: does a network score images that are none of its classes lower than its test images?

The networks were trained on their own classes alone. Each score is higher for images that look like training data:

- *goodness*: the (weighted) sum of the voting units' goodness under the label that is best by it, or, for a network of
  backpropagation, the largest logit (Hendrycks et al. 2022), its counterpart;
- *p(positive)*: the network's probability that the image under this label is positive data, by its log-odds. These are
  the goodness minus the thresholds, so it always ranks images as goodness does;
- *maximum softmax*: the largest softmax probability of the logits (Hendrycks and Gimpel 2017);
- *energy*: :math:`\log \sum_c e^{s_c}` of the logits, the negative free energy (Liu et al. 2020).

The logits of a network with goodness are its scores over the temperature of its loss, as in training.

p(positive) exists only for networks with goodness, and with a loss that has a threshold.
"""

from typing import Any

import torch
from torch import Tensor

from intff_lightning.classifier import LabelClassifier
from intff_lightning.datamodules import FashionMNISTDataModule, MNISTDataModule
from intff_lightning.detection import detection_metrics
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import float_pixels
from intff_lightning.negatives import Rotated
from intff_lightning.network import Network
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import trained_temperature

GOODNESS = "goodness or largest logit"
_BATCH = 1000
_QUICK = 200  # images
_OTHER = {
    "mnist": ("Fashion-MNIST", FashionMNISTDataModule),
    "fashion_mnist": ("MNIST", MNISTDataModule),
}
_NAMES = {"auroc": ("AUROC", "higher"), "aupr": ("AUPR", "higher"), "fpr95": ("FPR-95", "lower")}
_NOISE, _BLANK = 1, 2  # streams of draws


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return AUROC, AUPR and FPR-95 of every score against every kind of foreign images.

    The images are the test images of the other data set, uniform noise, blank images of one grey level each, and the
    network's own test images rotated by 90, 180 or 270 degrees. There are as many of each as own test images; the
    foreign ones are the class that AUPR finds, see :func:`~intff_lightning.detection.detection_metrics`.
    """
    own = float_pixels(trained.test.image[: _QUICK if quick else None])
    mine = scores(trained.module, own)
    rows = []
    for what, foreign in foreign_images(own, trained.dataset, trained.seed, data_dir).items():
        theirs = scores(trained.module, foreign)
        for name, score in mine.items():
            anomalous = torch.arange(len(own) + len(foreign)) >= len(own)
            found = detection_metrics(-torch.cat([score, theirs[name]]), anomalous)
            for key, (title, better) in _NAMES.items():
                rows.append({"what": f"{what}, {name}", "measure": title, "value": found[key], "better": better})
    return rows


def foreign_images(own: Tensor, dataset: str, seed: int, data_dir: str) -> dict[str, Tensor]:
    """Return as many foreign images of each kind as own ones ``(N, C, H, W)``; the draws depend on the seed alone."""
    if dataset not in _OTHER:
        raise ConfigurationError(f"dataset={dataset!r}: there are foreign images for {', '.join(_OTHER)}.")
    title, datamodule = _OTHER[dataset]
    source = datamodule(data_dir)
    source.prepare_data()
    other: Any = source.dataset("test")
    index = torch.arange(len(own))
    grey = Draws(seed, 0, index, stream=_BLANK).uniform(1)
    return {
        title: float_pixels(other.image[: len(own)]),
        "uniform noise": _noise(own, seed),
        "blank": grey.view(-1, *[1] * (own.ndim - 1)).expand_as(own).contiguous(),
        "rotated": Rotated().images(own, torch.zeros_like(index), Draws(seed, 0, index))[:, 0],
    }


def _noise(own: Tensor, seed: int) -> Tensor:
    parts = torch.split(torch.arange(len(own)), _BATCH)  # draws take 64 bits per pixel
    return torch.cat([Draws(seed, 0, part, stream=_NOISE).uniform(*own.shape[1:]) for part in parts])


@torch.no_grad()
def scores(module: Network, image: Tensor) -> dict[str, Tensor]:
    """Return every score that a network has, ``(N,)`` float64 on the CPU each, of images ``(N, C, H, W)``."""
    parts: dict[str, list[Tensor]] = {}
    for some in torch.split(image, _BATCH):
        for name, score in _scores(module, some.to(module.device)).items():
            parts.setdefault(name, []).append(score.double().cpu())
    return {name: torch.cat(found) for name, found in parts.items()}


def _scores(module: Network, image: Tensor) -> dict[str, Tensor]:
    score: Tensor = module(image).double()  # (B, C)
    found = {GOODNESS: score.amax(1)}
    if isinstance(module, LabelClassifier):
        thresholds = [unit.loss.threshold for unit in module.units]
        if all(thresholds[k] is not None for k in module.vote):
            found["p(positive)"] = found[GOODNESS] - module.count_votes(
                score.new_tensor([t or 0.0 for t in thresholds])
            )
    logits = score / trained_temperature(module)
    return {**found, "maximum softmax": logits.softmax(1).amax(1), "energy": logits.logsumexp(1)}
