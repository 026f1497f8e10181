"""IntFFModule: the Integrated Forward-Forward algorithm as a LightningModule. The file this package exists for.

For unit k with input x (the output of unit k - 1, detached), on positive and negative data at once:

    h = f_k(normalize(x));   g = mean_j h_j^2;   L_k = local loss of g;   one step of optimizer k on dL_k

No gradient crosses the border of a unit; inside a unit there is ordinary, shallow backpropagation.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import Tensor, nn

from intff_lightning.classifier import VoteWeights
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError, check_choice
from intff_lightning.functional import at_least_float32, pair_by_class, pair_by_input
from intff_lightning.labels import LabelEncoder
from intff_lightning.lightning_compat import allow_recompilations
from intff_lightning.local import Goodness, GoodnessPair, LocalLoss
from intff_lightning.network import StepOutput
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, check_factories
from intff_lightning.pairs import PairedBatch, image_and_target
from intff_lightning.passes import PartedPass, Passage, in_parts, refuse_batch_statistics
from intff_lightning.pretext import Pretext
from intff_lightning.stepping import ClipAlgorithm, Handover, UnitTrainer
from intff_lightning.units import HiddenUnit
from intff_lightning.views import Views
from intff_lightning.voting import Ballots

Update = Literal["immediate", "joint"]
_READING = ("begin", "forward_units", "local_loss", "goodness", "label_goodness")
"""Methods on which the goodness of a step and that of :meth:`IntFFModule.label_goodness` depend."""


def _unit_pipeline() -> Strategy:
    from intff_lightning.pipeline import UnitPipelineStrategy  # imports this file

    return UnitPipelineStrategy()


StrategyRegistry.register(
    "unit_pipeline", _unit_pipeline, description="Trains consecutive hidden units in processes of their own."
)


class IntFFModule(UnitTrainer):
    """A stack of hidden units, each trained on its own goodness by its own optimizer.

    As a network it is a :class:`~intff_lightning.classifier.LabelClassifier`: ``module(image)`` returns the scores
    ``(B, C)`` of plain images.

    Args:
        units: Hidden units in order; a plain ``torch.nn.Module`` becomes the body of a unit.
        encoder: How a label enters the input; default :class:`~intff_lightning.labels.LabelOverlay`, or
            :class:`~intff_lightning.labels.LabelColumns` for the columns of a table, of shape (D,). The first unit
            trains its parameters, if it has any. With goodness by class, images show no label.
        optimizer: ``parameters -> Optimizer`` for every unit that has none of its own; default Adam at 0.002.
        scheduler: ``optimizer -> LRScheduler`` for every unit that has none of its own. A schedule with an argument
            ``total_steps`` is stepped once per batch and given the length of the run; any other is stepped once per
            epoch.
        scheduler_monitor: Metric that a ``ReduceLROnPlateau`` watches; it steps at the end of each epoch in which the
            metric was logged.
        no_decay: Parameters without weight decay: parts of their names (``bias``) or classes of layers (``LayerNorm``).
        normalization: Input normalization of every unit that has none of its own; default
            :class:`~intff_lightning.local.UnitL2`.
        goodness: Goodness of every unit that has none of its own; default :class:`~intff_lightning.local.MeanSquares`.
        loss: Local loss of every unit that has none of its own; default :class:`~intff_lightning.local.SoftplusLoss`.
        update: ``immediate`` trains unit after unit and frees the activations of each, so that memory does not grow
            with depth. ``joint`` does one backward pass of the summed local losses. Both give the same bits.
        inner_steps: Number of steps that a unit takes on a batch before the next unit sees it.
        handover: Activations that a unit passes on: from ``before`` its first step, or from ``after`` its last (the
            author's order; it needs ``immediate`` and one more forward pass).
        gradient_clip_val: Clips the gradients of each unit by itself; ``None`` leaves it to the Trainer's flag.
        gradient_clip_algorithm: ``norm`` or ``value``.
        chunk_size: Network inputs (images times labels) that a unit reads at a time in training, which bounds the
            memory of activations for any number of negatives and units. The gradients are the same. Losses that compare
            the goodness of several inputs (all but ``SoftplusLoss``) need one more forward pass. ``None`` reads all at
            once.
        compile: Compile each unit with ``torch.compile``; checkpoints are the same with and without.
        vote: Numbers of the units whose goodness is summed to classify; ``None`` takes all.
        vote_weights: Weights of the voting units' goodness in the sum, in the order of ``vote``; ``None`` is 1 each.
            ``validation`` fits them after every validation of a run, by its cross-entropy, and keeps them in
            checkpoints. The accuracy that this validation logs is still by the weights of the one before.
        sweep_size: Network inputs (images times labels) per pass while every label is tried. It bounds memory for any
            number of classes; the default is 640 on a CPU and 8192 elsewhere.
        views: Views of an image, over which its goodness is averaged in eval mode (test-time augmentation):
            :class:`~intff_lightning.views.ShiftsAndFlips`. Training stays the same. Scoring takes as many passes.
            Losses, logged goodness and fitted votes are still those of the images themselves.
        pretext: Trains goodness by class without labels, on classes that are made of the images themselves:
            :class:`~intff_lightning.pretext.Rotations`. A linear probe reads the trained units.
        input_shape: Shape of one image; ``None`` asks the datamodule.
        num_classes: Number of classes; ``None`` asks the datamodule.
        vocabulary: Number of token ids, if the samples are token sequences; ``None`` asks the datamodule.

    Raises:
        ConfigurationError: Arguments that cannot work together.
    """

    def __init__(
        self,
        units: list[HiddenUnit],
        encoder: LabelEncoder | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_monitor: str = "val/accuracy",
        no_decay: list[str] | None = None,
        normalization: nn.Module | None = None,
        goodness: Goodness | None = None,
        loss: LocalLoss | None = None,
        update: Update = "immediate",
        inner_steps: int = 1,
        handover: Handover = "before",
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: ClipAlgorithm = "norm",
        chunk_size: int | None = None,
        compile: bool = False,
        vote: list[int] | None = None,
        vote_weights: VoteWeights | None = None,
        sweep_size: int | None = None,
        views: Views | None = None,
        pretext: Pretext | None = None,
        input_shape: list[int] | None = None,
        num_classes: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        if units is None:
            raise CheckpointError(
                "this checkpoint does not record how its units were built (a body of your own has no recipe):\n"
                "give the units, IntFFModule.load_from_checkpoint(path, units=[...])."
            )
        check_factories(optimizer, scheduler)
        check_choice("update", update, Update)
        if update == "joint" and handover == "after":
            raise ConfigurationError("handover=after needs update=immediate: joint steps all units at the same time.")
        super().__init__(
            units=units,
            encoder=encoder,
            parts={"normalization": normalization, "goodness": goodness, "loss": loss},
            vote=vote,
            vote_weights=vote_weights,
            sweep_size=sweep_size,
            views=views,
            pretext=pretext,
            inner_steps=inner_steps,
            handover=handover,
            gradient_clip=(gradient_clip_val, gradient_clip_algorithm),
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_monitor=scheduler_monitor,
            no_decay=no_decay,
            learning_rate=2e-3,
        )
        self._ballots: Ballots | None = None
        self.chunk_size = chunk_size
        self.compiled = compile
        self.update = update
        if chunk_size is not None:
            self._check_chunks(chunk_size)
        self.configure_model()

    def _check_chunks(self, inputs: int) -> None:
        """Refuse a size that is out of range, or has no effect, or does not fit other options."""
        if inputs < 1:
            raise ConfigurationError(f"chunk_size={inputs} must be 1 or more.")
        if self.by_class:
            raise ConfigurationError("chunk_size has no effect: by class, a unit reads an image once.")
        if self.update == "joint" or self.inner_steps > 1 or self.handover == "after":
            raise ConfigurationError("chunk_size needs update=immediate, inner_steps=1 and handover=before.")
        if type(self).local_loss is not IntFFModule.local_loss:
            raise ConfigurationError("chunk_size needs the package's local_loss, which sees goodness alone.")

    @property
    def groups(self) -> list[Sequence[int]]:
        """Units of this process that take their steps together."""
        return [self.own_units] if self.update == "joint" else [[k] for k in self.own_units]

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().build(input_shape, num_classes)
        if self.compiled:
            # each unit has several versions of the code they share (training, evaluation, ...)
            allow_recompilations(8 * (1 + len(self.units)))
            for unit in self.units:
                unit.compile()

    def loss_names(self) -> list[str]:
        return [f"unit_{k}" for k in range(len(self.units))]

    # ---------------------------------------------------------------- the algorithm

    def training_step(self, batch: Any, batch_idx: int) -> StepOutput:
        """Train every unit on one batch; ``global_step`` rises by one."""
        passage = self.begin(batch)  # x: positive and negative inputs at once
        if self.chunk_size is not None:
            self.train_in_chunks(passage, batch_idx, self.chunk_size)
        else:
            for group in self.groups:  # one unit after another, or all at once (update: joint)
                for turn in range(self.inner_steps):
                    loss = self.forward_units(group, passage, turn)  # h = f(normalize(x)), L = local loss of g(h)
                    self.backward_units(loss, group, batch_idx)  # dL/dW, inside the unit
                    self.step_units(group, turn, batch_idx)  # one step of the unit's own optimizer
                self.finish_units(group, passage)  # the next unit's x is h, detached
        self.finish_steps(batch_idx)  # those that wait for gradients of other processes
        outputs = self.outputs(passage)
        self.record_losses(outputs.unit_loss, len(passage.batch.target), batch_idx)
        self.step_schedules(batch_idx)
        return outputs

    def begin(self, batch: Any) -> Passage:
        """Start the passage of a batch through the units.

        Args:
            batch: A :class:`PairedBatch`. Goodness by class also takes ``(image, target, ...)`` of any datamodule.

        Raises:
            ConfigurationError, DataError: The batch has no pairs that this network can be trained on.
        """
        if self.by_class:
            image, target = image_and_target(batch, self, self.hparams["num_classes"])
            if self.pretext is not None:
                image, target = self.pretext(image)
            batch = PairedBatch(image, target, None, None)
        if not isinstance(batch, PairedBatch):
            raise DataError(
                f"the dataloader gives {type(batch).__name__}, and IntFF trains on pairs of positive and negative "
                "data:\nwrap your datamodule, trainer.fit(module, PairedDataModule(YourDataModule()))."
            )
        if batch.negative_image is None and batch.negative_target is not None and not self.encoder.shows_label:
            raise ConfigurationError(
                "the negatives are the same images under wrong labels, and NoLabel shows no label:\n"
                "use other negatives, for example HybridImages."
            )
        if self.stage is None or self.stage.first:
            return Passage(batch, self.encoder.inputs(batch))
        earlier, losses, goodness, *parts = self.stage.receive(batch)
        return Passage(batch, parts if len(parts) > 1 else parts[0], len(losses), earlier, losses, goodness)

    def forward_units(self, units: Sequence[int], passage: Passage, turn: int = 0) -> Tensor:
        """Return the summed local losses of these units; on the first turn, their activations are handed over."""
        again = torch.is_grad_enabled() and (self.inner_steps > 1 or self.handover == "after")
        losses = []
        for k in units:
            if self.stage is not None:
                self.stage.at(k, turn)
            # an input that is not read again is freed, and its memory serves the next one
            h = self.units[k](passage.inputs[k] if again else passage.inputs.pop(k))
            earlier = passage.earlier[k] if again else passage.earlier.pop(k)
            loss, g = self.local_loss(k, h, passage.batch, earlier)
            losses.append(loss)
            if turn == 0:
                passage.hand_over(h, loss, g, earlier)
        return sum(losses[1:], losses[0])

    def train_in_chunks(self, passage: Passage, batch_idx: int, size: int) -> None:
        """Train the units of this process on at most ``size`` inputs at a time, with the gradients of all at once."""
        units = {k: self.units[k] for k in self.own_units}
        refuse_batch_statistics(units)
        parts, earlier = passage.inputs.pop(self.own_units[0]), passage.earlier[self.own_units[0]]
        if not isinstance(parts, list):
            parts = in_parts(parts, size)
        keeps_outputs = self.stage is not None and not self.stage.last
        loss_of = functools.partial(self.loss_of, batch=passage.batch)
        parted = PartedPass(units, parts, earlier, loss_of, self.stage, keeps_outputs)
        for k, loss, first, last in parted.losses():
            self.backward_units(loss, [k], batch_idx, first, last)
            if last:
                self.step_units([k], 0, batch_idx)
        for k, earlier in parted.earlier():
            g = parted.goodness[k]
            passage.hand_over(parted.outputs, loss_of(k, g, earlier), g, earlier)
            self.finish_units([k], passage)

    def finish_units(self, units: Sequence[int], passage: Passage) -> None:
        """Free the inputs of these units; with ``handover: after``, pass on activations from after their steps."""
        if self.handover == "after":
            with torch.no_grad():
                passage.inputs[units[-1] + 1] = self.units[units[-1]](passage.inputs[units[-1]])
        for k in units:
            passage.inputs.pop(k, None)
            passage.earlier.pop(k, None)

    def local_loss(self, k: int, h: Tensor, batch: PairedBatch, earlier: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the local loss of unit k and its goodness; override it for a training rule of your own.

        Args:
            k: Number of the unit.
            h: Activations of the unit for all inputs of the batch, positives first.
            batch: Positive and negative data.
            earlier: Summed goodness of the earlier units, or ``None`` for the first unit.

        Returns:
            Scalar loss, and the goodness of all inputs in their order, or ``(B, C)`` by class.
        """
        g = self.units[k].goodness(h)
        return self.loss_of(k, g, earlier, batch), g

    def loss_of(self, k: int, g: Tensor, earlier: Tensor | None, batch: PairedBatch) -> Tensor:
        """Return the local loss of unit k for the goodness of all inputs, see :meth:`local_loss`."""
        context = None if earlier is None else self.goodness_pair(earlier, batch)
        loss: Tensor = self.units[k].loss(*self.goodness_pair(g, batch), batch.target, context)
        return loss

    def goodness_pair(self, g: Tensor, batch: PairedBatch) -> GoodnessPair:
        """Return positive goodness ``(*, B)`` and negative goodness ``(*, B, k)`` out of that of all inputs."""
        return pair_by_class(g, batch.target) if self.by_class else pair_by_input(g, len(batch.target))

    def outputs(self, passage: Passage) -> StepOutput:
        """Return what a step returns, once the batch has passed all units.

        A stage of a pipeline sends the batch on to the next, and returns zeros for the units of later stages.
        """
        unit_loss, goodness = torch.stack(passage.losses), torch.stack(passage.goodness)
        if self.stage is not None and not self.stage.last:
            following, later = len(unit_loss), len(self.units) - len(unit_loss)
            x, earlier = passage.inputs[following], passage.earlier[following]
            assert earlier is not None
            parts = x if isinstance(x, list) else [x]
            self.stage.send([earlier, unit_loss, goodness, *parts], passage.batch)
            unit_loss = torch.cat([unit_loss, unit_loss.new_zeros(later)])
            goodness = torch.cat([goodness, goodness.new_zeros(later, *goodness.shape[1:])])
        positive, negative = self.goodness_pair(goodness, passage.batch)
        return StepOutput(
            loss=unit_loss.sum(),
            unit_loss=unit_loss,
            positive_goodness=positive,
            negative_goodness=positive.new_zeros(*positive.shape, 0) if negative is None else negative,
        )

    # ---------------------------------------------------------------- evaluation and checkpoints

    def _evaluation_step(self, batch: Any, stage: str) -> StepOutput:
        passage = self.begin(batch)
        self.forward_units(self.own_units, passage)
        outputs = self.outputs(passage)
        self.log(f"{stage}/loss", outputs.loss, batch_size=len(passage.batch.target), sync_dist=True)
        if self._step_reads_labels():
            outputs["label_goodness"] = at_least_float32(torch.stack(passage.goodness))
        return outputs

    def _step_reads_labels(self) -> bool:
        """Tell whether an evaluation's step computes what :meth:`label_goodness` does; a subclass may change either."""
        own = any(getattr(type(self), name) is not getattr(IntFFModule, name) for name in _READING)
        return self.by_class and not (own or self.unsupervised or self.views is not None or self.stage is not None)

    def on_train_start(self) -> None:
        super().on_train_start()
        trainer: Any = self.trainer  # its connectors add attributes that its class does not declare
        empty = trainer.val_dataloaders is not None and not sum(trainer.num_val_batches)
        if self.fits_votes and (empty or not trainer.enable_validation):
            raise ConfigurationError("vote_weights=validation has no effect: this run has no validation. Leave it out.")
        if self.fits_votes and any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            raise ConfigurationError("vote_weights=validation: weight averaging would lose the votes. Give numbers.")

    def on_validation_epoch_start(self) -> None:
        """Collect the votes of a validation in a run, if their weights are fitted on it."""
        fits = self.fits_votes and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        self._ballots = Ballots() if fits else None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> StepOutput:
        """Return losses and goodness of a batch, from which callbacks make metrics; no unit is trained."""
        outputs = self._evaluation_step(batch, "val")
        if self._ballots is not None:
            if not outputs.negative_goodness.shape[2] or self.unsupervised:
                raise ConfigurationError("vote_weights=validation needs wrong labels, or goodness by class.")
            self._ballots.add(outputs.positive_goodness[self.vote], outputs.negative_goodness[self.vote])
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Fit the weights of the votes, see ``vote_weights``."""
        if self._ballots is not None:
            self.fitted_vote.copy_(self._ballots.fit(self.trainer.world_size))
            self._ballots = None

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> StepOutput:
        """Return losses and goodness of a batch, from which callbacks make metrics; no unit is trained."""
        return self._evaluation_step(batch, "test")
