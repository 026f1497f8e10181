"""Tuning by Optuna on validation data: ``python -m intff_lightning.reproduce tune STUDY``. Test data stay closed.

Every algorithm of a study gets the same number of trials, of the same number of epochs and images, from the same start.
A search is a journal file: it resumes, and several processes share it.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules.torchvision import TorchvisionDataModule
from intff_lightning.errors import ConfigurationError, DivergenceError
from intff_lightning.files import lock_folder
from intff_lightning.pairs import image_and_target
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce import figures
from intff_lightning.reproduce.options import run_jobs
from intff_lightning.reproduce.spaces import ALGORITHMS, STUDIES, Range, Study, candidate_votes, make, space, start_of

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SEED = 0


class _Votes(GoodnessAccuracy):
    """The validation accuracy of the best vote, reported to Optuna after each epoch."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial, self.best, self.vote = trial, 0.0, [0]
        self._correct: torch.Tensor = torch.zeros(0)
        self._candidates: list[list[int]] = []
        self._size = 0

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        super().on_evaluation_start(trainer, module, stage)
        self._correct, self._size = torch.zeros(()), 0

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        super().on_evaluation_batch(trainer, module, outputs, batch)
        scores, target = self.scores(module, batch), image_and_target(batch, module)[1]
        assert scores is not None  # labels are known
        units = scores[1:] if len(scores) > 1 else scores
        self._candidates = candidate_votes(len(units))
        chosen = torch.stack([units[vote].sum(0).argmax(1) for vote in self._candidates])
        self._correct = self._correct + (chosen == target).sum(1)
        self._size += len(target)

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        super().on_evaluation_end(trainer, module, stage)
        accuracy = float(self._correct.max()) / self._size
        if accuracy > self.best:
            self.best, self.vote = accuracy, self._candidates[int(self._correct.argmax())]
        self.trial.report(self.best, trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _storage(folder: Path, name: str, algorithm: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(_journal(folder, name, algorithm))))


def _journal(folder: Path, name: str, algorithm: str) -> Path:
    return folder / f"{name}_{algorithm}.journal"


def suggest(trial: Trial, name: str, algorithm: str) -> dict[str, Any]:
    """Draw a value for every setting of the space."""
    return {
        setting: trial.suggest_float(setting, values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else trial.suggest_categorical(setting, values.values)
        for setting, values in space(STUDIES[name], algorithm).items()
    }


def open_search(folder: Path, name: str, algorithm: str) -> optuna.Study:
    """Open the search of one algorithm, and start it if it is new."""
    study = optuna.create_study(
        storage=_storage(folder, name, algorithm),
        study_name=f"{name}_{algorithm}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=STUDIES[name].epochs // 3),
    )
    plan = _plan(name, algorithm)
    if not study.get_trials(deepcopy=False):
        study.set_user_attr("plan", plan)
        study.enqueue_trial(start_of(STUDIES[name], algorithm), skip_if_exists=True)
    elif study.user_attrs.get("plan") != plan:
        raise ConfigurationError(
            f"{_journal(folder, name, algorithm)} holds trials of another network, budget or ranges: delete it, or "
            "name another folder, --out DIR."
        )
    return study


def _plan(name: str, algorithm: str) -> dict[str, Any]:
    """Return what the trials of a search have in common, in plain values."""
    study = STUDIES[name]
    plan = {field: getattr(study, field) for field in ("units", "pools", "epochs", "images", "precision")}
    found: dict[str, Any] = json.loads(json.dumps({**plan, "space": _ranges(study, algorithm)}))
    return found


def _ranges(study: Study, algorithm: str) -> dict[str, str]:
    return {setting: str(values) for setting, values in space(study, algorithm).items()}


def requeue(study: optuna.Study) -> None:
    """Queue the settings of trials that were cut off; only while no process works on the search."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})  # queued, and drawn
        study.tell(trial.number, state=TrialState.FAIL)


def prepare(name: str, data_dir: str) -> None:
    """Download and unpack missing files of a study; unlike ``prepare_data``, it reads training images alone."""
    study = STUDIES[name]
    _, data = make(study, "bp", start_of(study, "bp"), data_dir)
    if isinstance(data, TorchvisionDataModule):
        data.open(train=True, download=True)


def work(folder: Path, name: str, algorithm: str, trials: int, data_dir: str, quick: bool) -> None:
    """Train trials until the search has this many. The settings of a trial depend on its place and those before it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_search(folder, name, algorithm)
    while True:
        kept = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _FINISHED]
        if len(kept) >= trials:
            return
        trial = study.ask()
        earlier = study.get_trials(deepcopy=False)[: trial.number]
        place = sum(other.state != TrialState.FAIL for other in earlier)
        if place >= trials:  # another process was faster
            study.tell(trial, state=TrialState.FAIL)
            return
        # a sampler of its own for each trial: one sampler would start its random numbers anew in a resumed search
        study.sampler = optuna.samplers.TPESampler(
            seed=1000 * _SEED + place, n_startup_trials=5, multivariate=False, constant_liar=True
        )
        state, value = _train(trial, name, algorithm, suggest(trial, name, algorithm), data_dir, quick)
        study.tell(trial, value, state)
        print(f"{name} {algorithm} [{place + 1}/{trials}]: {state.name.lower()}, {_shown(trial, value)}", flush=True)


