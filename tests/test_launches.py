"""The command line under torchrun, on two "nodes" of this machine, and what travels between processes."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

FIT = ["-m", "intff_lightning", "fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "1",
       "--trainer.limit_train_batches", "20", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp",
       "--data.batch_size", "16"]  # fmt: skip

pytestmark = pytest.mark.slow  # processes that import torch


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _torchrun(*options):
    return [sys.executable, "-m", "torch.distributed.run", "--master_addr", "127.0.0.1", *options]


def _run(*commands):
    """Run commands at the same time; their output."""
    one_thread = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # as torchrun has it: sums of several threads differ in last bits
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    processes = [subprocess.Popen(command, text=True, env=one_thread, **pipes) for command in commands]
    outputs = []
    for process in processes:
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out[-3000:]
        outputs.append(out)
    return outputs


def test_every_launch_trains_the_same_network():
    """Lightning's own launch, torchrun, and two nodes of one process each, all of two processes."""
    root, no_test = "--trainer.default_root_dir", ["--test_after_fit", "false"]
    port = _port()
    launches = {
        "own": [[sys.executable, *FIT, "--trainer.devices", "2", root, "own"]],
        "torchrun": [
            [
                *_torchrun("--nproc_per_node", "2", "--master_port", _port()),
                *[*FIT, *no_test, "--trainer.devices", "2", root, "torchrun"],
            ]
        ],
        "nodes": [
            [
                *_torchrun("--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1", "--master_port", port),
                *[*FIT, *no_test, "--trainer.devices", "1", "--trainer.num_nodes", "2", root, "nodes"],
            ]
            for rank in range(2)
        ],
    }  # fmt: skip
    states = {}
    for name, commands in launches.items():
        outputs = _run(*commands)
        for line in ("epoch 1/1", "checkpoints/best.ckpt"):
            assert sum(out.count(line) for out in outputs) == 1  # one process speaks
        assert not any("sync_dist" in out for out in outputs)
        assert [path.name for path in (Path(name) / "lightning_logs").iterdir()] == ["version_0"]
        last = Path(name) / "lightning_logs/version_0/checkpoints/last.ckpt"
        states[name] = torch.load(last, weights_only=True)
    for name in ("torchrun", "nodes"):
        assert states[name]["global_step"] == states["own"]["global_step"]
        for key, weight in states["own"]["state_dict"].items():
            assert torch.equal(states[name]["state_dict"][key], weight), (name, key)


BYTES = """
import lightning as L, torch
from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.datamodules import DigitsDataModule

counted = {"batch": 0}
plain = torch.distributed.all_reduce

def all_reduce(tensor, *args, **options):
    counted["batch"] += tensor.numel() * tensor.element_size()
    return plain(tensor, *args, **options)

torch.distributed.all_reduce = all_reduce

class Count(L.Callback):
    def on_train_start(self, trainer, module):
        def hook(state, bucket):  # what DDP would reduce by itself
            counted["batch"] += bucket.buffer().numel() * bucket.buffer().element_size()
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done
        trainer.strategy.model.register_comm_hook(None, hook)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        counted["batch"] = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx < 3:
            size = sum(p.numel() * p.element_size() for p in module.parameters())
            print(f"rank {trainer.global_rank} bytes {counted['batch']} parameters {size}", flush=True)

for update in ("immediate", "joint"):
    print("update", update, flush=True)
    L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
              enable_progress_bar=False, enable_model_summary=False, callbacks=[Count()], limit_val_batches=0,
              limit_train_batches=4).fit(
        IntFFModule([DenseUnit([20, 10]), DenseUnit([10]), DenseUnit([30])], update=update), DigitsDataModule())
torch.distributed.destroy_process_group()  # or its threads may abort while the interpreter ends
"""


def test_a_batch_reduces_every_gradient_once_whatever_the_schedule():
    Path("bytes.py").write_text(BYTES)
    (out,) = _run([sys.executable, "bytes.py"])
    assert set(re.findall(r"update (\w+)", out)) == {"immediate", "joint"}
    found = re.findall(r"bytes (\d+) parameters (\d+)", out)
    assert len(found) == 2 * 2 * 3  # schedules, processes, batches
    assert all(sent == size for sent, size in found)
