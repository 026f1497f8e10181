"""Two processes on this machine give the weights and metrics of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

SCRIPT = """
import functools, json, sys, warnings
import lightning as L, torch
from intff_lightning import DenseUnit, HardLabels, IntFFModule, WrongLabels
from intff_lightning.augmentations import RandomShift
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, LinearProbe
from intff_lightning.datamodules import DigitsDataModule

warnings.simplefilter("ignore")
world, update, units, source, out = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
L.seed_everything(0)
module = IntFFModule(
    [DenseUnit([20, 10]) for _ in range(units)],
    update=update,
    optimizer=functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
)
module.double()
negatives = {"wrong": WrongLabels, "hard": HardLabels}[source](2)
data = DigitsDataModule(batch_size=48 // world, negatives=negatives, augmentation=RandomShift(1))
trainer = L.Trainer(
    accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_epochs=2, precision="64-true",
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[GoodnessLogger(), GoodnessAccuracy(), LinearProbe(epochs=2)],
)
trainer.fit(module, data)
metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
trainer.test(module, data, verbose=False)
metrics.update({k: float(v) for k, v in trainer.callback_metrics.items()})
torch.save(module.state_dict(), f"{out}.{trainer.global_rank}.pt")
if trainer.is_global_zero:
    json.dump({"step": trainer.global_step, **metrics}, open(f"{out}.json", "w"))
"""


@pytest.mark.parametrize(
    ("update", "units", "source"),
    [("immediate", 1, "wrong"), ("immediate", 4, "wrong"), ("joint", 1, "wrong"), ("joint", 4, "hard")],
)
def test_two_processes_equal_one(update, units, source):
    Path("script.py").write_text(SCRIPT)
    for world in (1, 2):
        run = [sys.executable, "script.py", str(world), update, str(units), source, f"w{world}"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(f"{name}.pt") for name in ("w1.0", "w2.0", "w2.1"))
    for name, weight in one.items():
        assert torch.equal(first[name], second[name])
        assert (first[name] - weight).abs().max() <= 1e-9 * weight.abs().max()
    ours, theirs = (json.loads(Path(f"w{world}.json").read_text()) for world in (1, 2))
    assert ours["step"] == theirs["step"] == 2 * (1257 // 48)
    assert ours.keys() == theirs.keys()
    probe = "test/probe_accuracy"  # its batches' statistics are those of one process
    for name in ours.keys() - {probe}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert abs(ours[probe] - theirs[probe]) < 0.1


def test_the_command_line_on_two_processes():
    options = ["--trainer.max_epochs", "1", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    fit = [sys.executable, "-m", "intff_lightning", "fit", "--config", str(ROOT / "configs/digits.yaml")]
    done = subprocess.run([*fit, *options, "--trainer.accelerator", "cpu"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sync_dist" not in done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    assert done.stdout.count("checkpoints/best.ckpt") == 1
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
