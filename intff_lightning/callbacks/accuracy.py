"""GoodnessAccuracy: how well goodness classifies."""

from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import DivergenceError
from intff_lightning.functional import is_decided
from intff_lightning.network import Network, StepOutput
from intff_lightning.pairs import image_and_target


@runtime_checkable
class HasLabelGoodness(Protocol):
    """A module that tells the goodness of every label."""

    def label_goodness(self, image: Tensor) -> Tensor:
        """Map images ``(B, *)`` to ``(U, B, C)``."""
        ...


class GoodnessAccuracy(EvaluationCallback):
    """Accuracy of the label with the highest goodness: by the vote of the units, and by each unit alone.

    It tries every label on every image (``module.label_goodness(image) -> (U, B, C)``), and logs ``val/accuracy``,
    ``val/accuracy/unit_0`` and so on, and the same under ``test/``. The vote of your own module is that of all units.
    A module without ``label_goodness`` counts as an ordinary classifier with scores ``module(image) -> (B, C)``. For a
    network trained without labels, or for a regression, it logs nothing. The precision is that of the Trainer.

    Scores without a finite largest one have no label, and end in a :class:`~intff_lightning.errors.DivergenceError`.

    Attributes:
        confusion: Counts ``(C, C)`` of the last evaluation by stage (``val``, ``test``); rows are true classes.
    """

    def __init__(self) -> None:
        self.confusion: dict[str, Tensor] = {}
        self._counts: Tensor | None = None  # (1 + U, C, C): the vote, then each unit
        self._undecided: Tensor | None = None  # (1 + U,): samples whose largest score is not finite
        self._last: tuple[Any, Tensor | None] = (None, None)

    def scores(self, module: L.LightningModule, batch: Any) -> Tensor | None:
        """Return the goodness of every label, ``(1 + U, B, C)``: the vote, then each unit.

        The scores of the last batch are kept. ``None`` means that the network knows no classes.
        """
        if self._last[0] is batch:
            return self._last[1]
        image, target = image_and_target(batch, module)
        if target.is_floating_point():
            return None
        with module.trainer.precision_plugin.forward_context():  # Lightning calls callbacks in full precision
            scores = _scores(module, image)
        self._last = (batch, scores)
        return scores

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        """Forget the scores of the last batch: a loader may give the same object again with other contents."""
        self._last = (None, None)

    on_test_batch_start = on_validation_batch_start

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._counts = self._undecided = None

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        if isinstance(outputs, StepOutput) and "label_goodness" in outputs:  # so it need not be computed again
            self._last = (batch, _with_vote(module, outputs["label_goodness"]))
        scores = self.scores(module, batch)
        if scores is not None:
            target, classes = image_and_target(batch, module)[1], scores.shape[2]
            counts = torch.stack(
                [multiclass_confusion_matrix(g, target, classes, validate_args=False) for g in scores.argmax(2)]
            )
            undecided = (~is_decided(scores)).sum(1)
            self._counts = counts if self._counts is None else self._counts + counts
            self._undecided = undecided if self._undecided is None else self._undecided + undecided

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._last = (None, None)
        if self._counts is None or self._undecided is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum")
        self._check(trainer.strategy.reduce(self._undecided, reduce_op="sum").tolist(), int(counts[0].sum()), stage)
        self.confusion[stage] = counts[0].cpu()
        vote, *units = (counts.diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2))).tolist()
        self.log_reduced(module, {f"{stage}/accuracy": vote}, prog_bar=True)
        self.log_reduced(module, {f"{stage}/accuracy/unit_{k}": unit for k, unit in enumerate(units)})

    def _check(self, undecided: list[int], count: int, stage: str) -> None:
        """Raise a DivergenceError if a sample has no label: its goodness is not finite, by the vote or by a unit."""
        vote, *units = undecided
        for name, number in [*((f"unit_{k}", number) for k, number in enumerate(units)), ("the vote", vote)]:
            if number:
                what = "the goodness of " + name if units else "the largest score"
                raise DivergenceError(
                    f"{what} is not finite for {number} of {count} samples ({stage}), so they have no label.\n"
                    "Evaluate in float32 (precision: 32-true), or train again with a lower learning rate."
                )


def _scores(module: Any, image: Tensor) -> Tensor | None:
    """Return the goodness of every label, ``(1 + U, B, C)``, or ``None`` for a network trained without labels."""
    if isinstance(module, Network) and module.unsupervised:
        return None
    if not isinstance(module, HasLabelGoodness):
        scores: Tensor = module(image)
        return scores.unsqueeze(0)
    return _with_vote(module, module.label_goodness(image))


def _with_vote(module: Any, units: Tensor) -> Tensor:
    """Put the vote before the goodness of every label by each unit ``(U, B, C)``."""
    vote = module.count_votes(units) if isinstance(module, LabelClassifier) else units.sum(0)
    return torch.cat([vote.unsqueeze(0), units])
