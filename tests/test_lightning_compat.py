"""Private attributes of other libraries: one test for each use, by its name, and a test that there is no other use."""

import ast
import functools
import importlib
import inspect
import logging
import pkgutil
import signal
import subprocess
import sys
import threading
import warnings
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType, NoneType

import lightning as L
import pytest
import torch
import yaml
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import launchers
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

import intff_lightning
from intff_lightning import DenseUnit, IntFFModule
from intff_lightning import lightning_compat as compat
from intff_lightning.cli import IntFFCLI

PACKAGE = Path(intff_lightning.__file__).parent


# -------------------------------------------------------------------- torch, scikit-learn


def test_scikit_learn_digits():
    digits = load_digits()
    image, target = compat.scikit_learn_digits()
    assert torch.equal(image, torch.as_tensor(digits.images).long())
    assert torch.equal(target, torch.as_tensor(digits.target))


def test_children_by_name():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert compat.children_by_name(model) == {"0": layer, "1": model[1], "2": layer}
    assert len(list(model.named_children())) == 2  # why the private attribute is read


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_is_watched(hook):
    layer = nn.Linear(2, 2)
    assert not compat.is_watched(layer)
    handle = getattr(layer, hook)(lambda *_: None)
    assert compat.is_watched(layer)
    handle.remove()
    assert not compat.is_watched(layer)


def test_allow_recompilations():
    with torch._dynamo.config.patch(recompile_limit=8):
        compat.allow_recompilations(21)
        compat.allow_recompilations(3)
        assert torch._dynamo.config.recompile_limit == 21


