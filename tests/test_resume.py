"""``fit --ckpt_path last``: the run resumes where it was, in its folder, to the same files."""

import csv
import errno
import functools
import os
import shutil
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import BestCheckpoint, GoodnessAccuracy, LastCheckpoint
from intff_lightning.cli import IntFFCLI, main
from intff_lightning.cli.loggers import EventLogger, ResumableCSVLogger
from intff_lightning.cli.resume import with_checkpoint
from intff_lightning.errors import CheckpointError, StorageError
from intff_lightning.files import atomic_write, is_locked, lock_folder, new_folder

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
def test_a_resumed_run_continues_its_folder_its_table_and_its_best_score(kill, step, forks, capsys):
    assert main([*FIT, "--trainer.max_epochs", "6", "--trainer.default_root_dir", "whole"]) == 0
    start = "from intff_lightning.cli import main\nsys.exit(main(sys.argv[1:]))"
    Path("kill.py").write_text(f"import os, signal, sys\n{KILLS[kill]}\n{start}")
    options = ["--trainer.max_epochs", "6", "--trainer.callbacks+=__main__.Kill"]
    options += ["--trainer.callbacks+=intff_lightning.callbacks.LastCheckpoint"]
    options += ["--trainer.callbacks.every_n_train_steps", "4"]
    group = forks.start(Path("kill.py").absolute(), *FIT, *options, count=1)
    assert group.wait() == [-signal.SIGKILL], group.output
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
def test_any_other_checkpoint_starts_a_new_version_and_takes_its_best_weights_along():
    assert main([*FIT, "--trainer.max_epochs", "1"]) == 0
    best = str(RUN / "checkpoints/best.ckpt")
    again = ["fit", "--ckpt_path", best, "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    assert main([*again, "--data.negatives", "ShuffledLabels"]) == 0
    assert {path.name for path in Path("lightning_logs/version_1/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


# -------------------------------------------------------------------- which checkpoint a command line means


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The last checkpoint of a run of one epoch from the command line."""
    folder = tmp_path_factory.mktemp("run")
    assert main([*FIT, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--test_after_fit", "false",
                 "--trainer.limit_train_batches", "2", "--trainer.default_root_dir", str(folder)]) == 0  # fmt: skip
    return folder / "checkpoints/last.ckpt"


@pytest.fixture
def resolve(monkeypatch):
    """What ``--ckpt_path`` resolves to: the path that the parser is given in the end."""
    found = []

    def parse(cli, parser, args):
        found.append(with_checkpoint(parser, list(args))[-1])
        raise SystemExit(0)

    monkeypatch.setattr(IntFFCLI, "parse_arguments", parse)

    def resolve(*args):
        found.clear()
        code = main([*args])
        return found[0] if found else code

    return resolve


def _put(checkpoint, place, age=0):
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint, place)
    os.utime(place, (1e9 - age, 1e9 - age))


FILES = {
    "root.yaml": "trainer: {default_root_dir: runs}",
    "trainer.yaml": "default_root_dir: runs",
    "last.yaml": "ckpt_path: last",
    "logger.yaml": """trainer: {logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger,
                               init_args: {save_dir: logs, name: exp}}}""",
    "name.yaml": """trainer: {logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger,
                             init_args: {save_dir: logs, name: a/b}}}""",
    "callback.yaml": """trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint,
                                     init_args: {dirpath: logs/mine}}]}""",
}


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("lightning_logs/version_3/checkpoints/last.ckpt", ["--ckpt_path", "last"]),
        ("lightning_logs/version_3/checkpoints/last-v1.ckpt", ["--ckpt_path=last"]),
        ("runs/lightning_logs/version_0/checkpoints/last.ckpt", ["-c", "root.yaml", "--ckpt_path", "last"]),
        ("runs/lightning_logs/version_0/checkpoints/last.ckpt", ["--config", "root.yaml", "--config", "last.yaml"]),
        ("runs/lightning_logs/version_0/checkpoints/last.ckpt", ["--trainer", "trainer.yaml", "--config=last.yaml"]),
        ("runs/lightning_logs/version_0/checkpoints/last.ckpt",
         ["--config", "{trainer: {default_root_dir: runs}}", "--ckpt_path", "last"]),
        ("runs/lightning_logs/version_0/checkpoints/last.ckpt",
         ["--trainer.default_root_dir=runs", "--ckpt_path", "last"]),
        ("none/checkpoints/last.ckpt",
         ["--trainer.logger", "false", "--trainer.default_root_dir", "none", "--ckpt_path", "last"]),
        ("logs/exp/version_0/checkpoints/last.ckpt", ["--config", "logger.yaml", "--config", "last.yaml"]),
        ("logs/a/b/version_0/checkpoints/last.ckpt", ["--config", "name.yaml", "--config", "last.yaml"]),
        ("logs/mine/sub/epoch=3.ckpt", ["--config", "callback.yaml", "--ckpt_path", "last"]),
        ("logs/mine/last.ckpt", ["--config", "callback.yaml", "--ckpt_path", "last"]),
        ("logs/mine/epoch=3.ckpt", ["--config", "callback.yaml", "--ckpt_path", "last"]),
    ],
)  # fmt: skip
def test_last_is_found_where_the_loggers_and_callbacks_put_it(place, arguments, checkpoint, resolve, capsys):
    for name, text in FILES.items():
        Path(name).write_text(text)
    _put(checkpoint, place)
    assert resolve(*FIT, *arguments) == place
    assert capsys.readouterr().out == f"resuming from {place}, step 2\n"


@pytest.mark.slow
def test_the_newest_run_of_the_same_recipes_and_seed_is_taken(checkpoint, resolve, capsys):
    saved = torch.load(checkpoint, weights_only=True)
    places = [f"lightning_logs/version_{number}/checkpoints/last.ckpt" for number in range(4)]
    for age, place in enumerate(places):
        _put(checkpoint, place, age)
    saved["training"]["seed"] = 7
    torch.save(saved, places[0])
    saved["recipes"]["data"]["init_args"]["batch_size"] = 99
    torch.save(saved, places[1])
    same = [*FIT, "--seed_everything", "0", "--data.batch_size", "128", "--ckpt_path", "last"]
    assert resolve(*same) == places[2]
    lock = lock_folder(Path(places[2]).parent)  # a run in progress
    assert resolve(*same) == places[3]
    lock.close()
    assert resolve(*FIT, "--seed_everything", "7", "--data.batch_size", "99", "--ckpt_path", "last") == places[1]
    for place in places[1:]:
        shutil.rmtree(Path(place).parents[1])
    assert resolve(*same) == 1
    assert "of another run: seed_everything is 0 here and 7 there." in capsys.readouterr().err
    assert resolve("fit", "--ckpt_path", "last", "--trainer.accelerator", "cpu") == places[0]


@pytest.mark.parametrize(
    ("argument", "where"),
    [
        ("--model.optimizer=torch.optim.SGD", "model.init_args.optimizer is"),
        ("--model.update=joint", "model.init_args.update is joint here and immediate there"),
        ("--data.val_size=0.3", "data.init_args.val_size is 0.3 here and"),
    ],
)
def test_another_recipe_is_refused_by_its_option(argument, where, checkpoint, resolve, capsys):
    _put(checkpoint, RUN / "checkpoints/last.ckpt")
    assert resolve(*FIT, argument, "--ckpt_path", "last") == 1
    error = capsys.readouterr().err
    assert where in error
    assert len(error.splitlines()) <= 3


def test_options_that_change_nothing_that_is_trained_are_free(checkpoint, resolve):
    _put(checkpoint, RUN / "checkpoints/last.ckpt")
    options = ["--data.num_workers", "1", "--trainer.max_epochs", "9", "--trainer.accelerator", "cpu"]
    assert resolve("fit", *options, "--ckpt_path", "last") == str(RUN / "checkpoints/last.ckpt")


@pytest.mark.parametrize("name", ["last", "best"])
def test_an_evaluation_takes_the_newest_of_all_runs(name, checkpoint, resolve):
    for version, age in ((0, 5), (1, 50)):
        _put(checkpoint, f"lightning_logs/version_{version}/checkpoints/{name}.ckpt", age)
    assert resolve("test", "--ckpt_path", name) == f"lightning_logs/version_0/checkpoints/{name}.ckpt"


def test_a_pipe_is_a_config(resolve):
    reading, writing = os.pipe()
    os.write(writing, b"ckpt_path: nowhere.ckpt")
    os.close(writing)
    assert main([*FIT, "--config", f"/dev/fd/{reading}"]) == 0  # `resolve` ends it
    os.close(reading)


# -------------------------------------------------------------------- folders of runs


def test_folders_are_made_by_one_run_alone():
    (Path("runs") / "version_4").mkdir(parents=True)
    (Path("runs") / "version_x").mkdir()
    assert [new_folder(Path("runs")).name for _ in range(3)] == ["version_5", "version_6", "version_7"]


def test_a_lock_is_held_until_its_end():
    lock = lock_folder(Path("folder"))
    assert is_locked(Path("folder"))
    assert lock_folder(Path("folder")) is None
    lock.close()
    assert not is_locked(Path("folder"))


def test_runs_in_one_folder_at_the_same_time_keep_their_own_checkpoints(digits, trainer):
    kept = []

    class Second(L.Callback):
        def on_train_start(self, *_):
            if not kept:
                kept.append(None)
                kept.append(_fit(trainer, digits))

    first = _fit(trainer, digits, Second())
    assert [Path(path).relative_to(Path.cwd()).as_posix() for path in first] == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ]
    assert [Path(path).relative_to(Path.cwd()).as_posix() for path in kept[1]] == [
        "checkpoints-v1/best.ckpt",
        "checkpoints-v1/last.ckpt",
    ]
    lock = lock_folder(Path("checkpoints"))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: another process is writing to this run"):
        _fit(trainer, digits, ckpt_path="checkpoints/last.ckpt")
    lock.close()
    later = _fit(trainer, digits)
    assert [Path(path).name for path in later] == ["best-v1.ckpt", "last-v1.ckpt"]
    assert not is_locked(Path("checkpoints"))


def _fit(trainer, digits, *callbacks, ckpt_path=None):
    kept = [BestCheckpoint(), LastCheckpoint()]
    run = trainer(callbacks=[GoodnessAccuracy(), *kept, *callbacks], enable_checkpointing=True, limit_train_batches=2)
    run.fit(IntFFModule([DenseUnit([9])]), digits(), ckpt_path=ckpt_path)
    return [callback.best_model_path for callback in kept]


# -------------------------------------------------------------------- stops


class Stop(L.Callback):
    """Stops a run in a hook: by an exception, or by a signal to this process."""

    def __init__(self, hook, count, how):
        self.left = count
        setattr(self, hook, functools.partial(self._reached, how))

    def _reached(self, how, trainer, *_, **__):
        if trainer.sanity_checking:
            return
        self.left -= 1
        if self.left == 0:
            if how is KeyboardInterrupt:
                raise KeyboardInterrupt
            os.kill(os.getpid(), how)


def _train(trainer, digits, *callbacks, ckpt_path=None, **options):
    torch.manual_seed(0)
    kept = [BestCheckpoint(), LastCheckpoint()]
    options = {"max_epochs": 3, "accumulate_grad_batches": 2, **options}
    run = trainer(callbacks=[GoodnessAccuracy(), *kept, *callbacks], enable_checkpointing=True, **options)
    units = [DenseUnit([20, 10], activation="RReLU"), DenseUnit([10], activation="RReLU")]
    module = IntFFModule(units, optimizer=functools.partial(torch.optim.Adam, lr=0.01))
    stopped = False
    try:
        run.fit(module, digits(batch_size=128), ckpt_path=ckpt_path)
    except (SystemExit, KeyboardInterrupt):
        stopped = True
    steps = [int(next(iter(optimizer.state.values()))["step"]) for optimizer in run.optimizers]
    result = module.state_dict(), steps, run.global_step, kept[0].best_model_score, run.callback_metrics
    return result, stopped, kept[1].best_model_path


@pytest.mark.parametrize(
    ("hook", "count", "how", "step"),
    [
        ("on_before_optimizer_step", 14, KeyboardInterrupt, 5),  # of the second unit: the older checkpoint is kept
        ("on_train_batch_start", 12, signal.SIGINT, 7),  # the first batch of an accumulation
        ("on_before_optimizer_step", 15, signal.SIGINT, 8),
        ("on_train_batch_start", 18, signal.SIGINT, 10),  # the last batch of an epoch: stopped in its validation
        ("on_train_batch_start", 15, signal.SIGTERM, 8),
        ("on_validation_batch_start", 3, KeyboardInterrupt, 10),
        ("on_validation_batch_end", 3, signal.SIGINT, 10),
        ("on_validation_batch_end", 3, signal.SIGTERM, 10),
        ("on_train_epoch_end", 2, signal.SIGINT, 10),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(hook, count, how, step, trainer, digits):
    (weights, *numbers, metrics), stopped, _ = _train(trainer, digits, default_root_dir="whole")
    assert not stopped
    _, stopped, path = _train(trainer, digits, Stop(hook, count, how), default_root_dir="stopped")
    assert stopped
    assert torch.load(path, weights_only=True)["global_step"] == step
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
    again, stopped, _ = _train(trainer, digits, default_root_dir="stopped", ckpt_path=path)
    assert not stopped
    assert all(torch.equal(again[0][name], weight) for name, weight in weights.items())
    assert list(again[1:4]) == numbers
    assert again[4] == metrics


def test_a_second_ctrl_c_stops_at_once(trainer, digits, capfd):
    twice = [Stop("on_train_batch_start", count, signal.SIGINT) for count in (12, 13)]
    _, stopped, path = _train(trainer, digits, *twice)
    assert stopped
    assert torch.load(path, weights_only=True)["global_step"] == 5
    assert capfd.readouterr().err.count("press Ctrl-C again") == 1
    signal.signal(signal.SIGINT, signal.default_int_handler)


# ------------------------------------------------ where a run may be stopped, and resumed


def _resumed_to_the_same(trainer, digits, stops, callbacks=lambda: (), first=None, **options):
    """Check that a run that is stopped, some times, ends as one that is not; return the last resumed run's result."""
    (weights, *numbers, metrics), stopped, _ = _train(
        trainer, digits, *callbacks(), default_root_dir="whole", **options
    )
    assert not stopped
    path = None
    for stop in stops:
        more = {**options, **(first or {}), "default_root_dir": "stopped", "ckpt_path": path}
        _, stopped, path = _train(trainer, digits, *callbacks(), *([stop] if stop else []), **more)
        assert stopped is (stop is not None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    again, stopped, _ = _train(
        trainer, digits, *callbacks(), default_root_dir="stopped", ckpt_path=path or None, **options
    )
    assert not stopped
    assert all(torch.equal(again[0][name], weight) for name, weight in weights.items())
    assert list(again[1:4]) == numbers
    assert again[4] == metrics


def test_with_max_steps_a_finished_epoch_is_not_counted_twice(trainer, digits):
    _resumed_to_the_same(trainer, digits, [Stop("on_train_epoch_start", 2, signal.SIGINT)], max_steps=12)


def test_an_epoch_that_max_steps_cut_short_is_finished(trainer, digits):
    _resumed_to_the_same(trainer, digits, [None], first={"max_steps": 8}, max_steps=15)


def test_a_run_that_early_stopping_ended_stays_ended(trainer, digits):
    def callbacks(patience=1):
        return [EarlyStopping("val/loss", patience=patience, min_delta=100.0, verbose=False)]

    (weights, *numbers, _), _, path = _train(trainer, digits, *callbacks(), default_root_dir="more")
    assert numbers[1] == 10  # two of the three epochs
    with pytest.warns(UserWarning, match=r"nothing was trained: .* EarlyStopping ended this run\."):
        (same, *again, _), _, _ = _train(trainer, digits, *callbacks(), ckpt_path=path)
    assert again == numbers
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())
    longer, _, _ = _train(trainer, digits, *callbacks(5), default_root_dir="more", ckpt_path=path)
    assert longer[2] == 15