def _shown(trial: Trial, value: float | None) -> str:
    seconds = trial.user_attrs["seconds"]
    return f"{seconds:.0f} s" if value is None else f"validation {100 * value:.2f} %, {seconds:.0f} s"


def _train(
    trial: Trial, name: str, algorithm: str, settings: dict[str, Any], data_dir: str, quick: bool
) -> tuple[TrialState, float | None]:
    """Train a trial; returns its state and, unless it was pruned, its best validation accuracy."""
    study, begun, votes = STUDIES[name], time.perf_counter(), _Votes(trial)
    L.seed_everything(_SEED, verbose=False)
    options: dict[str, Any] = {"val_size": 0.2} if quick else {}
    if name != "cifar10_conv":
        options["download"] = False  # see prepare
    module, data = make(study, algorithm, settings, data_dir, seed=_SEED, **options)
    trainer = L.Trainer(
        max_epochs=1 if quick else study.epochs,
        limit_train_batches=2 if quick else max(1, study.images // settings["batch_size"]),
        limit_val_batches=2 if quick else None,
        precision=study.precision,
        callbacks=[votes],
        logger=False,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    state, value = TrialState.COMPLETE, 0.0  # a run that diverges counts as no accuracy
    try:
        trainer.fit(module, data)
        if trainer.interrupted:
            raise KeyboardInterrupt
        value = votes.best
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except DivergenceError as error:
        trial.set_user_attr("diverged", str(error))
    trial.set_user_attr("vote", votes.vote if algorithm != "bp" else None)
    trial.set_user_attr("parameters", sum(parameter.numel() for parameter in module.parameters()))
    trial.set_user_attr("threads", torch.get_num_threads())
    trial.set_user_attr("quick", quick)
    trial.set_user_attr("seconds", round(time.perf_counter() - begun, 1))
    return state, None if state == TrialState.PRUNED else value


# ---------------------------------------------------------------- results


def trials_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the finished trials of all algorithms of a study, in their order."""
    rows: list[dict[str, Any]] = []
    for algorithm in ALGORITHMS:
        if not _journal(folder, name, algorithm).is_file():
            continue
        best, storage = 0.0, _storage(folder, name, algorithm)
        if not optuna.get_all_study_names(storage):  # stopped before its first trial
            continue
        study = optuna.load_study(study_name=f"{name}_{algorithm}", storage=storage)
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _FINISHED]
        for number, trial in enumerate(finished):
            complete = trial.state == TrialState.COMPLETE
            reached = max(trial.intermediate_values.values(), default=0.0) if trial.value is None else trial.value
            best = max(best, reached) if complete else best
            rows.append(
                {
                    "algorithm": algorithm,
                    "trial": number,
                    "state": trial.state.name.lower(),
                    "validation_accuracy": 100 * reached,
                    "best_so_far": 100 * best,
                    "seconds": trial.user_attrs["seconds"],
                    "parameters": trial.user_attrs["parameters"],
                    "threads": trial.user_attrs["threads"],
                    "quick": trial.user_attrs["quick"],
                    "vote": trial.user_attrs["vote"],
                    "settings": trial.params,
                }
            )
    return rows


def winner(trials: Sequence[dict[str, Any]], algorithm: str) -> dict[str, Any] | None:
    """Return the first of the best complete trials of an algorithm, or ``None`` if it has none."""
    complete = [row for row in trials if row["algorithm"] == algorithm and row["state"] == "complete"]
    return max(complete, key=lambda row: float(row["validation_accuracy"]), default=None)


def summarize(name: str, trials: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Return what is written of a study: its budget, its spaces, and its trials."""
    study = STUDIES[name]
    return {
        "study": name,
        "epochs": study.epochs,
        "images": study.images,
        "precision": study.precision,
        "spaces": {
            algorithm: _ranges(study, algorithm) for algorithm in dict.fromkeys(row["algorithm"] for row in trials)
        },
        "winners": {
            algorithm: {"settings": best["settings"], "vote": best["vote"]}
            for algorithm in ALGORITHMS
            if (best := winner(trials, algorithm)) is not None
        },
        "trials": trials,
        "command": command,
        **about(),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return a study for a file."""
    trials: list[dict[str, Any]] = found["trials"]
    counts = {algorithm: sum(row["algorithm"] == algorithm for row in trials) for algorithm in found["spaces"]}
    lines = [
        f"# Tuning: {STUDIES[found['study']].title}",
        "",
        f"`{found['command']}`: torch {found['versions']['torch']}, {found['date']}.",
        "",
        f"Each trial trains {found['epochs']} epochs of {found['images']:,} images, in {found['precision']}, with seed "
        f"{_SEED}. Its value is the best validation accuracy of an epoch, by the best vote of the units. Test data are "
        "not opened. TPE draws the settings; after five complete trials, one that is below their median at the "
        "same epoch is pruned, and what it had reached is shown.",
        "",
        "Trials: " + ", ".join(f"{ALGORITHMS[algorithm]} {count}" for algorithm, count in counts.items()) + ".",
        "",
    ]
    for algorithm, settings in found["spaces"].items():
        ranges = "; ".join(f"{setting.replace('_', ' ')} {values}" for setting, values in settings.items())
        lines.append(f"- {ALGORITHMS[algorithm]}: {ranges}.")
    header = ["algorithm", "trial", "state", "validation %", "best so far %", "vote", "seconds", "settings"]
    cells = [
        [
            row["algorithm"],
            str(row["trial"]),
            row["state"],
            f"{row['validation_accuracy']:.2f}",
            f"{row['best_so_far']:.2f}",
            "" if row["vote"] is None else " ".join(map(str, row["vote"])),
            f"{row['seconds']:.0f}",
            "; ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in row["settings"].items()),
        ]
        for row in trials
    ]
    return "\n".join([*lines, "", markdown_table(header, cells)])


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def tune(
    name: str,
    algorithms: Sequence[str],
    trials: int | None,
    jobs: int,
    data_dir: str,
    folder: Path,
    quick: bool,
    command: str,
) -> list[Path]:
    """Search, and write ``NAME.json``, ``NAME.md`` and ``NAME.png``; returns their paths.

    Args:
        name: One of :data:`~intff_lightning.reproduce.spaces.STUDIES`.
        algorithms: Some of :data:`~intff_lightning.reproduce.spaces.ALGORITHMS`.
        trials: Trials of each algorithm; ``None`` takes the study's own number.
        jobs: Processes at a time, each on its share of the cores.
        data_dir: Folder of the data.
        folder: Folder of the searches and of the results.
        quick: Two batches per trial.
        command: Command line that made them.
    """
    count = STUDIES[name].trials if trials is None else trials
    lock = lock_folder(folder)
    if lock is None:
        raise ConfigurationError(f"another process tunes in {folder}: wait for it, or name another folder, --out DIR.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock:
        if any(row["quick"] is not quick for row in trials_of(folder, name)):
            raise ConfigurationError(f"{folder} holds {'full' if quick else 'quick'} trials: name another, --out DIR.")
        prepare(name, data_dir)
        for algorithm in algorithms:
            requeue(open_search(folder, name, algorithm))
            arguments = (folder, name, algorithm, count, data_dir, quick)
            run_jobs(work, [arguments] * jobs, jobs)
        found = summarize(name, trials_of(folder, name), command)
        paths = write_results(name, folder, found, markdown(found))
        figures.draw_tuning(found["trials"], ALGORITHMS, folder / f"{name}.png")
    for algorithm, best in found["winners"].items():
        print(f"{name} {algorithm}: best {best['settings']}, vote {best['vote']}")
    return [*paths, folder / f"{name}.png"]