@pytest.fixture
def scaled():
    """A gradient scaler, and the optimizer of a parameter with a gradient."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
    scaler.scale(weight.sum()).backward()
    return scaler, optimizer


def test_scale_update_withheld(scaled):
    scaler, optimizer = scaled
    with compat.scale_update_withheld(scaler):
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 4.0
    scaler.update()
    assert scaler.get_scale() == 8.0


def test_allow_another_step(scaled):
    scaler, optimizer = scaled
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)  # why the private attribute is changed
    compat.allow_another_step(scaler, optimizer)
    scaler.step(optimizer)


def test_set_learning_rates():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    schedule = ConstantLR(optimizer)
    compat.set_learning_rates(schedule, [0.3, 0.4])
    assert schedule.get_last_lr() == [0.3, 0.4]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.4]
    assert schedule.last_epoch == 0


# -------------------------------------------------------------------- Lightning


def test_datamodule_of(digits, trainer):
    module, data, seen = IntFFModule([DenseUnit([5])]), digits(), []

    class Ask(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            seen.append(compat.datamodule_of(pl_module))

    assert compat.datamodule_of(module) is None
    trainer(fast_dev_run=True, callbacks=[Ask()]).fit(module, data)
    assert seen == [data]


def test_example_inputs(digits, trainer):
    class Module(IntFFModule):
        seen = None

        def on_train_batch_start(self, batch, batch_idx):
            self.seen = batch

    module, image = Module([DenseUnit([5])]), torch.rand(2, 1, 10, 10)
    module.example_input_array = image
    trainer(fast_dev_run=True, enable_model_summary=True).fit(module, digits())  # the datamodule refuses a lone tensor
    assert module.seen.image.shape == (64, 1, 10, 10)  # and batches are still converted


def test_parsed_hyperparameters(monkeypatch):
    class Own(L.LightningModule):
        def __init__(self, width: int = 3):
            super().__init__()
            self.save_hyperparameters()
            parsed.append(compat.parsed_hyperparameters(self))

    parsed = []
    monkeypatch.setattr(sys, "argv", ["intff"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    options = {"run": False, "save_config_callback": None, "seed_everything_default": False}
    LightningCLI(Own, trainer_defaults=quiet, args=["--model.width", "5"], **options)
    Own(4)
    assert parsed[0]["width"] == 5
    assert parsed[1:] == [{}]


def test_saves_of_manual_optimization(digits, trainer):
    saves = ModelCheckpoint("files", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    run = trainer(callbacks=[saves], enable_checkpointing=True, max_steps=5)
    run.fit(IntFFModule([DenseUnit([5])]), digits())
    assert sum(isinstance(c, compat.SavesOfManualOptimization) for c in run.callbacks) == 1
    assert {path.name for path in Path("files").iterdir()} == {"step=2.ckpt", "step=4.ckpt"}


def test_guarded_checkpoint(digits, trainer):
    class Even(compat.GuardedCheckpoint):
        def may_save(self, trainer):
            return trainer.global_step % 2 == 0

    class Ask(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            due.append(saves.is_due(trainer))
            if trainer.global_step == 4:
                saves.save_now(trainer)
                due.append(saves.is_due(trainer))  # not twice at one step

    due = []
    saves = Even("files", filename="{step}", every_n_epochs=100, save_top_k=-1)
    trainer(callbacks=[saves, Ask()], enable_checkpointing=True, max_steps=5).fit(
        IntFFModule([DenseUnit([5])]), digits()
    )
    assert due == [False, True, False, True, False, False]
    assert [path.name for path in Path("files").iterdir()] == ["step=4.ckpt"]


def test_resume_after_whole_epochs(digits, trainer):
    def run(ours, path=None, steps=4):
        class Orders(L.Callback):
            def on_train_batch_start(self, trainer, module, batch, i):
                seen.append((trainer.global_step, batch.target.tolist()))

        class Plain(IntFFModule):
            def on_load_checkpoint(self, checkpoint):
                if ours:
                    compat.resume_after_whole_epochs(self)

        seen = []
        fit = trainer(max_steps=steps, max_epochs=-1, limit_train_batches=2, callbacks=[Orders()])
        fit.fit(Plain([DenseUnit([4])]), digits(), ckpt_path=path)
        fit.save_checkpoint("end.ckpt")
        return seen

    whole = run(True, steps=6)
    run(True)
    assert run(True, "end.ckpt", 6) == whole[4:]
    run(True)
    loops = torch.load("end.ckpt", weights_only=True)
    for part in loops["loops"]["fit_loop"]["epoch_progress"].values():  # as it is in on_train_epoch_end
        part["completed"] -= 1
    torch.save(loops, "epoch_end.ckpt")
    assert run(True, "epoch_end.ckpt", 6) == whole[4:]
    assert run(False, "epoch_end.ckpt", 6) != whole[4:]  # why the private method is replaced


@pytest.mark.parametrize("validated", [True, False])
def test_with_epoch_to_finish(validated, trainer, monkeypatch):
    monkeypatch.setattr(compat, "validation_follows", lambda run: validated and not run.should_stop)
    whole = {"ready": 3, "started": 3, "processed": 3, "completed": 3}
    progress = {"total": whole, "current": {**whole, "completed": 2}}
    ended = {"fit_loop": {"epoch_loop.state_dict": {"_batches_that_stepped": 5}, "epoch_progress": progress}}
    begun = {"ready": 3, "started": 3, "processed": 2, "completed": 2}
    run = trainer()
    run.should_stop = True
    assert compat.with_epoch_to_finish(run, ended)["fit_loop"] == {
        "epoch_loop.state_dict": {"_batches_that_stepped": 4 if validated else 5},
        "epoch_progress": {"total": begun, "current": begun},
    }
    assert run.should_stop
    assert ended["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] == 5  # a copy is changed
    assert ended["fit_loop"]["epoch_progress"]["total"] is whole


def test_what_follows_a_training_batch(digits, trainer):
    seen, done = [], []

    class Ask(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((batch_idx, compat.validation_follows(trainer), compat.logs_this_step(trainer)))

        def on_validation_start(self, trainer, pl_module):
            done.append(trainer.fit_loop.batch_idx)

    options = {"limit_train_batches": 5, "val_check_interval": 2, "log_every_n_steps": 3, "num_sanity_val_steps": 0}
    trainer(callbacks=[Ask()], **options).fit(IntFFModule([DenseUnit([5])]), digits())
    assert [batch for batch, validates, _ in seen if validates] == done == [1, 3]
    assert [batch for batch, _, logs in seen if logs] == [2]
    seen.clear()
    trainer(callbacks=[Ask()], **options).fit(IntFFModule([DenseUnit([5])]), digits(val_size=0))
    assert not any(validates for _, validates, _ in seen)


def test_leave_processes_alone():
    """Lightning's observer kills the main process and its children once a child has failed."""
    commands = [["false"], *2 * [["sleep", "60"]]]
    failed, child, main = processes = [subprocess.Popen(command) for command in commands]
    failed.wait()
    launcher = launchers._SubprocessScriptLauncher(LightningEnvironment(), 3, 1)
    launcher.procs = [failed, child]
    observer = _ChildProcessObserver(main.pid, launcher.procs)
    compat.leave_processes_alone(launcher)
    assert observer._run()  # it has ended, and has killed nobody
    assert [process.poll() for process in processes] == [1, None, None]
    launcher.kill(signal.SIGTERM)  # as Lightning passes on a SIGTERM
    assert child.wait(10) == -signal.SIGTERM
    main.kill()
    main.wait()


