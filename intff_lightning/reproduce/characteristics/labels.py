"""Few labels and wrong labels: test accuracy of networks trained on less, or on worse, data."""

from typing import Any

from intff_lightning.reproduce.characteristics.networks import Trained, Training
from intff_lightning.reproduce.characteristics.reading import accuracy

FEW = (Training(images=100), Training(images=1000), Training(images=10_000), Training())
NOISE = (Training(), Training(noise=0.2), Training(noise=0.4), Training(noise=0.6))
CLEAN = "0 % wrong labels"


def few_labels(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the test accuracy of a network trained on a number of images."""
    count = trained.training.images
    return [_accuracy(trained, "all images" if count is None else f"{count:,} images")]


def label_noise(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the test accuracy of a network trained with a share of wrong labels; the test labels are right."""
    return [_accuracy(trained, _noise(trained.training.noise))]


def lost_by_noise(own: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the accuracy that the largest share of wrong labels costs."""
    found = {row["what"]: row["value"] for row in own}
    last = _noise(NOISE[-1].noise)
    lost = found[CLEAN] - found[last]
    return [{"what": f"{last}, against none", "measure": "accuracy lost", "value": lost, "better": "lower"}]


def _noise(share: float) -> str:
    return f"{100 * share:.0f} % wrong labels"


def _accuracy(trained: Trained, what: str) -> dict[str, Any]:
    value = accuracy(trained.module, trained.test)
    return {"what": what, "measure": "accuracy", "value": value, "better": "higher"}
