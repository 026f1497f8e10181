"""What a resumed run may still do: options of the Trainer that its checkpoint would make void."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from intff_lightning.errors import CheckpointError


def refuse_smaller_limits(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume with fewer epochs or steps than the checkpoint has: they could have no effect."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    for (name, limit), done in zip(limits.items(), (epochs, checkpoint["global_step"]), strict=True):
        if limit is not None and -1 < limit < done:
            raise CheckpointError(f"{name}={limit} has no effect: {done} are done in the checkpoint. Give more.")


def resume_early_stopping(trainer: Any, states: dict[str, Any]) -> None:
    """Train no further after an ``EarlyStopping`` that ended the run, unless it is more patient now."""
    for callback in trainer.callbacks:
        state = states.get(callback.state_key)
        if isinstance(callback, EarlyStopping) and state:
            state["patience"] = callback.patience  # Lightning would restore that of the checkpoint
            stopped = state["stopping_reason"] != EarlyStoppingReason.NOT_STOPPED.value
            if state["stopping_reason"] == EarlyStoppingReason.PATIENCE_EXHAUSTED.value:
                stopped = state["wait_count"] >= callback.patience
            trainer.should_stop = trainer.should_stop or stopped
