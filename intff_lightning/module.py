"""IntFFModule: the Integrated Forward-Forward algorithm as a LightningModule. The file this package exists for.

For unit k with input x (the output of unit k - 1, detached), on positive and negative data at once:

    h = f_k(normalize(x));   g = mean_j h_j^2;   L_k = local loss of g;   one step of optimizer k on dL_k

No gradient crosses a unit's border; inside a unit there is ordinary, shallow backpropagation.
"""

import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError
from intff_lightning.labels import LabelEncoder, LabelledImages, LabelOverlay, NoLabel
from intff_lightning.network import Network
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, make_scheduler
from intff_lightning.pairs import PairedBatch, RelabelledBatch, image_and_target
from intff_lightning.recipe import build, record
from intff_lightning.stepping import UnitSteps
from intff_lightning.units import HiddenUnit, UnitStack

__all__ = ["IntFFModule"]


class IntFFModule(LabelClassifier, UnitSteps, Network):
    """A stack of hidden units, each trained on its own goodness by its own optimizer.

    As a network it is a :class:`~intff_lightning.classifier.LabelClassifier`: ``module(image)`` gives the scores
    ``(B, C)`` of plain images.

    Args:
        units: hidden units in order; a plain ``torch.nn.Module`` is taken as a unit's body.
        encoder: how a label enters the input; default :class:`~intff_lightning.labels.LabelOverlay`. The first unit
            trains its parameters, where it has some. With a goodness by class
            (:class:`~intff_lightning.local.ChannelGoodness`) images show no label.
        optimizer: of every unit that has none of its own, ``parameters -> Optimizer``; default Adam at 0.002.
        scheduler: of every unit that has none of its own, ``optimizer -> LRScheduler``. One with an argument
            ``total_steps`` is stepped every batch and given the run's length; any other is stepped every epoch.
        scheduler_monitor: metric that a ``ReduceLROnPlateau`` watches.
        update: ``immediate`` trains unit after unit and frees each one's activations, so that memory does not grow
            with depth; ``joint`` does one backward pass of the summed local losses. The weights are the same to the
            last bit.
        inner_steps: steps that a unit takes on a batch before the next unit sees it.
        handover: activations passed on, computed ``before`` the unit's first step, or ``after`` its last (the
            author's order; ``immediate`` only, one more forward pass).
        gradient_clip_val: clips each unit's gradients by itself; ``None`` leaves it to the Trainer's flag.
        gradient_clip_algorithm: ``norm`` or ``value``.
        compile: compile each unit with ``torch.compile``; checkpoints are the same with and without.
        vote: units whose goodness is summed to classify; ``None`` is all of them.
        sweep_size: network inputs (images times labels) per pass while every label is tried, which bounds memory for
            any number of classes; ``None`` is 640 on a CPU, 8192 elsewhere.
        input_shape: of one image; ``None`` asks the datamodule.
        num_classes: ``None`` asks the datamodule.

    Raises:
        ConfigurationError: arguments that cannot work together.
    """

    def __init__(
        self,
        units: list[HiddenUnit],
        encoder: LabelEncoder | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_monitor: str = "val/accuracy",
        update: Literal["immediate", "joint"] = "immediate",
        inner_steps: int = 1,
        handover: Literal["before", "after"] = "before",
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        compile: bool = False,
        vote: list[int] | None = None,
        sweep_size: int | None = None,
        input_shape: list[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if units is None:
            raise CheckpointError(
                "this checkpoint does not record how its units were built (a body of yours has no recipe):\n"
                "give them, IntFFModule.load_from_checkpoint(path, units=[...])."
            )
        if update == "joint" and handover == "after":
            raise ConfigurationError("handover=after needs update=immediate: joint steps all units at the same time.")
        if inner_steps < 1 or (sweep_size is not None and sweep_size < 1):
            raise ConfigurationError(f"inner_steps={inner_steps} and sweep_size={sweep_size} must be 1 or more.")
        self.units = UnitStack(units)
        if vote is not None and (not vote or not all(0 <= k < len(self.units) for k in vote)):
            raise ConfigurationError(f"vote={vote}: units are numbered 0 to {len(self.units) - 1}, one or more vote.")
        self.encoder: LabelEncoder = self._settle_encoder(build(encoder))
        self.optimizer_factory: OptimizerFactory = build(optimizer) or functools.partial(torch.optim.Adam, lr=2e-3)
        self.scheduler_factory: SchedulerFactory | None = build(scheduler)
        self.scheduler_monitor = scheduler_monitor
        self.update, self.inner_steps, self.handover = update, inner_steps, handover
        self.gradient_clip_val, self.gradient_clip_algorithm = gradient_clip_val, gradient_clip_algorithm
        self.vote = list(range(len(self.units))) if vote is None else list(vote)
        self.sweep_size, self.compiled = sweep_size, compile
        record(self, input_shape=None, num_classes=None)
        self.configure_model()

    # ---------------------------------------------------------------- building

    def _settle_encoder(self, encoder: LabelEncoder | None) -> LabelEncoder:
        kinds = {bool(getattr(unit.goodness, "by_class", False)) for unit in self.units}
        if len(kinds) > 1:
            raise ConfigurationError("a goodness by class (ChannelGoodness) is for all units, or for none of them.")
        self.by_class = kinds == {True}
        if self.by_class and encoder is not None and encoder.shows_label:
            raise ConfigurationError(
                f"a goodness by class is of images without a label: leave the encoder ({type(encoder).__name__}) out."
            )
        return encoder or (NoLabel() if self.by_class else LabelOverlay())

    def unit_parameters(self, k: int) -> list[nn.Parameter]:
        """The unit's own, and for the first unit the encoder's, which it is the only one to see."""
        return super().unit_parameters(k) + (list(self.encoder.parameters()) if k == 0 else [])

    def setup(self, stage: str) -> None:
        """Settle the shape of an image and the number of classes, see :meth:`Network.setup`."""
        self.give_flags_back()
        super().setup(stage)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Build the units' bodies; see :meth:`Network.build`."""
        self.encoder.num_classes = num_classes
        self.encoder.check(input_shape, num_classes)
        with torch.no_grad():
            shape = tuple(self.encoder(torch.zeros(1, *input_shape), torch.zeros(1, dtype=torch.int64)).shape[1:])
        for k, unit in enumerate(self.units):
            unit.goodness.num_classes = num_classes
            try:
                shape = unit.materialize(shape)
            except ConfigurationError as error:
                raise ConfigurationError(f"unit_{k} {error}") from None
            if not any(parameter.requires_grad for parameter in unit.parameters()):
                raise ConfigurationError(f"unit_{k} has no parameters to train: put its layers into another unit.")
        if self.compiled:
            # units share the code of their forward pass, and each has some versions of it (training, evaluation, ...)
            dynamo = torch._dynamo.config
            dynamo.recompile_limit = max(dynamo.recompile_limit, 8 * (1 + len(self.units)))
            for unit in self.units:
                unit.compile()

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """One optimizer per unit, and its schedule where there is one."""
        optimizers: list[Optimizer] = []
        schedules: list[Any] = []
        for k, unit in enumerate(self.units):
            optimizers.append((build(unit.optimizer) or self.optimizer_factory)(self.unit_parameters(k)))
            factory = build(unit.scheduler) or self.scheduler_factory
            if factory is not None:
                schedule, interval = make_scheduler(factory, optimizers[-1], self.trainer.estimated_stepping_batches)
                schedules.append({"scheduler": schedule, "interval": interval, "name": f"lr/unit_{k}"})
        return optimizers, schedules

    # ---------------------------------------------------------------- training

    def loss_names(self) -> list[str]:
        """One for each unit."""
        return [f"unit_{k}" for k in range(len(self.units))]

    def training_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Tensor]:
        """Train every unit on one batch; ``global_step`` rises by one.

        Returns:
            ``loss`` (scalar, the sum of local losses), ``unit_loss`` ``(U,)``, ``positive_goodness`` ``(U, B)`` and
            ``negative_goodness`` ``(U, B, k)``, all detached and from before the units' steps.
        """
        x, batch = self._inputs(batch)
        entries: list[Any] = [x]  # the units' inputs; one that is read has no use, and its memory is the next one's
        del x
        others: Tensor | None = None
        losses: list[Tensor] = []
        goodnesses: list[Tensor] = []
        everyone = list(range(len(self.units)))
        read_again = self.inner_steps > 1 or self.handover == "after"
        for group in [[k] for k in everyone] if self.update == "immediate" else [everyone]:
            entries = entries[-1:]
            contexts = [others]  # and the summed goodness of the units before it
            for inner in range(self.inner_steps):
                total = torch.zeros(())
                for position, k in enumerate(group):
                    h = self.units[k](entries[position])
                    if not read_again:
                        entries[position] = None
                    loss, g = self.local_loss(k, h, batch, contexts[position])
                    total = loss if position == 0 else total + loss
                    if inner == 0:
                        entries.append(h.detach())
                        others = g.detach() if others is None else others + g.detach()
                        contexts.append(others)
                        losses.append(loss.detach())
                        goodnesses.append(g.detach())
                self.backward_units(total, group, batch_idx)
                last = group[-1] == everyone[-1] and inner == self.inner_steps - 1
                del h, loss, g, total  # the graph must be gone before the next unit builds its own
                self.step_units(group, batch_idx, counted=last)
            if self.handover == "after":
                with torch.no_grad():
                    entries = [self.units[group[-1]](entries[0])]
        outputs = self._outputs(losses, goodnesses, batch)
        assert self._losses is not None  # since training started
        self._losses.add(outputs["unit_loss"], len(batch.target), self.global_step)
        self._losses.log(self, batch_idx)
        if self.steps_now(batch_idx):
            self.step_schedules()
        return outputs

    def _inputs(self, batch: Any) -> tuple[Tensor | LabelledImages, PairedBatch]:
        """Positive and negative inputs of a batch at once, ``(B + B * k, *)``, and the batch.

        A goodness by class needs images and targets alone, of any datamodule.
        """
        if self.by_class and isinstance(batch, list | tuple):
            image, target = image_and_target(batch)
            return image, PairedBatch(image, image, image, target, None)
        if not isinstance(batch, PairedBatch):
            raise DataError(
                f"the dataloader gives {type(batch).__name__}, and IntFF trains on pairs of positive and negative "
                "data:\nwrap your datamodule, trainer.fit(module, PairedDataModule(YourDataModule()))."
            )
        if isinstance(batch, RelabelledBatch) and not self.encoder.shows_label:
            raise ConfigurationError(
                "wrong labels make the negatives, and no label is shown (NoLabel): use HybridImages, say, as negatives."
            )
        if isinstance(batch, RelabelledBatch) and batch.inputs.encoder is self.encoder:
            return batch.inputs, batch
        if any(True for _ in self.encoder.parameters()):
            raise ConfigurationError(
                f"{type(self.encoder).__name__} learns from images under wrong labels: use WrongLabels, ShuffledLabels "
                "or HardLabels."
            )
        return torch.cat([batch.positive, batch.negative]), batch

    def _pairs(self, g: Tensor, batch: PairedBatch) -> tuple[Tensor, Tensor | None]:
        """Goodness ``(..., B)`` and ``(..., B, k)`` of positive and negative data, from that of all inputs.

        By class, the true one's is positive and the others' are negative.
        """
        size = len(batch.target)
        if self.by_class:  # (..., B, C)
            classes = g.shape[-1]
            order = (batch.target.unsqueeze(1) + torch.arange(classes, device=g.device)) % classes
            g = g.gather(-1, order.expand(g.shape))
            return g[..., 0], g[..., 1:]
        positive, negative = g[..., :size], g[..., size:]
        if not negative.shape[-1]:
            return positive, None
        if isinstance(batch, RelabelledBatch) and batch.inputs.encoder is self.encoder:
            return positive, negative.view(*negative.shape[:-1], -1, size).transpose(-1, -2)  # label by label
        return positive, negative.view(*negative.shape[:-1], size, -1)  # sample by sample

    def local_loss(self, k: int, h: Tensor, batch: PairedBatch, others: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss of unit k, and its goodness ``(B + B * k,)`` in the order of the inputs, or ``(B, C)`` by class."""
        g = self.units[k].goodness(h)
        context = None if others is None else self._pairs(others, batch)
        return self.units[k].loss(*self._pairs(g, batch), batch.target, context), g

    def _outputs(self, losses: list[Tensor], goodnesses: list[Tensor], batch: PairedBatch) -> dict[str, Tensor]:
        unit_loss = torch.stack(losses)
        positive, negative = self._pairs(torch.stack(goodnesses), batch)
        return {
            "loss": unit_loss.sum(),
            "unit_loss": unit_loss,
            "positive_goodness": positive,
            "negative_goodness": positive.new_zeros(*positive.shape, 0) if negative is None else negative,
        }

    # ---------------------------------------------------------------- evaluation

    def _evaluation_step(self, batch: PairedBatch, stage: str) -> dict[str, Tensor]:
        x, batch = self._inputs(batch)
        others: Tensor | None = None
        losses, goodnesses = [], []
        for k, h in enumerate(self._activations(x)):
            loss, g = self.local_loss(k, h, batch, others)
            others = g if others is None else others + g
            losses.append(loss)
            goodnesses.append(g)
        outputs = self._outputs(losses, goodnesses, batch)
        self.log(f"{stage}/loss", outputs["loss"], batch_size=len(batch.target), sync_dist=True)
        return outputs

    def validation_step(self, batch: PairedBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Goodness of the batch's pairs; the keys of :meth:`training_step`. Callbacks turn them into metrics."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: PairedBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """As :meth:`validation_step`."""
        return self._evaluation_step(batch, "test")

    # ---------------------------------------------------------------- checkpoints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another network."""
        super().on_load_checkpoint(checkpoint)
        states = checkpoint.get("optimizer_states")
        if states and len(states) != len(self.units):
            raise CheckpointError(f"the checkpoint has {len(states)} optimizers for {len(self.units)} units.")
