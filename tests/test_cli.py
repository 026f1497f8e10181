"""The command line as its users meet it: every shipped config, help, wrong input."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from intff_lightning import __version__
from intff_lightning.cli import IntFFCLI, main
from intff_lightning.cli.messages import shorten
from intff_lightning.cli.overview import COMMANDS

CONFIGS = sorted((ROOT / "intff_lightning/configs").rglob("*.yaml"))
SHIPPED = [path for path in CONFIGS if path.parent.name == "configs"]
PAPER = {  # one config for each algorithm, kind of layers and procedure: test_reproduce.py compares all with their rows
    (path.stem.split("_")[1], "C3" in path.stem, path.stem.split("_")[-1]): path
    for path in CONFIGS
    if path.parent.name == "paper"
}
DRAWN = ("digits", "mnist_unsupervised", "cifar10_conv")  # one of each kind of figure
DIGITS = str(ROOT / "configs/digits.yaml")


def _small(config, tiny_mnist, cifar):
    """Options that make a shipped config small: its own network and data, on a few batches of the first images."""
    data = yaml.safe_load(config.read_text())["data"]
    options = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]
    one_class = data["class_path"] == "OneClassDataModule"
    source, data = ("--data.data", data["init_args"]["data"]) if one_class else ("--data", data)
    if "MNIST" in data["class_path"]:
        options += [f"{source}.data_dir", str(tiny_mnist)]
        if data.get("init_args", {}).get("val_size") != 0:
            options += [f"{source}.val_size", "100"]
    if "CIFAR" in data["class_path"]:
        options += ["--data.data_dir", str(cifar), "--data.val_size", "20"]
    if "inner_steps: 50" in config.read_text():
        options += ["--model.inner_steps", "5"]
    if config.stem != "digits":
        options += ["--data.batch_size", "4" if "ConvUnit" in config.read_text() else "16"]
        for part, batches in (("train", "3"), ("val", "2"), ("test", "2")):
            options += [f"--trainer.limit_{part}_batches", batches]
    return options


@pytest.mark.parametrize(
    "config",
    [pytest.param(path, marks=() if path.stem == "digits" else pytest.mark.slow) for path in SHIPPED],
    ids=lambda path: path.stem,
)
def test_every_shipped_config_fits(config, tiny_mnist, cifar, capsys, request):
    if config.stem not in DRAWN:
        request.getfixturevalue("blank_figures")
    assert main(["fit", "--config", str(config), *_small(config, tiny_mnist, cifar)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "epoch 2/2  loss " in printed.out
    assert "network" in printed.out
    log = Path("lightning_logs/version_0")
    text = config.read_text()
    intff = "IntFFModule" in text or "RegressionModule" in text
    losses = "figures/local_loss.png" if intff else "figures/loss.png"
    for made in ("metrics.csv", "config.yaml", "checkpoints/last.ckpt", losses):
        assert (log / made).is_file()
        if made != "config.yaml":
            assert str(log / made).partition("/figures/")[0] in printed.out
    with (log / "metrics.csv").open() as file:
        names = next(csv.reader(file))
    kinds = {"NoLabel": "probe_accuracy", "pretext": "probe_accuracy", "regression: true": "r2", "OneClass": "auroc"}
    measure = [name for sign, name in kinds.items() if sign in text][-1:] or ["accuracy"]
    assert f"test/{measure[0]}" in names
    assert ({"train/loss/unit_0", "goodness/positive/unit_0"} <= set(names)) is intff


@pytest.mark.slow
@pytest.mark.parametrize("config", PAPER.values(), ids=lambda path: path.stem)
def test_configs_of_the_paper_train_and_validate_a_batch(config, tiny_mnist, cifar, capsys):
    small = _small(config, tiny_mnist, cifar)
    assert main(["fit", "--config", str(config), *small, "--trainer.fast_dev_run", "true"]) == 0
    assert re.search(r"epoch 1/1  loss \S+", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["digits", "mnist_unsupervised", "mnist_conv_bp"])  # labels, a probe alone, neither
def test_a_fast_dev_run_writes_nothing(name, tiny_mnist, cifar):
    config = ROOT / "configs" / f"{name}.yaml"
    small = _small(config, tiny_mnist, cifar)
    assert main(["fit", "--config", str(config), *small, "--trainer.fast_dev_run", "true"]) == 0
    assert not Path("lightning_logs").exists()


def test_options_reach_their_classes(capsys):
    options = ["--model.update", "joint", "--model.inner_steps", "2", "--data.batch_size", "50"]
    assert main(["fit", "--config", DIGITS, *options, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["update"] == "joint"
    assert printed["model"]["init_args"]["inner_steps"] == 2
    assert printed["data"]["init_args"]["batch_size"] == 50


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_the_probe_has_options(capsys):
    assert main(["fit", "--config", DIGITS, "--trainer.max_epochs", "1", "--probe.every_n_epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "val/probe_accuracy" in next(line for line in printed.splitlines() if line.startswith("epoch 1/1"))
    assert main(["fit", "--config", DIGITS, "--probe.epochs", "0"]) == 1
    assert "LinearProbe(epochs=0" in capsys.readouterr().err
    by_class = ["--model.units", "[{class_path: DenseUnit, init_args: {widths: [20], goodness: ChannelGoodness}}]"]
    assert main(["fit", "--config", DIGITS, *by_class, "--probe.epochs", "3"]) == 1
    assert "leave the options --probe.* out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_checkpoint_knows_its_probe(capsys):
    probe = ["--probe.hidden", "true", "--probe.epochs", "2", "--probe.augmentation", "RandomShift"]
    assert main(["fit", "--config", DIGITS, "--trainer.max_epochs", "1", *probe]) == 0
    fitted = next(line for line in capsys.readouterr().out.splitlines() if "linear probe" in line)
    assert main(["test", "--ckpt_path", "best"]) == 0
    assert fitted in capsys.readouterr().out
    assert main(["test", "--ckpt_path", "best", "--probe.hidden", "false"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_second_config_keeps_the_default_callbacks(tmp_path, capsys):
    (tmp_path / "more.yaml").write_text(
        "trainer: {max_epochs: 1, callbacks: "
        "[{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/loss}}]}"
    )
    assert main(["fit", "--config", DIGITS, "--config", "more.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "linear probe" in printed
    assert "metrics.csv" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_runs_do_not_overwrite_each_other(capsys):
    for _ in range(2):
        assert main(["fit", "--config", DIGITS, "--trainer.max_epochs", "1"]) == 0
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["version_0", "version_1"]


def test_help_is_for_people(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "intff fit --config digits" in text
    assert len(text.splitlines()) < 40
    assert COMMANDS.keys() == {*IntFFCLI.subcommands(), "configs", "report"}


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"intff_lightning {__version__}\n"


LIGHT = """
import sys
import intff_lightning
from intff_lightning.cli import main
assert main(["--help"]) == main(["--version"]) == 0
assert "IntFFModule" in dir(intff_lightning)
assert not {"torch", "lightning", "numpy", "sklearn", "matplotlib", "tensorboard", "torchvision"} & sys.modules.keys()
"""


def test_help_imports_nothing_large():
    assert subprocess.run([sys.executable, "-c", LIGHT], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.usefixtures("blank_figures")
def test_without_validation_data_the_last_weights_are_tested_and_said_so(tiny_mnist, capsys):
    config = ROOT / "configs/mnist.yaml"
    options = ["--data.data_dir", str(tiny_mnist), "--data.val_size", "0", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", str(config), *options]) == 0
    assert "the last weights are tested" in capsys.readouterr().out


def _edited(tmp_path, old, new):
    text = Path(DIGITS).read_text()
    assert old in text
    (tmp_path / "edited.yaml").write_text(text.replace(old, new, 1))
    return "edited.yaml"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_epochs", "max_epocs", "Did you mean trainer.max_epochs?"),
        ("optimizer:", "optimiser:", "Did you mean optimizer?"),
        ("DenseUnit", "DensUnit", "there is no class DensUnit. Did you mean DenseUnit?"),
        ("IntFFModule", "IntFModule", "Did you mean IntFFModule?"),
        ("WrongLabels", "WrongLabel", "Did you mean WrongLabels?"),
        ("widths: [200, 200, 200]", "widths: []", "widths=[]: one or more layers are needed"),
        ("widths: [200, 200, 200]", "widths: [0]", "widths=[0]: one or more layers are needed"),
        ("widths: [200, 200, 200]", "widths: [-3]", "widths=[-3]: one or more layers are needed"),
        ("widths: [200, 200, 200]", "width: [3]", "there is no option width. Did you mean widths?"),
        ("k: 9", "k: 0", "k is the number of negatives per positive, at least 1"),
        ("k: 9", "k: 12", "of 10 classes only 9 are wrong"),
        ("batch_size: ", "pad: -1\n    batch_size: ", "36 pixels"),
        ("units:", "units: {", "--config: edited.yaml, line "),
        ("widths: [200, 200, 200]", "activation: ReLU", "DenseUnit has no widths: give it in init_args"),
        ("max_epochs: 60", "max_epochs: two", "trainer.max_epochs: 'two' is not a whole number or null."),
    ],
)
def test_mistakes_in_a_config(old, new, expected, tmp_path, capsys):
    if expected == "36 pixels":  # 6x6 is enough for ten labels
        assert main(["fit", "--config", _edited(tmp_path, old, new), "--trainer.fast_dev_run", "true"]) == 0
        return
    assert main(["fit", "--config", _edited(tmp_path, old, new), "--trainer.max_epochs", "1"]) != 0
    message = capsys.readouterr().err
    assert expected in message
    assert 1 <= len(message.strip().splitlines()) <= 4
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["fit", "--config", DIGITS, "--trainer.max_epoch", "3"], 2, "Did you mean trainer.max_epochs?"),
        (["fit", "--config", DIGITS, "--model.updat", "joint"], 2, "Did you mean update?"),
        (["fit", "--config", DIGITS, "--model.update", "both"], 2, "Got value: both"),
        (["fit", "--config", DIGITS, "--data.batch_siz", "3"], 2, "Did you mean batch_size?"),
        (["fit", "--config", "none.yaml"], 2, "none.yaml"),
        (["fit"], 2, "Give a config file"),
        (["test"], 2, "Give a checkpoint: --ckpt_path FILE, last, best or pretrained:NAME."),
        (["fitt", "--config", DIGITS], 2, "there is no command fitt. Did you mean fit?\nThe commands are fit, "),
        (["fit", "--config", DIGITS, "--model.optimizer.lr", "abc"], 2, "lr: 'abc' is not a number."),
        (["fit", "--config", DIGITS, "--data.batch_size", "big"], 2, "batch_size: 'big' is not a whole number."),
        (["fit", "--config", DIGITS, "--model.optimizer", "Adamm"], 2, "there is no class Adamm. Did you mean Adam?"),
        (["fit", "--config", "."], 2, "--config: . is a folder, and not a config file."),
        (["fit", "--config", "/dev/null"], 2, "--config: /dev/null is empty."),
        (["test", "--ckpt_path", "."], 1, "--ckpt_path: . is a folder, and not a checkpoint."),
        (["predict", "--ckpt_path", "none.ckpt"], 1, "there is no file none.ckpt"),
        (["fit", "--config", DIGITS, "--trainer.default_root_dir", "/dev/null/logs"], 1, "cannot be written"),
        (["fit", "--config", DIGITS, "--data.pad", "-4"], 1, "the overlay of 10 labels"),
        (["fit", "--config", DIGITS, "--data.val_size", "5000"], 1, "val_size=5000 leaves nothing of 1437"),
        (["fit", "--config", DIGITS, "--data.num_classes", "7"], 1, "labels must be 0 to 6"),
    ],
)
def test_mistakes_on_the_command_line(arguments, code, expected, capsys):
    assert main(arguments) == code
    message = capsys.readouterr().err
    assert expected in message
    assert 1 <= len(message.strip().splitlines()) <= 4
    assert "Traceback" not in message


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    assert "intff fit --config digits" in capsys.readouterr().out


@pytest.mark.usefixtures("blank_figures")
def test_a_run_of_no_epochs_says_that_nothing_was_trained(capsys):
    assert main(["fit", "--config", DIGITS, "--trainer.max_epochs", "0"]) == 0
    assert "nothing was trained: the first weights are tested" in capsys.readouterr().out


def test_missing_and_damaged_data(tiny_mnist, tmp_path, capsys):
    config = str(ROOT / "configs/mnist.yaml")
    arguments = ["fit", "--config", config, "--data.download", "false", "--data.data_dir", "nowhere"]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "MNIST: there is none under" in message
    assert "--data.data_dir DIR" in message

    shutil.copytree(tiny_mnist, tmp_path / "data")
    labels = tmp_path / "data/MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:100])
    assert main(["fit", "--config", config, "--data.data_dir", "data"]) == 1
    message = capsys.readouterr().err
    assert "incomplete or damaged" in message
    assert len(message.strip().splitlines()) <= 4


def test_divergence_ends_with_the_units_name(capsys, tmp_path):
    config = _edited(
        tmp_path,
        "{class_path: torch.optim.Adam, init_args: {lr: 0.001, fused: true}}",
        "{class_path: torch.optim.SGD, init_args: {lr: 1.0e+30}}",
    )
    assert main(["fit", "--config", config]) == 1
    message = capsys.readouterr().err
    assert "unit_0 diverged" in message
    assert "last finite step" in message
    kept = list(Path("lightning_logs/version_0").rglob("*.ckpt"))
    assert kept == []  # no checkpoint of weights that are not numbers


@pytest.mark.slow
def test_a_process_of_its_own_says_nothing_else(forks):
    group = forks.start("intff_lightning", "fit", "--config", DIGITS, "--model.vote", "[7]", count=1)
    assert group.wait() == [1]
    assert group.output == "error: vote=[7]: units are numbered 0 to 1, and one or more of them vote, each once.\n"


def test_shorten_keeps_unknown_messages_short():
    assert len(shorten("\n".join(["x" * 500] * 50)).splitlines()) <= 3
