"""Search the hyperparameters of your own network with Optuna, on validation data.

The study is a file. Start the program in several terminals to share the trials; start it again to resume the search.
Run it: python examples/search.py, or with other numbers of epochs and trials: python examples/search.py 10 50
"""

import sys

import lightning as L
import optuna
from optuna.trial import Trial
from torch.optim import Adam

from intff_lightning import DenseUnit, IntFFModule, WrongLabels
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import DivergenceError
from intff_lightning.local import UnitL2


class Pruning(L.Callback):
    """Reports the accuracy of every epoch, and stops a trial that is worse than the median of the others."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.trial.report(float(trainer.callback_metrics["val/accuracy"]), trainer.current_epoch)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def main(max_epochs: int = 20, trials: int = 30) -> float:
    def train(trial: Trial) -> float:
        width, units = trial.suggest_int("width", 50, 400, log=True), trial.suggest_int("units", 1, 3)
        rate = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        data = DigitsDataModule(negatives=WrongLabels(trial.suggest_int("wrong_labels", 1, 5)), batch_size=32)
        L.seed_everything(0, verbose=False)
        layers = [DenseUnit([width, width]) for _ in range(units)]
        module = IntFFModule(layers, normalization=UnitL2(gain=20), optimizer=lambda p: Adam(p, lr=rate))
        watch = [GoodnessAccuracy(), Pruning(trial)]
        trainer = L.Trainer(max_epochs=max_epochs, logger=False, enable_checkpointing=False, callbacks=watch)
        trainer.fit(module, data)
        return float(trainer.callback_metrics["val/accuracy"])

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("search.journal"))
    name = f"digits, {max_epochs} epochs"  # trials of another length are another study
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    study.sampler = optuna.samplers.TPESampler(constant_liar=True)  # avoids what other processes are trying
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=max_epochs // 4)
    while sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) < trials:
        study.optimize(train, n_trials=1, catch=DivergenceError)
    print(f"validation accuracy {100 * study.best_value:.1f} % with {study.best_params}")
    return study.best_value


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