@pytest.mark.parametrize("how", [KeyboardInterrupt, signal.SIGTERM])
def test_nothing_is_saved_in_a_validation_in_the_midst_of_an_accumulation(how, trainer, digits):
    # the validation after the seventh of nine batches, of which every two make a step
    stop = Stop("on_validation_batch_start", 4, how)
    _resumed_to_the_same(trainer, digits, [stop], val_check_interval=7)


def test_a_checkpoint_in_the_midst_of_an_accumulation_is_refused(trainer, digits):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, i):
            trainer.save_checkpoint(f"{i}.ckpt")

    options = {"limit_train_batches": 3, "accumulate_grad_batches": 2}

    def run(path=None):
        trainer(**options, callbacks=[Save()]).fit(IntFFModule([DenseUnit([4])]), digits(), ckpt_path=path)

    run()
    with pytest.raises(CheckpointError, match="middle of an accumulation"):
        run("0.ckpt")
    run("1.ckpt")


def test_a_callback_is_saved_as_it_was_before_the_validation_that_is_repeated(trainer, digits):
    class Counter(L.Callback):
        validations = 0

        def on_validation_start(self, trainer, module):
            self.validations += not trainer.sanity_checking

        def state_dict(self):
            return {"validations": self.validations}

        def load_state_dict(self, state):
            self.validations = state["validations"]

    counts = [Counter(), Counter(), Counter()]
    counters = iter(counts)
    stop = Stop("on_validation_batch_end", 3, signal.SIGTERM)
    _resumed_to_the_same(trainer, digits, [stop], lambda: [next(counters)])
    assert counts[0].validations == counts[2].validations == 3


