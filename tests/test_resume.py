"""``fit --ckpt_path last``: the run resumes where it was, in its folder, to the same files."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from intff_lightning.checkpoints import find_checkpoint, resumed_version
from intff_lightning.cli import main
from intff_lightning.cli.command import log_root

FIT = ["fit", "--model", "IntFFModule", "--model.units", '[{"class_path": "DenseUnit", "init_args": {"widths": [9]}}]',
       "--data", "DigitsDataModule", "--trainer.accelerator", "cpu"]  # fmt: skip
RUN = Path("lightning_logs/version_0")


def _rows(run=RUN):
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def _same(a, b):
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (a, b))
    return all(torch.equal(first["state_dict"][name], weight) for name, weight in second["state_dict"].items())


KILLS = {
    # in the middle of an epoch, some steps after a checkpoint
    "in an epoch": """
import lightning as L
class Kill(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 33: os.kill(os.getpid(), signal.SIGKILL)
""",
    # when last.ckpt is renamed for the third time, at the end of the first epoch: its row of metrics was to follow
    "at a checkpoint": """
import pathlib
from lightning import Callback as Kill
rename, renamed = pathlib.Path.replace, []
def replace(source, target):
    rename(source, target)
    renamed.extend([target] * str(target).endswith("last.ckpt"))
    if len(renamed) == 3: os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = replace
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "step"), [("in an epoch", 32), ("at a checkpoint", 9)])
@pytest.mark.usefixtures("blank_figures")
def test_a_resumed_run_continues_its_folder_its_table_and_its_best_score(kill, step, capsys):
    assert main([*FIT, "--trainer.max_epochs", "6", "--trainer.default_root_dir", "whole"]) == 0
    start = "from intff_lightning.cli import main\nsys.exit(main(sys.argv[1:]))"
    Path("kill.py").write_text(f"import os, signal, sys\n{KILLS[kill]}\n{start}")
    options = ["--trainer.max_epochs", "6", "--trainer.callbacks+=__main__.Kill"]
    options += ["--trainer.callbacks+=intff_lightning.callbacks.LastCheckpoint"]
    options += ["--trainer.callbacks.every_n_train_steps", "4"]
    done = subprocess.run([sys.executable, "kill.py", *FIT, *options], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    assert len(_rows()) > 0
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs", "6", "--trainer.accelerator", "cpu"]) == 0
    assert "version_0/checkpoints/best.ckpt" in capsys.readouterr().out
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert _same(RUN, "whole" / RUN)
    assert _rows() == _rows("whole" / RUN)
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == torch.load("whole" / RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"]


def test_without_a_checkpoint_fit_starts_anew_and_test_says_so(capsys):
    assert main(["test", "--ckpt_path", "last"]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert main([*FIT, "--ckpt_path=last", "--trainer.fast_dev_run", "true"]) == 0
    assert "starts from scratch" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_any_other_checkpoint_starts_a_new_version():
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    best = str(RUN / "checkpoints/best.ckpt")
    assert main(["fit", "--ckpt_path", best, "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]) == 0
    assert (Path("lightning_logs/version_1") / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_newest_checkpoint_is_found(name):
    assert find_checkpoint(name, Path()) is None
    for version, age in ((0, 5), (1, 50), (2, 500)):
        path = Path(f"lightning_logs/version_{version}/checkpoints/{name}.ckpt")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find_checkpoint(name, Path()) == Path(f"lightning_logs/version_0/checkpoints/{name}.ckpt")
    shutil.rmtree("lightning_logs/version_0")
    assert find_checkpoint(name, Path()) == Path(f"lightning_logs/version_1/checkpoints/{name}.ckpt")


def test_the_log_folder_is_read_from_options_and_configs():
    Path("c.yaml").write_text("trainer: {default_root_dir: here}")
    assert log_root(["fit", "--config", "c.yaml"]) == Path("here")
    assert log_root(["fit", "--config=c.yaml", "--trainer.default_root_dir=there"]) == Path("there")
    assert log_root(["fit"]) == Path()


def test_which_checkpoint_continues_its_run():
    assert resumed_version("lightning_logs/version_7/checkpoints/last.ckpt", Path()) == 7
    assert resumed_version("lightning_logs/version_7/checkpoints/best.ckpt", Path()) is None
    assert resumed_version("elsewhere/version_7/checkpoints/last.ckpt", Path()) is None
    assert resumed_version(None, Path()) is None
