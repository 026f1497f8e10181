"""The command line in two processes of one node, and under torchrun on two "nodes" of this machine."""

import socket
from pathlib import Path

import pytest
import torch
from conftest import ROOT

FIT = ["-m", "intff_lightning", "fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "1",
       "--trainer.limit_train_batches", "20", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp",
       "--data.batch_size", "16"]  # fmt: skip
ROOT_DIR = "--trainer.default_root_dir"

pytestmark = pytest.mark.slow  # processes that import torch


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _own(forks):
    """Two processes of one node; that Lightning starts processes by itself is shown by test_pipeline.py."""
    group = forks.start("intff_lightning", *FIT[2:], "--trainer.devices", "2", ROOT_DIR, "own", count=2)
    assert group.wait() == [0, 0], group.output[-3000:]
    return [group.output]


def _nodes(forks):
    """Torchrun on two nodes of one process each; torchrun itself is forked, and starts new processes."""
    options = ["--master_addr", "127.0.0.1", "--master_port", _port(), "--nnodes", "2", "--nproc_per_node", "1"]
    fit = [*FIT, "--test_after_fit", "false", "--trainer.devices", "1", "--trainer.num_nodes", "2", ROOT_DIR, "nodes"]
    groups = [forks.start("torch.distributed.run", *options, "--node_rank", rank, *fit, count=1) for rank in range(2)]
    for group in groups:
        assert group.wait() == [0], group.output[-3000:]
    return [group.output for group in groups]


def test_every_launch_trains_the_same_network(forks):
    states = {}
    for name, launch in {"own": _own, "nodes": _nodes}.items():
        outputs = launch(forks)
        for line in ("epoch 1/1", "checkpoints/best.ckpt"):
            assert sum(out.count(line) for out in outputs) == 1  # one process speaks
        assert not any("sync_dist" in out for out in outputs)
        assert [path.name for path in (Path(name) / "lightning_logs").iterdir()] == ["version_0"]
        last = Path(name) / "lightning_logs/version_0/checkpoints/last.ckpt"
        states[name] = torch.load(last, weights_only=True)
    assert states["nodes"]["global_step"] == states["own"]["global_step"]
    for key, weight in states["own"]["state_dict"].items():
        assert torch.equal(states["nodes"]["state_dict"][key], weight), key
