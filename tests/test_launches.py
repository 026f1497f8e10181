"""The command line as Lightning starts it, and under torchrun on two "nodes" of this machine."""

import os
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
    """Lightning's own launch of two processes, and torchrun on two nodes of one process each."""
    root, no_test = "--trainer.default_root_dir", ["--test_after_fit", "false"]
    port = _port()
    launches = {
        "own": [[sys.executable, *FIT, "--trainer.devices", "2", root, "own"]],
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
    assert states["nodes"]["global_step"] == states["own"]["global_step"]
    for key, weight in states["own"]["state_dict"].items():
        assert torch.equal(states["nodes"]["state_dict"][key], weight), key
