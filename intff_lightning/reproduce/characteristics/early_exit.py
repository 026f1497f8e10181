"""Early exit: the accuracy of the first units alone, against what they cost.

IntFF and FF classify by the goodness of the first units, without further training. Backpropagation has nothing to
read there, so a logistic regression is fitted to what its layers hand over, as in a linear probe (Alain and Bengio
2017). The last exit is the network as it was trained, whatever the algorithm is.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from intff_lightning.backprop import BackpropModule
from intff_lightning.classifier import LabelClassifier
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.heads import LinearHead
from intff_lightning.reproduce.characteristics.networks import Trained, load_sets
from intff_lightning.reproduce.characteristics.reading import (
    UNIT_LAYERS,
    layers,
    scores,
    share_right,
    unit_outputs,
    watching,
)
from intff_lightning.reproduce.rounds import batches
from intff_lightning.reproduce.spaces import candidate_votes

_IMAGES = 10_000  # to choose the strength of a regression with
_STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of which validation data choose; larger is less regularized
_WHOLE = "whole network"
_POOLED = 4


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the test accuracy after each unit's layers, and the multiply-accumulates for one image.

    The vote of the first units, and the strength of a regression, are chosen on validation data. Units after the last
    one that votes are not computed. Exits are units before the last one; the whole network is as it was trained.
    """
    module, count = trained.module, len(layers(trained.module))
    rows = []
    if isinstance(module, LabelClassifier):
        exits = _by_goodness(module, trained, count)
    else:
        assert isinstance(module, BackpropModule)
        exits = _by_regression(module, trained, load_sets(trained.dataset, data_dir, quick)[0])
    for number, (value, cost) in enumerate(exits, 1):
        what = _WHOLE if number == len(exits) else f"first {number * UNIT_LAYERS} of {count} layers"
        rows.append({"what": what, "measure": "accuracy", "value": value, "better": "higher"})
        rows.append(
            {"what": what, "measure": "multiply-accumulates", "value": cost, "better": "lower", "unit": "count"}
        )
    return rows


def _by_goodness(module: LabelClassifier, trained: Trained, count: int) -> list[tuple[float, int]]:
    validation, test = (_label_goodness(module, data) for data in (trained.validation, trained.test))
    each = len(module.units) * UNIT_LAYERS // count
    exits = []
    for first in range(each, len(module.units), each):
        votes = candidate_votes(first)
        right = [share_right(validation[vote].sum(0), trained.validation.target) for vote in votes]
        vote = votes[right.index(max(right))]
        cost = multiply_accumulates(module, max(vote) + 1)
        exits.append((share_right(test[vote].sum(0), trained.test.target), cost))
    whole = share_right(scores(module, trained.test), trained.test.target)
    return [*exits, (whole, multiply_accumulates(module, max(module.vote) + 1))]


@torch.no_grad()
def _label_goodness(module: LabelClassifier, data: InMemoryDataset) -> Tensor:
    return torch.cat([module.label_goodness(image).cpu() for image, _ in batches(data, module.device)], dim=1)


def multiply_accumulates(module: LabelClassifier, units: int) -> int:
    """Count the multiply-accumulates of matrix products and convolutions that classify one image by the first units."""
    image = torch.rand(1, *module.hparams["input_shape"], device=module.device)
    return _counted(lambda: module.label_goodness(image, units))


def _counted(compute: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops()) // 2


def _by_regression(module: BackpropModule, trained: Trained, train: InMemoryDataset) -> list[tuple[float, int]]:
    fitted, validation, test = (_features(module, data) for data in (train, trained.validation, trained.test))
    target = train.target.numpy()
    validation_target = trained.validation.target.numpy()
    image = torch.rand(1, *module.hparams["input_shape"], device=module.device)
    exits = []
    for number in range(len(fitted) - 1):
        x, held_out, tested = (features[number].numpy() for features in (fitted, validation, test))
        right = {
            strength: _regression(strength, x[:_IMAGES], target[:_IMAGES]).score(held_out, validation_target)
            for strength in _STRENGTHS
        }
        best = _regression(max(_STRENGTHS, key=right.__getitem__), x, target)
        body = _counted(functools.partial(_run_until, module, image, UNIT_LAYERS * (number + 1) - 1))
        cost = body + x.shape[1] * int(module.hparams["num_classes"])
        exits.append((float(best.score(tested, trained.test.target.numpy())), cost))
    return [*exits, (share_right(scores(module, trained.test), trained.test.target), _counted(lambda: module(image)))]


def _regression(strength: float, x: Any, target: Any) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(x, target)


class _Reached(Exception):
    """The layer up to which a network was to be computed."""


def _run_until(module: BackpropModule, image: Tensor, last: int) -> None:
    """Compute the layers up to this one, numbered from 0."""

    def stop(k: int, output: Tensor) -> None:
        if k == last:
            raise _Reached

    with contextlib.suppress(_Reached), watching(layers(module), stop):
        module(image)


@torch.no_grad()
def _features(module: BackpropModule, data: InMemoryDataset) -> list[Tensor]:
    """Return what the layers of each unit hand over, ``(N, F)`` each; maps are averaged over 4x4 patches."""
    parts = [
        [_pooled(output).cpu() for output in unit_outputs(module, image)] for image, _ in batches(data, module.device)
    ]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def _pooled(h: Tensor) -> Tensor:
    return LinearHead(pool=_POOLED if h.ndim == 4 else None).features(h)