def test_take_sigterm(trainer):
    trainer = trainer()
    assert not compat.take_sigterm(trainer)
    trainer._signal_connector._sigterm_notifier_fn(signal.SIGTERM, None)
    assert trainer.received_sigterm
    assert compat.take_sigterm(trainer)
    assert not trainer.received_sigterm


def test_logged_metrics(digits, trainer):
    seen = {}

    class Ask(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.update(compat.logged_metrics(trainer))

    run = trainer(callbacks=[Ask()], limit_train_batches=2, num_sanity_val_steps=0)
    run.fit(IntFFModule([DenseUnit([5])]), digits())
    assert seen["val/loss"] == pytest.approx(float(run.callback_metrics["val/loss"]))
    assert all(isinstance(value, float) for value in seen.values())


def test_compat_cli(monkeypatch):
    """``value``, ``make_trainer``, ``save_config`` and the hyperparameters in a run from the command line."""
    seen = {}

    def look(self):
        seen["hyperparameters"] = self.config_dump
        del self.config_dump
        LightningCLI._dump_config(self)
        seen["validated"] = self.config_dump
        seen["value"] = self.value("trainer.max_epochs"), self.value("no.such.key", default=5)
        seen["trainer"] = self.make_trainer({"max_epochs": 3, "logger": False, "callbacks": []})
        self.save_config("saved.yaml")

    monkeypatch.setattr(IntFFCLI, "after_fit", look, raising=True)
    config = ["--config", "digits", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    assert intff_lightning.cli.main(["fit", *config]) == 0
    assert seen["value"] == (1, 5)
    assert seen["hyperparameters"] == seen["validated"]
    assert seen["hyperparameters"]["trainer"]["max_epochs"] == 1
    assert seen["trainer"].max_epochs == 3
    assert seen["trainer"].loggers == []
    assert yaml.safe_load(Path("saved.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_compat_cli_parses_no_checkpoint_path():
    """Lightning still has the method that is overridden, and calls it."""
    original = next(cls for cls in compat.CompatCLI.__mro__[1:] if "_parse_ckpt_path" in vars(cls))
    assert "self._parse_ckpt_path()" in inspect.getsource(original.__init__)


def test_quiet(monkeypatch):
    """Each message that is silenced is one that its library still has."""
    monkeypatch.setattr(logging.Logger, "setLevel", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "on")
    with warnings.catch_warnings():
        warnings.resetwarnings()
        compat.quiet()
        silenced = [entry[1].pattern for entry in warnings.filters]
    assert len(silenced) >= 5
    folders = [Path(package.__file__).parent for package in (L, torch)]
    sources = "\n".join(
        path.read_text()
        for folder, patterns in zip(folders, (["pytorch/**/*.py"], ["utils/_pytree.py"]), strict=True)
        for pattern in patterns
        for path in folder.glob(pattern)
    )
    for pattern in silenced:
        longest = max(pattern.replace("\\", "").split(".*"), key=len).strip(". ")
        assert _in_pieces(longest, sources), pattern


def test_report_unless_storing(capsys):
    """The traceback of a thread that cannot write a file is left out, that of another one is printed."""
    for error in (OSError("full"), ValueError("wrong")):
        compat.report_unless_storing(threading.ExceptHookArgs((type(error), error, None, threading.current_thread())))
    printed = capsys.readouterr().err
    assert "wrong" in printed
    assert "full" not in printed


def _in_pieces(text, sources):
    """Whether a message, whose source breaks lines and fills in names, is there: by each run of three words."""
    words = text.split()
    runs = [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]
    return sum(run in sources for run in runs) >= max(1, len(runs) // 3)


# -------------------------------------------------------------------- argparse


def test_option_names():
    parser = LightningArgumentParser()
    parser.add_argument("--one.two")
    inner = LightningArgumentParser()
    inner.add_argument("--three")
    parser.add_subcommands().add_subcommand("go", inner)
    assert {"one.two", "three", "help"} <= compat.option_names(parser)


# -------------------------------------------------------------------- all of them

METHODS = {
    "_should_skip_saving_checkpoint": (ModelCheckpoint, ["self", "trainer"]),
    "_save_topk_checkpoint": (ModelCheckpoint, ["self", "trainer", "monitor_candidates"]),
    "_monitor_candidates": (ModelCheckpoint, ["self", "trainer"]),
    "_on_before_batch_transfer": (L.LightningModule, ["self", "batch", "dataloader_idx"]),
    "_apply_batch_transfer_handler": (L.LightningModule, ["self", "batch", "device", "dataloader_idx"]),
    "_iteration_based_training": (_FitLoop, ["self"]),
    "_should_check_val_fx": (_TrainingEpochLoop, ["self", "data_fetcher"]),
    "_get": (LightningCLI, ["self", "config", "key", "default"]),
    "_instantiate_trainer": (LightningCLI, ["self", "config", "callbacks"]),
    "_parser": (LightningCLI, ["self", "subcommand"]),
    "_parse_ckpt_path": (LightningCLI, ["self"]),
    "_dump_config": (LightningCLI, ["self"]),
}
ATTRIBUTES = {
    "_modules": (lambda: nn.Linear(1, 1), dict),
    "_forward_hooks": (lambda: nn.Linear(1, 1), dict),
    "_forward_pre_hooks": (lambda: nn.Linear(1, 1), dict),
    "_dynamo": (lambda: torch, ModuleType),
    "_per_optimizer_states": (lambda: torch.amp.GradScaler("cpu"), dict),
    "_last_lr": (lambda: ConstantLR(torch.optim.SGD([nn.Parameter(torch.ones(1))])), list),
    "_trainer": (lambda: L.LightningModule(), NoneType),
    "_logger_connector": (lambda: L.Trainer(accelerator="cpu", logger=False, barebones=True), object),
    "_data_fetcher": (lambda: L.Trainer(accelerator="cpu", logger=False, barebones=True).fit_loop, NoneType),
    "_signal_connector": (lambda: L.Trainer(accelerator="cpu", logger=False, barebones=True), object),
    "_SubprocessScriptLauncher": (lambda: launchers, type),
    "_version": (lambda: CSVLogger("."), NoneType),
    "_actions": (ArgumentParser, list),
    "_subparsers": (ArgumentParser, NoneType),
    "_group_actions": (lambda: ArgumentParser().add_argument_group("a group"), list),
}


@pytest.mark.parametrize("name", METHODS)
def test_signature_of(name):
    owner, parameters = METHODS[name]
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.filterwarnings("ignore:.*barebones")
def test_kind_of(name):
    make, kind = ATTRIBUTES[name]
    assert isinstance(getattr(make(), name), kind)


@functools.cache
def _parse(path):
    return ast.parse(Path(path).read_text())


def _is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in ("_", "_exit")  # os._exit is documented


def _private_names(tree):
    """Private attributes that some code reads, sets or defines, with their lines and what they are attributes of."""
    for node in ast.walk(tree):
        names, owner = [], ""
        if isinstance(node, ast.Attribute):
            names, owner = [node.attr], ast.unparse(node.value)
        elif isinstance(node, ast.FunctionDef):
            names, owner = [node.name], "def"
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("intff_lightning"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            names = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        yield from [(node.lineno, owner, name) for name in names if _is_private(name)]


def test_no_private_attribute_lacks_its_test():
    used = {name for _, _, name in _private_names(_parse(compat.__file__))}
    assert used == {*METHODS, *ATTRIBUTES}


# -------------------------------------------------------------------- and nowhere else

ITS_OWN = ("self", "cls", "super()", "def")
OTHERS = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "lightning_compat.py"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("trainer._logger_connector", ["_logger_connector"]),
        ("self.trainer._loop", ["_loop"]),
        ("from torch._dynamo import config", ["_dynamo"]),
        ("import torch._dynamo", ["_dynamo"]),
        ("getattr(module, '_modules')", ["_modules"]),
        ("class A:\n    def _f(self):\n        return self._g + super()._h + cls._i", []),
        ("from intff_lightning._version import __version__", []),
    ],
)
def test_uses_of_private_attributes_are_found(source, found):
    assert _of_others(ast.parse(source)) == [(1, name) for name in found]


def _of_others(tree):
    return [(line, name) for line, owner, name in _private_names(tree) if owner not in ITS_OWN]


def test_private_attributes_of_others_are_used_in_one_file():
    used = {path.relative_to(PACKAGE).as_posix(): _of_others(_parse(path)) for path in OTHERS}
    assert {path: names for path, names in used.items() if names} == {}


def _classes():
    """The classes of the package outside ``lightning_compat``."""
    found = pkgutil.walk_packages(intff_lightning.__path__, "intff_lightning.")
    for module in [importlib.import_module(name) for _, name, _ in found if not name.endswith("__main__")]:
        classes = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
        yield from classes if module is not compat else ()


@functools.cache
def _class_trees(path):
    return {node.name: node for node in ast.walk(_parse(path)) if isinstance(node, ast.ClassDef)}


def _tree(cls):
    path = getattr(sys.modules[cls.__module__], "__file__", "")  # an extension or a built-in module has no text
    return _class_trees(path).get(cls.__name__, ast.Module([])) if path.endswith(".py") else ast.Module([])


def _of_bases(cls):
    """Private names of a class's bases in other packages: their methods, and what their own methods set on ``self``."""
    bases = [base for base in cls.__mro__ if not base.__module__.startswith("intff_lightning")]
    return {name for base in bases for name in _defined(base) if _is_private(name)}


@functools.cache
def _defined(cls):
    return {*vars(cls), *(name for _, owner, name in _private_names(_tree(cls)) if owner == "self")}


def test_private_attributes_of_bases_are_found():
    class Reads(L.LightningModule):
        def on_fit_start(self):
            self._fabric = None

    assert {"_fabric", "_trainer", "_modules", "_hparams"} <= _of_bases(Reads)
    assert ("self", "_fabric") in {(owner, name) for _, owner, name in _private_names(_tree(Reads))}


def test_private_attributes_of_bases_are_used_in_one_file():
    """Nor does a method of ours have the name of a private one of a base, which would change that library."""
    used = []
    for cls in _classes():
        names = {name for _, owner, name in _private_names(_tree(cls)) if owner in ITS_OWN}
        used += [f"{cls.__module__}.{cls.__qualname__}: {name}" for name in sorted(names & _of_bases(cls))]
    assert used == []
