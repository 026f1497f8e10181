"""Training runs that test_ddp.py makes in one process, and starts as a script in two."""

import functools
import sys
import warnings

import lightning as L
import torch
from token_data import token_data

from intff_lightning import DenseUnit, EmbeddingUnit, HardLabels, IntFFModule, RecurrentUnit, WrongLabels
from intff_lightning.augmentations import RandomShift
from intff_lightning.callbacks import AnomalyScore, GoodnessAccuracy, GoodnessLogger, LinearProbe
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.local import RMS

RUNS = [
    ("immediate", 1, WrongLabels),
    ("immediate", 4, WrongLabels),
    ("joint", 1, WrongLabels),
    ("joint", 4, HardLabels),
    ("immediate", 3, WrongLabels, {"chunk_size": 20, "vote_weights": "validation"}),
    ("immediate", "sequences", WrongLabels),
]


class Bytes(L.Callback):
    """Counts the bytes per batch that a process reduces, by ``all_reduce`` and by DDP itself."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.plain = torch.distributed.all_reduce

    def all_reduce(self, tensor, *args, **options):
        if self.batches:
            self.batches[-1] += tensor.numel() * tensor.element_size()
        return self.plain(tensor, *args, **options)

    def on_train_start(self, trainer, module):
        def hook(_, bucket):  # what DDP would reduce
            self.batches[-1] += bucket.buffer().numel() * bucket.buffer().element_size()
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        torch.distributed.all_reduce = self.all_reduce
        trainer.strategy.model.register_comm_hook(None, hook)

    def on_train_batch_start(self, *_):
        self.batches.append(0)

    def on_train_epoch_end(self, *_):
        torch.distributed.all_reduce = self.plain


def train(world, update, units, source, options=None):
    """Fit and test; returns the weights, the metrics, the number of steps, and the bytes reduced per batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        options = {"update": update, "optimizer": optimizer, **(options or {})}
        if units == "sequences":
            module = IntFFModule([EmbeddingUnit(8), RecurrentUnit(8)], normalization=RMS(), **options).double()
            data = token_data(train=480, batch_size=48 // world, negatives=source(2))
        else:
            module = IntFFModule([DenseUnit([20, 10]) for _ in range(units)], **options).double()
            data = DigitsDataModule(batch_size=48 // world, negatives=source(2), augmentation=RandomShift(1), seed=0)
        sent, callbacks = Bytes(), [GoodnessLogger(), GoodnessAccuracy(), LinearProbe(epochs=2)]
        callbacks.append(AnomalyScore(validation="classes"))
        trainer = L.Trainer(
            accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_epochs=2,
            precision="64-true", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=callbacks + [sent] * (world > 1),
        )  # fmt: skip
        trainer.fit(module, data)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        trainer.test(module, data, verbose=False)
        metrics.update({name: float(value) for name, value in trainer.callback_metrics.items()})
    return module.state_dict(), metrics, trainer.global_step, sent.batches


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    results = [train(2, *run) for run in RUNS]
    torch.save(results, f"{sys.argv[1]}.{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()  # or its threads may abort while the interpreter ends
