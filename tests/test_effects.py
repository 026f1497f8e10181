"""Using the package leaves the user's process as it was."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, os, pkgutil, sys, warnings
import jsonargparse, lightning, matplotlib.figure, rich.console, sklearn.datasets, torch, torchmetrics, torchvision
import lightning.pytorch.cli, lightning.pytorch.loggers, torch.utils.tensorboard, tensorboard, yaml
from torchmetrics.classification import MultilabelAUROC

torch.set_num_threads(3)


def state():
    return {
        "warning filters": list(warnings.filters),
        "warnings are shown by": warnings.showwarning,
        "environment": dict(os.environ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "precision of products": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "random state": torch.get_rng_state().tolist(),
        "exception hook": sys.excepthook,
        "folder": os.getcwd(),
    }


def changed(before, what):
    for name, value in state().items():
        assert value == before[name], f"{what} changes the {name}: {before[name]} -> {value}"
"""

IMPORT = """
before = state()
import intff_lightning
changed(before, "import intff_lightning")
for found in pkgutil.walk_packages(intff_lightning.__path__, "intff_lightning."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        changed(before, f"import {found.name}")
"""

LOG = """
import lightning as L
from lightning.pytorch.loggers import CSVLogger
from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import DigitsDataModule


def run(ours):
    module, data = IntFFModule([DenseUnit([8])]), DigitsDataModule(batch_size=300, val_size=0 if ours else 100)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [GoodnessLogger(), GoodnessAccuracy()] if ours else []
    trainer = L.Trainer(max_epochs=1, logger=CSVLogger("logs"), callbacks=callbacks, log_every_n_steps=1, **options)
    with torch.random.fork_rng():
        trainer.fit(module, data)
        trainer.test(module, data, verbose=False)
    return trainer


before = state()
trainer = run(ours=True)
assert "test/accuracy" in trainer.callback_metrics
changed(before, "a run with metrics")
"""


@pytest.mark.slow
def test_importing_and_logging_have_no_global_effects():
    run = [sys.executable, "-c", SCRIPT + IMPORT + LOG]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
