"""The packaged networks: files, manifest, loading by name, and the command that makes them."""

import hashlib
import json
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import ROOT

from intff_lightning import IntFFModule
from intff_lightning.cli import main
from intff_lightning.cli.configs import find_config
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.pretrained import FOLDER, find_weights, read_manifest

ENTRIES = read_manifest()


def test_files_and_manifest_agree():
    names = [entry["name"] for entry in ENTRIES]
    assert names == sorted(names)
    assert {"digits", "mnist", "mnist_by_class"} <= set(names)
    assert {path.stem for path in FOLDER.glob("*.ckpt")} == set(names)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ckpt")) < 3_000_000


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_a_packaged_network_holds_no_state_of_its_training(entry):
    path = find_weights(entry["name"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    assert path.stat().st_size == entry["bytes"]
    assert find_config(entry["config"]).is_file()
    checkpoint = torch.load(path, weights_only=True)
    assert not {"optimizer_states", "lr_schedulers", "callbacks", "loops"} & checkpoint.keys()
    assert checkpoint["recipes"]["data"]["init_args"].get("data_dir") is None  # not that of the machine that made it
    assert checkpoint["training"] == {"seed": entry["seed"]}
    module = IntFFModule.from_pretrained(entry["name"])
    assert not module.training
    assert sum(p.numel() for p in module.parameters()) <= entry["parameters"]
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_the_digits_have_the_accuracy_of_the_manifest(trainer):
    (entry,) = (entry for entry in ENTRIES if entry["name"] == "digits")
    data = DigitsDataModule().dataset("test")
    with torch.inference_mode():
        right = IntFFModule.from_pretrained("digits")(data.image).argmax(1) == data.target
    assert round(100 * right.double().mean().item(), 2) == entry["test_accuracy"]


@pytest.mark.parametrize("command", ["test", "validate"])
def test_the_command_line_takes_a_name(command, capsys):
    options = [word for part in ("test", "val", "train") for word in (f"--trainer.limit_{part}_batches", "1")]
    assert main([command, "--ckpt_path", "pretrained:digits", *options]) == 0
    assert "network" in capsys.readouterr().out


def test_fine_tuning_begins_with_the_weights(trainer, digits):
    module = IntFFModule.from_pretrained("digits").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    class First(L.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if not trainer.global_step:
                assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    trainer(max_steps=2, callbacks=[First()]).fit(module, digits())
    assert not all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_another_name_is_refused():
    with pytest.raises(ConfigurationError, match=r"there is no pretrained network 'digit'. Did you mean digits?"):
        IntFFModule.from_pretrained("digit")


@pytest.mark.usefixtures("blank_figures")
def test_the_command_makes_a_network_of_a_run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import pretrained
    from benchmarks.__main__ import main as benchmarks

    quick = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--test_after_fit", "false"]
    assert main(["fit", "--config", "digits", *quick]) == 0
    run = Path("lightning_logs/version_0")

    def tested(arguments, folder):  # without a process of its own
        assert main([*arguments, "--trainer.default_root_dir", str(folder), "--trainer.limit_train_batches", "1"]) == 0
        return {"test/accuracy": 0.5}, []

    monkeypatch.setattr(pretrained, "run", tested)
    benchmarks(["pretrained", "--network", "digits", "--run", str(run), "--out", "made"])
    (entry,) = json.loads(Path("made/manifest.json").read_text())
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    made = torch.load("made/digits.ckpt", weights_only=True)
    assert entry["test_accuracy"] == 50
    assert entry["sha256"] == hashlib.sha256(Path("made/digits.ckpt").read_bytes()).hexdigest()
    for name, value in best["state_dict"].items():
        assert torch.allclose(made["state_dict"][name].float(), value, rtol=1e-3, atol=1e-7)
    for other in (["--network", "mnist"], ["--network", "digits", "--seed", "1"]):
        with pytest.raises(SystemExit, match="this run is not one of"):
            benchmarks(["pretrained", *other, "--run", str(run), "--out", "made"])
    shutil.rmtree("made")
