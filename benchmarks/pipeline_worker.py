"""One process of a measurement of ``python -m benchmarks pipeline``, which starts it by ``torchrun``.

``torchrun --nproc_per_node 2 -m benchmarks.pipeline_worker WAY NETWORK BATCHES FOLDER``
"""

import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy

from benchmarks.opponents import ADAM, Network, Stopwatch
from intff_lightning import UnitPipelineStrategy
from intff_lightning import callbacks as ours
from intff_lightning.averaging import Replicas
from intff_lightning.checkpoints import AtomicCheckpointIO
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.lightning_compat import quiet
from intff_lightning.pipeline.channel import Channel

NETWORKS: dict[str, tuple[Network, int]] = {  # and the number of images per batch
    "dense, 16 units of 512": (Network(((512,),) * 16), 256),
    "convolution, 8 units of 32 channels": (Network(((32,),) * 8, conv=True), 64),
    "dense, 8 units of 1024": (Network(((1024,),) * 8), 256),
    "dense, 12 units of 256 to 768": (Network(tuple((256 + 512 * (k % 2),) for k in range(12))), 256),
}
WARM_UP = 10


def main(way: str, name: str, batches: int, folder: Path) -> None:
    """Train and write ``RANK.json``: seconds per batch, bytes that were sent, memory."""
    warnings.simplefilter("ignore")
    quiet()
    torch.manual_seed(0)
    network, size = NETWORKS[name]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kind, _, micro_batches = way.partition(" ")
    if kind == "messages":
        found = _messages(batches)
    elif kind in ("loop", "GPipe", "1F1B"):
        found = _scheduled(kind, int(micro_batches or 1), network, size, batches)
    else:
        found = _trained(kind, network, size, batches, folder)
    found["peak MB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1e3
    rank = dist.get_rank() if dist.is_initialized() else 0
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


def _held(parameters: Any, optimizers: Any) -> float:
    """Return MB of parameters and of optimizer states."""
    states = [tensor for optimizer in optimizers for state in optimizer.state.values() for tensor in state.values()]
    held = [tensor for tensor in [*parameters, *states] if torch.is_tensor(tensor) and not tensor.is_meta]
    return sum(tensor.nbytes for tensor in held) / 1e6


class _Measure(Stopwatch):
    """Notes what a process holds and sends while it trains, and when each unit begins."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.found: dict[str, Any] = {}
        self._begun: list[float] = []
        self._seconds: list[list[float]] = []

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        finish = module.finish_steps

        def finish_steps(batch_idx: int) -> None:
            finish(batch_idx)
            self._begun.append(time.perf_counter())
            self._seconds.append([after - before for before, after in pairwise(self._begun)])
            self._begun = []

        for unit in module.units:
            unit.register_forward_pre_hook(lambda *_: self._begun.append(time.perf_counter()))
        module.finish_steps = finish_steps

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self.found["held MB"] = _held(module.parameters(), trainer.optimizers)
        stage = getattr(trainer.strategy, "stage", None)
        sent = stage.after.bytes if stage is not None and stage.after is not None else 0
        self.found["sent MB"] = sent / len(self.batches) / 1e6
        self.found["unit seconds"] = [statistics.median(each) for each in zip(*self._seconds[WARM_UP:], strict=True)]


def _trained(kind: str, network: Network, size: int, batches: int, folder: Path) -> dict[str, Any]:
    """Train by Lightning, with the callbacks and loggers that the command line has by default."""
    processes = int(os.environ["WORLD_SIZE"])
    images = size * (WARM_UP + batches)
    image, target = torch.rand(images, *network.shape), torch.randint(network.classes, (images,))
    share = size // processes if kind.startswith("DDP") else size
    data = PairedDataModule(
        train=InMemoryDataset(image, target), num_classes=network.classes, batch_size=share, val_size=0
    )
    module = network.intff()
    watch, loggers = _Measure(), [L.pytorch.loggers.CSVLogger(folder), L.pytorch.loggers.TensorBoardLogger(folder)]
    strategy: Any = "ddp" if kind.startswith("DDP") else UnitPipelineStrategy() if kind == "pipeline" else "auto"
    defaults = [ours.GoodnessLogger(), ours.GoodnessAccuracy(), ours.TerminalReport(), ours.TrainingFigures()]
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, logger=loggers, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, plugins=[AtomicCheckpointIO()],
        callbacks=[watch, *defaults, ours.LastCheckpoint()],
    )  # fmt: skip
    with mock.patch.object(Replicas, "average", _average_at_once) if kind == "DDP_in_turn" else nullcontext():
        trainer.fit(module, data)
    ends = watch.batches
    return {"seconds": (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP), **watch.found}


def _average_at_once(self: Replicas, parameters: Any, average: Any = Replicas.average) -> Callable[[], None]:
    """Average gradients before the next unit is computed, instead of meanwhile."""
    average(self, parameters)()
    return lambda: None


def _scheduled(kind: str, micro_batches: int, network: Network, size: int, batches: int) -> dict[str, Any]:
    """Train the same network by backpropagation, by the schedules of torch and nothing else."""
    dist.init_process_group("gloo")  # also for one process, whose plain loop is what the schedules are compared with
    rank, count = dist.get_rank(), dist.get_world_size()
    module: Any = network.backprop()
    layers = [*module.body.body.layers, module.head]
    begin, end = rank * len(layers) // count, (rank + 1) * len(layers) // count
    part = torch.nn.Sequential(*layers[begin:end])
    optimizer = ADAM(part.parameters())
    schedule: Any = None
    if count > 1:
        stage = PipelineStage(part, rank, count, torch.device("cpu"))
        schedule = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}[kind](stage, micro_batches, loss_fn=cross_entropy)
    image, target = torch.rand(4 * size, *network.shape), torch.randint(network.classes, (4 * size,))
    ends = []
    for number in range(WARM_UP + batches):
        place = slice(number % 4 * size, (number % 4 + 1) * size)
        optimizer.zero_grad()
        if schedule is None:
            cross_entropy(part(image[place]), target[place]).backward()
        elif rank == 0:
            schedule.step(image[place])
        else:
            schedule.step(target=target[place])
        optimizer.step()
        ends.append(time.perf_counter())
    with torch.no_grad():
        sent = part(image[:size]).nbytes if rank == 0 and count > 1 else 0
    return {
        "seconds": (ends[-1] - ends[WARM_UP - 1]) / batches,
        "held MB": _held(part.parameters(), [optimizer]),
        "sent MB": 2 * sent / 1e6,  # activations, and their gradients on the way back
    }


def _messages(count: int) -> dict[str, Any]:
    """Time messages of two sizes from one process to another that waits for them."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    channel = Channel(1 - rank, None, torch.device("cpu"), str)
    found = {}
    for size in (2**10, 2**21):
        tensor, ends = torch.zeros(size, dtype=torch.float16), []
        for number in range(WARM_UP + count):
            if rank == 0:
                channel.send([tensor])
            else:
                channel.receive(last=number == WARM_UP + count - 1)
            ends.append(time.perf_counter())
        found[str(2 * size)] = (ends[-1] - ends[WARM_UP - 1]) / count
        dist.barrier()
    return {"messages": found, "seconds": 0.0}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
