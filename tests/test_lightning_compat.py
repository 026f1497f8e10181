"""Private attributes of other libraries: one test for each use, by its name, and a test that there is no other use."""

import ast
import importlib
import inspect
import logging
import pkgutil
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

import intff_lightning
from intff_lightning import DenseUnit, IntFFModule
from intff_lightning import lightning_compat as compat
from intff_lightning.cli import IntFFCLI

PACKAGE = Path(intff_lightning.__file__).parent


# -------------------------------------------------------------------- torch


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


def test_allow_recompilations(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
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


# -------------------------------------------------------------------- Lightning


def test_datamodule_of(digits, trainer):
    module, data, seen = IntFFModule([DenseUnit([5])]), digits(), []

    class Ask(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            seen.append(compat.datamodule_of(pl_module))

    assert compat.datamodule_of(module) is None
    trainer(fast_dev_run=True, callbacks=[Ask()]).fit(module, data)
    assert seen == [data]


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
    """``value``, ``make_trainer`` and ``save_config`` in a run from the command line."""
    seen = {}

    def look(self):
        seen["value"] = self.value("trainer.max_epochs"), self.value("no.such.key", default=5)
        seen["trainer"] = self.make_trainer({"max_epochs": 3, "logger": False, "callbacks": []})
        self.save_config("saved.yaml")

    monkeypatch.setattr(IntFFCLI, "after_fit", look, raising=True)
    config = ["--config", "digits", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    assert intff_lightning.cli.main(["fit", *config]) == 0
    assert seen["value"] == (1, 5)
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


# -------------------------------------------------------------------- and nowhere else


def _own_names():
    """Private names that the package defines, in any file but the one for other libraries' names."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.name != "lightning_compat.py" else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def _is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_private_attributes_of_others_are_used_in_one_file():
    own, used = _own_names(), []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "lightning_compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("intff_lightning"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            found = [name for name in names if _is_private(name) and name not in own]
            used += [f"{path.relative_to(PACKAGE)}:{node.lineno} {name}" for name in found]
    assert used == []


def test_private_methods_of_others_are_overridden_in_one_file():
    """A method of ours whose name is a private one of a base class elsewhere would change that library."""
    overridden = []
    found = pkgutil.walk_packages(intff_lightning.__path__, "intff_lightning.")
    for module in [importlib.import_module(name) for _, name, _ in found if not name.endswith("__main__")]:
        for cls in vars(module).values():
            if not isinstance(cls, type) or cls.__module__ != module.__name__ or module is compat:
                continue
            bases = [base for base in cls.__mro__ if not base.__module__.startswith("intff_lightning")]
            names = [name for name, value in vars(cls).items() if _is_private(name) and inspect.isfunction(value)]
            found = [name for name in names if any(name in vars(base) for base in bases)]
            overridden += [f"{module.__name__}.{cls.__name__}.{name}" for name in found]
    assert overridden == []
