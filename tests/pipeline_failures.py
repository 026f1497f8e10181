"""A run of three stages in which one unit fails, started as a script by test_pipeline_failures.py."""

import os
import signal
import sys
import time
import warnings

import lightning as L
import torch

from intff_lightning import DenseUnit, HiddenUnit, IntFFModule, UnitPipelineStrategy
from intff_lightning.callbacks import GoodnessLogger
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.pipeline import watch


class Failing(torch.nn.Module):
    """A layer that fails in its 30th training batch, or is killed in its third, before the watch has looked twice."""

    def __init__(self, how, width):
        super().__init__()
        self.how, self.calls, self.linear = how, 0, torch.nn.Linear(width, 10)

    def forward(self, x):
        self.calls += self.training and torch.is_grad_enabled() and x.device.type == "cpu"
        if self.calls == (3 if self.how == "is killed" else 30):
            open(sys.argv[3], "w").close()
            if self.how == "raises":
                raise ZeroDivisionError("division by zero")
            if self.how == "diverges":
                return self.linear(x) * torch.nan
            if self.how == "hangs":
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL if self.how == "is killed" else signal.SIGSTOP)
        return torch.relu(self.linear(x))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    how, failing = sys.argv[1], int(sys.argv[2])
    watch._LOST = 4.0  # seconds; less to wait for
    units = [
        HiddenUnit(torch.nn.Sequential(torch.nn.Flatten(), Failing(how, 10 if k else 100)))
        if k == failing
        else DenseUnit([10])
        for k in range(3)
    ]
    trainer = L.Trainer(
        accelerator="cpu", devices=3, strategy=UnitPipelineStrategy(stages=[1, 1, 1], timeout=3), max_epochs=20,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=5, callbacks=[GoodnessLogger()],
    )  # fmt: skip
    trainer.fit(IntFFModule(units), DigitsDataModule(batch_size=16))
    print("trained")
