"""What IntFF's module and the backpropagation baseline share: sized by their data, sufficient in their checkpoints."""

from typing import Any

import lightning as L
from torch import Tensor

from intff_lightning.errors import CheckpointError, ConfigurationError
from intff_lightning.losses import LossRecord
from intff_lightning.pairs import PairedBatch
from intff_lightning.randomness import random_states, restore_random_state
from intff_lightning.recipe import Recorded, recipe, recipe_of

__all__ = ["Network"]


class Network(Recorded, L.LightningModule):
    """Base of modules that classify images.

    A subclass records its arguments in its constructor (``record(self, input_shape=None, num_classes=None)``), then
    calls :meth:`configure_model`, and implements :meth:`build`.
    """

    _losses: LossRecord | None = None
    _resumed: dict[str, Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._built = False

    def loss_names(self) -> list[str]:
        """Names of the parts whose losses are recorded, in the order of their optimizers."""
        raise NotImplementedError

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Make the layers.

        Args:
            input_shape: of one image.
            num_classes: number of classes.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Ask the datamodule for the shape of an image and the number of classes."""
        self._ask_datamodule()
        for name in ("input_shape", "num_classes"):
            if self.hparams[name] is None:
                raise ConfigurationError(
                    f"nothing tells {name}: wrap your data, PairedDataModule(YourDataModule()), "
                    f"or pass it, {type(self).__name__}(..., {name}=...)."
                )

    def _ask_datamodule(self) -> None:
        datamodule = getattr(self._trainer, "datamodule", None)
        for name in ("input_shape", "num_classes"):
            mine, theirs = self.hparams[name], getattr(datamodule, name, None)
            if mine is not None and theirs is not None and recipe(mine) != recipe(theirs):
                raise ConfigurationError(f"the network was built for {name}={mine}, and the data has {theirs}.")
            self.hparams[name] = recipe(theirs if mine is None else mine)

    def configure_model(self) -> None:
        """Make the layers, once, as soon as the input's shape is known."""
        if not self._built:
            self._ask_datamodule()  # weight averaging comes here before `setup`
        input_shape, num_classes = self.hparams["input_shape"], self.hparams["num_classes"]
        if not self._built and input_shape is not None and num_classes is not None:
            self.build(tuple(input_shape), num_classes)
            self._built = True

    def on_train_start(self) -> None:
        """Start the record of the losses, or go on with a checkpoint's, and with its random draws."""
        self._losses = LossRecord(self.loss_names(), self.device)
        if self._resumed is not None and self.trainer.ckpt_path:
            self._losses.load_state_dict(self._resumed["losses"])
            restore_random_state(self._resumed["random"], self.global_rank)
        self._resumed = None

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss where it ended before its last batch."""
        assert self._losses is not None
        self._losses.end_epoch(self)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Scores ``(B, C)`` of a :class:`PairedBatch`, of ``(image, ...)`` or of an image tensor."""
        if isinstance(batch, PairedBatch):
            batch = batch.image
        scores: Tensor = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how the network and its data were built, in plain values whatever a subclass saved."""
        recipes = {"model": recipe_of(self)}
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, Recorded):
            recipes["data"] = recipe_of(datamodule)
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = recipes["model"]["init_args"]
        checkpoint.setdefault("recipes", {}).update(recipes)  # callbacks have been here before
        if self._losses is not None and self.trainer.state.fn == "fit":  # after its validation as well
            checkpoint["training"] = {"losses": self._losses.state_dict(), "random": random_states()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another network, by the first thing that differs."""
        self._resumed = checkpoint.get("training")
        theirs, mine = checkpoint["state_dict"], self.state_dict()
        for name in sorted(mine.keys() | theirs.keys()):
            shapes = [tuple(s[name].shape) if name in s else "missing" for s in (theirs, mine)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the checkpoint is of another network: {name} is {shapes[0]} there, and {shapes[1]} here."
                )
