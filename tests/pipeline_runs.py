"""Training runs that test_pipeline.py makes in one process, and starts as a script in several."""

import functools
import os
import re
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from token_data import token_data

from intff_lightning import (
    AttentionUnit,
    ConvUnit,
    DenseUnit,
    EmbeddingUnit,
    HiddenUnit,
    IntFFModule,
    LabelEmbedding,
    LabelPlanes,
    LabelToken,
    RecurrentUnit,
    UnitPipelineStrategy,
    WrongLabels,
)
from intff_lightning.augmentations import RandomShift
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, LastCheckpoint, LinearProbe
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.local import RMS, ChannelGoodness, LabelCrossEntropy, NoNormalization
from intff_lightning.optim import CosineDecay

LIMIT = 550_000_000  # bytes
ACCUMULATED = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05, "limit_train_batches": 14}
SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def dense(count=4, **options):
    return [DenseUnit([20, 10], **options), *(DenseUnit([12]) for _ in range(count - 1))]


def convolutional():
    body = torch.nn.Sequential(torch.nn.Conv2d(12, 10, 3), torch.nn.BatchNorm2d(10), torch.nn.GELU())
    return [ConvUnit([12]), HiddenUnit(body), DenseUnit([20])]


RUNS = {  # modules, options of the Trainer, and the numbers of stages
    "plain": (lambda: IntFFModule(dense(), scheduler=CosineDecay, gradient_clip_val=0.1), {}, (2, 3, 4)),
    "after": (lambda: IntFFModule(dense(), handover="after", inner_steps=3, optimizer=SGD), {}, (4,)),
    "accumulated": (lambda: IntFFModule(dense()), ACCUMULATED, (3,)),
    "by class": (lambda: IntFFModule(convolutional(), goodness=ChannelGoodness(), loss=LabelCrossEntropy()),
                 {}, (3,)),
    "collaboration": (lambda: IntFFModule(dense(normalization=NoNormalization()),
                                          loss=LabelCrossEntropy(collaboration=1.0)), {}, (4,)),
    "embedding": (lambda: IntFFModule(dense(), encoder=LabelEmbedding(), vote=[1, 2],
                                      scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)),
                  {}, (2,)),
    "planes": (lambda: IntFFModule(convolutional()[:2], encoder=LabelPlanes()), {"precision": "64-true"}, (2,)),
    "tokens": (lambda: IntFFModule([AttentionUnit(20, heads=2), AttentionUnit(20, heads=2)], encoder=LabelToken(5),
                                   scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau),
               {"precision": "bf16-mixed"}, (2,)),
    "chunks": (lambda: IntFFModule(dense(3), chunk_size=40, loss=LabelCrossEntropy()), {}, (3,)),
    "sequences": (lambda: IntFFModule([EmbeddingUnit(8), RecurrentUnit(8), DenseUnit([6])], normalization=RMS()), {},
                  (2,)),
    "draws": (lambda: IntFFModule([DenseUnit([14], activation="RReLU") for _ in range(3)]), {}, (2, 3)),
}  # fmt: skip


class Interrupt(L.Callback):
    """Presses Ctrl-C, or sends a SIGTERM, in one process in the second epoch."""

    def __init__(self, rank, signum=signal.SIGINT):
        self.rank, self.signum = rank, signum

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == self.rank and trainer.current_epoch == 1 and batch_idx == 4:
            os.kill(os.getpid(), self.signum)

    def on_train_batch_end(self, trainer, *_):
        time.sleep(0.3 * (trainer.current_epoch == 1))  # a request takes a moment


class HoldsItsOwn(L.Callback):
    """Checks that a process holds parameters, gradients and optimizer states of its own units alone."""

    def on_train_batch_end(self, trainer, module, *_):
        own = module.own_units
        for k, unit in enumerate(module.units):
            parameters, state = list(unit.parameters()), trainer.optimizers[k].state
            assert all(p.is_meta == (k not in own) for p in [*parameters, *unit.buffers()])
            assert k in own or (not state and all(p.grad is None for p in parameters))
            assert k not in own or (state and all(p.grad is not None for p in parameters))


def train(name, stages, folder, strategy=None, callbacks=(), ckpt_path=None, **options):
    """Fit, test and predict; returns weights, metrics, predictions and the state in ``last.ckpt``."""
    make, flags, _ = RUNS[name]
    L.seed_everything(0, verbose=False)  # from which Lightning seeds several processes anew
    module = make()
    if name == "sequences":
        data = token_data(negatives=WrongLabels(2))
    else:
        data = DigitsDataModule(
            batch_size=32, negatives=WrongLabels(2), augmentation=RandomShift(1), seed=0, val_size=0.2
        )
    probe = [LinearProbe(epochs=1, every_n_epochs=2)] if name == "plain" else []
    callbacks = [*callbacks, GoodnessLogger(), GoodnessAccuracy(), *probe, EarlyStopping("val/accuracy", mode="max")]
    options = {"max_epochs": 2, "limit_train_batches": 7, "limit_val_batches": 2, "limit_test_batches": 2,
               "limit_predict_batches": 1, **flags, **options}  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=stages,
        strategy=strategy() if strategy else ("unit_pipeline" if stages > 1 else "auto"),
        logger=L.pytorch.loggers.CSVLogger(folder), enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, log_every_n_steps=5,
        callbacks=[*callbacks, *([HoldsItsOwn()] if name == "plain" else []), LearningRateMonitor(), LastCheckpoint()],
        **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    trainer.test(module, data, verbose=False)
    metrics.update({key: float(value) for key, value in trainer.callback_metrics.items()})
    scores = trainer.predict(module, data)
    last = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    return {"weights": weights, "metrics": metrics, "scores": scores, "checkpoint": last}


def train_large(stages):
    """Train a network of 37 million weights within 550 MB; with gradients and the state of Adam, it takes 590 MB."""
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT, resource.RLIM_INFINITY))
    strategy = UnitPipelineStrategy(stages=[2, 1, 1]) if stages > 1 else "auto"
    trainer = L.Trainer(
        accelerator="cpu", devices=stages, strategy=strategy, max_steps=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(IntFFModule([DenseUnit([3500]) for _ in range(4)]), DigitsDataModule(batch_size=4))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="(?!unit_pipeline)")
    stages, out, how, *names = sys.argv[1:]
    if how == "limited":
        train_large(int(stages))
        sys.exit()
    options = {"callbacks": [Interrupt(int(how[-1]), signal.Signals[how[:-1]])]} if how.startswith("SIG") else {}
    options |= {"ckpt_path": how} if how.endswith(".ckpt") else {}
    options |= {"strategy": lambda: UnitPipelineStrategy(stages=[1, 3])} if how == "replicas" else {}
    options |= {"strategy": lambda: "ddp"} if how == "ddp" else {}
    found = {name: train(name, int(stages), f"{out}.logs", **options) for name in names}
    if os.environ["RANK"] == "0":
        torch.save(found, out)
    if int(stages) > 1:
        torch.distributed.destroy_process_group()  # or its threads may abort while the interpreter ends