def test_a_run_does_not_resume_from_weights_alone(trainer, digits):
    run = trainer()
    run.fit(IntFFModule([DenseUnit([4])]), digits())
    run.save_checkpoint("weights.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match="holds weights alone"):
        trainer(max_epochs=2).fit(IntFFModule([DenseUnit([4])]), digits(), ckpt_path="weights.ckpt")


@pytest.mark.parametrize(("name", "limit"), [("max_epochs", 2), ("max_steps", 14)])
def test_fewer_epochs_or_steps_than_are_done_are_refused(name, limit, trainer, digits):
    _, _, path = _train(trainer, digits)
    with pytest.raises(CheckpointError, match=f"{name}={limit} has no effect: (3|15) are done"):
        trainer(**{"max_epochs": 9, "accumulate_grad_batches": 2, name: limit}).fit(
            IntFFModule([DenseUnit([20, 10], activation="RReLU"), DenseUnit([10], activation="RReLU")],
                        optimizer=functools.partial(torch.optim.Adam, lr=0.01)),
            digits(batch_size=128), ckpt_path=path,
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_a_finished_run_says_that_nothing_was_trained(trainer, digits):
    _, _, path = _train(trainer, digits)
    with pytest.warns(UserWarning, match="nothing was trained: .* is at epoch 3 and step 15, with max_epochs=3"):
        _train(trainer, digits, ckpt_path=path)


# -------------------------------------------------------------------- a disk that is full


def test_a_full_disk_leaves_the_older_file_and_names_it():
    path = Path("folder/a.txt")
    with atomic_write(path) as partial:
        partial.write_text("old")

    def write(text):
        with atomic_write(path) as partial:
            partial.write_text(text)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"a\.txt cannot be written \(No space left on device\)"):
        write("new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
def test_a_row_that_a_full_disk_cut_is_left_out():
    folder = Path("lightning_logs/version_0")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,loss,step\n0,0.5,3\n1,0.25,1")  # of "1,0.25,17"
    logger = ResumableCSVLogger(Path(), version=0, resume_step=18)
    logger.log_metrics({"epoch": 2, "loss": 0.125}, step=19)
    logger.save()
    assert [row["step"] for row in _rows()] == ["3", "19"]


def test_event_files_that_cannot_be_written_are_named(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logger = EventLogger("", version=3)
    monkeypatch.setattr(TensorBoardLogger, "log_metrics", full)
    monkeypatch.setattr(TensorBoardLogger, "save", full)
    monkeypatch.setattr(TensorBoardLogger, "finalize", full)
    for call in (lambda: logger.log_metrics({}), logger.save, lambda: logger.finalize("failed")):
        with pytest.raises(StorageError, match=r"version_3/events.out.tfevents cannot be written \(No space left"):
            call()


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_the_config_of_a_run_is_that_of_its_last_training_and_a_best_checkpoint_that_is_gone_is_named(capsys):
    options = [*FIT, "--trainer.limit_train_batches", "2", "--test_after_fit", "false"]
    assert main([*options, "--trainer.max_epochs", "2"]) == 0
    assert main([*options, "--trainer.max_epochs", "1", "--ckpt_path", "last"]) == 1
    assert "max_epochs=1 has no effect: 2 are done" in capsys.readouterr().err
    assert "max_epochs: 2" in (RUN / "config.yaml").read_text()
    options = [*options[:-1], "true", "--trainer.limit_val_batches", "0"]
    (RUN / "checkpoints/best.ckpt").unlink()
    assert main([*options, "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 1
    assert "checkpoints/best.ckpt is gone, so the best weights cannot be tested" in capsys.readouterr().err
