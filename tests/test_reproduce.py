"""The command that rebuilds the paper's tables and figures, on a few images; its procedures; its claims in float64."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from conftest import ROOT
from reference import layers_of
from torch import nn

from intff_lightning import BackpropModule, DenseUnit, IntFFModule
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.optim import KerasAdam
from intff_lightning.recipe import from_recipe
from intff_lightning.reproduce import figures, runs
from intff_lightning.reproduce.command import main
from intff_lightning.reproduce.configs import file_name
from intff_lightning.reproduce.equivalence import equivalence
from intff_lightning.reproduce.procedures import make_procedure
from intff_lightning.reproduce.rounds import (
    VALIDATION,
    RoundRecord,
    live_neurons,
    read_table,
    summarize_rounds,
    write_table,
)
from intff_lightning.reproduce.rows import CONVOLUTION, HELD_OUT, Row, rows_of

KEYS = {
    "table",
    "algorithm",
    "network",
    "procedure",
    "paper_accuracy",
    "accuracy_mean",
    "accuracy_std",
    "seeds",
    "parameters",
    "epochs",
    "passes",
    "seconds",
    "versions",
}


def _rows(path):
    return json.loads(Path(path).read_text())


@pytest.fixture
def data(tiny_mnist):
    """Options for a quick run on 500 images."""
    return ["--data_dir", str(tiny_mnist), "--quick", "--out", "out"]


@pytest.fixture(autouse=True)
def _small_split(monkeypatch):
    """The embedded images are too few to keep 5,000 for validation."""
    make = runs.make_procedure

    def smaller(row, procedure, *rest):
        made = make(row, procedure, *rest)
        made.data.val_size = min(made.data.val_size, 100)
        return made

    monkeypatch.setattr(runs, "make_procedure", smaller)


def test_what_the_paper_reports():
    table1, table2 = rows_of("table1"), rows_of("table2")
    assert [row.paper_accuracy for row in table1] == [94.04, 94.64, 96.07, 98.00, 94.48, 97.27, 97.71]
    assert [row.paper_accuracy for row in table2] == [94.38, 90.78, 93.83, 94.12]
    assert all(" " not in row.network for row in [*table1, *table2])
    assert table1[0].units == [[100, 50], [30, 10]]
    assert table1[1].units == [[100], [50], [30], [10]]
    assert table1[2].units == [[100], [50], [30]]  # the last is the softmax
    assert table2[3].units == [[100, 100], [100, 100], [10]]


@pytest.mark.parametrize(
    ("row", "procedure"),
    [(row, procedure) for row in [*rows_of("table1"), *rows_of("table2")] for procedure in row.procedures],
    ids=lambda value: f"{value.algorithm}{value.network}" if isinstance(value, Row) else value,
)
def test_the_networks_have_the_papers_sizes(row, procedure, tiny_mnist):
    module = make_procedure(row, procedure, 0, str(tiny_mnist), quick=True).module
    module.hparams.update(input_shape=[1, 28, 28], num_classes=10)
    module.configure_model()
    widths = [layer.out_features for layer in layers_of(module, nn.Linear)]
    if row.network == CONVOLUTION:
        assert [layer.out_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)] == [32, 64]
        assert widths == [128, 48, 10]
    else:
        flat = row.network.replace("(", "").replace(")", "").split(",")
        assert widths == [int(width) for width in flat[1:]]


def test_the_authors_procedure(tiny_mnist):
    small = next(row for row in rows_of("table1") if row.network == "(784,(100,50),(30,10))")
    made = make_procedure(small, "author", 0, str(tiny_mnist))
    assert (made.epochs, made.module.inner_steps, made.module.handover, made.passes) == (100, 50, "after", 5000)
    assert made.data.val_size == 0
    assert made.data.batch_size >= 80_000
    made.module.hparams.update(input_shape=[1, 28, 28], num_classes=10)
    made.module.configure_model()
    optimizers = [unit.optimizer(unit.parameters()) for unit in made.module.units]
    assert all(isinstance(optimizer, KerasAdam) for optimizer in optimizers)
    assert [optimizer.position for optimizer in optimizers] == [0, 1]
    for layer in made.module.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.abs().max() <= (6 / sum(layer.weight.shape)) ** 0.5  # Glorot's bound
            assert not layer.bias.any()
    epochs = [make_procedure(row, "author", 0, str(tiny_mnist)).epochs for row in rows_of("table2")]
    assert epochs == [25, 15, 500, 25]
    epochs = [make_procedure(row, "author", 0, str(tiny_mnist)).epochs for row in rows_of("table1")]
    assert epochs == [100, 100, 1500, 100, 100, 1500, 500]  # the last is the convolution


# fan in + fan out of each layer; that of a convolution is multiplied by the size of its kernel
_FANS = {
    "(784,100,50,30,10)": [884, 150, 80, 40],
    "(784,200,200,200,50,50,10)": [984, 400, 400, 250, 100, 60],
    "(784,100,100,100,100,10)": [884, 200, 200, 200, 110],
    CONVOLUTION: [9 + 288, 288 + 576, 1728, 176, 58],
}


@pytest.mark.parametrize("network", _FANS)
def test_the_authors_backpropagation_starts_as_in_keras(network, tiny_mnist):
    row = next(row for row in [*rows_of("table1"), *rows_of("table2")] if row.network == network)
    module = make_procedure(row, "author", 0, str(tiny_mnist)).module
    module.hparams.update(input_shape=[1, 28, 28], num_classes=10)
    module.configure_model()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer, fans in zip(layers, _FANS[network], strict=True):
        bound = (6 / fans) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.std() / (bound / 3**0.5) - 1) < 0.2  # uniform
        assert not layer.bias.any()
    rates = [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)]
    assert rates == ([0.5] if network == CONVOLUTION else [])


def test_a_neuron_is_alive_if_one_training_image_under_its_own_label_reaches_it():
    module = IntFFModule([DenseUnit([5]), DenseUnit([2])], input_shape=[1, 2, 6], num_classes=3)
    first, second = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    image = torch.zeros(2100, 1, 2, 6)
    image[:, 0, 0, 5] = 1  # a pixel of every image
    image[2050, 0, 1, 5] = 1  # and one that only this image has
    data = InMemoryDataset(image, torch.arange(2100) % 2)  # no image of class 2
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0, 11] = 1  # alive by one image
        first.weight[1, 1] = 1  # alive by the label of class 1
        first.weight[2, 2] = 1  # dead: that label is never shown
        first.weight[3, 5] = -1  # dead
        first.bias[4] = 1  # always alive
        second.weight[0, 2] = 1  # dead, as its input is
        second.weight[1, 4] = 1
    assert live_neurons(module, data) == [3, 1]
    assert not module.units[0].body[1][1]._forward_hooks


def test_a_channel_counts_as_one_neuron():
    module = BackpropModule(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()), input_shape=[1, 2, 2], num_classes=2)
    conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, 0.0, -0.9]))
    image = torch.zeros(4, 1, 2, 2)
    image[3, 0, 1, 1] = 1
    assert live_neurons(module, InMemoryDataset(image, torch.zeros(4, dtype=torch.int64))) == [2]


def test_the_rules_of_stopping():
    place = {"algorithm": "ff", "network": "(784,10)", "corruption": "clean", "rate": 0.0}
    measured = {  # seed: validation, test and test of unit 0, live neurons, round by round
        0: ((90.0, 91.0, 80.0, 10), (93.0, 92.5, 81.0, 9), (93.0, 92.0, 82.0, 8)),  # a tie: the latest counts
        1: ((95.0, 94.0, 83.0, 7), (94.0, 96.0, 84.0, 6), (92.0, 93.0, 85.0, 6)),
    }
    rows = [
        {**place, "seed": seed, "round": n, "validation": v, "test": t, "test_unit_0": u, "live_1": live}
        for seed, values in measured.items()
        for n, (v, t, u, live) in enumerate(values, 1)
    ]
    write_table(Path("rounds.csv"), rows)
    assert read_table(Path("rounds.csv")) == rows
    zero, one, mean, std = summarize_rounds(rows)
    assert (zero["last"], zero["best_validation"], zero["best_test"]) == (92.0, 92.0, 92.5)
    assert (zero["best_validation_round"], zero["best_test_round"]) == (3, 2)
    assert (one["last"], one["best_validation"], one["best_test"]) == (93.0, 94.0, 96.0)
    assert (one["unit_0"], one["live"], one["validation"]) == (85.0, [6], 92.0)
    assert (mean["seed"], mean["last"], mean["best_validation"], mean["best_test"]) == ("mean", 92.5, 93.0, 94.25)
    assert mean["live"] == [7]
    assert std["last"] == pytest.approx(0.5**0.5)
    assert all(line["algorithm"] == "ff" for line in (zero, one, mean, std))


def test_seeds_started_one_by_one_are_put_together_with_the_record_of_every_round(data, capsys):
    arguments = ["table2", "--rows", "2", "3", "--procedure", "author", "--seeds", "2", *data]
    assert main([*arguments, "--only_seeds", "1"]) == 0
    assert "the same command without --only_seeds puts the runs together" in capsys.readouterr().out
    assert main([*arguments[:2], "2", *arguments[4:], "--only_seeds", "0"]) == 0
    assert main([*arguments, "--only_seeds", "2"]) == 1
    assert "--only_seeds 2: the seeds are 0 to 1; --seeds N makes more" in capsys.readouterr().err
    stamps = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}
    assert len(stamps) == 3
    assert not list(Path("out").glob("table2*"))
    assert main(arguments) == 0  # trains the fourth
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}.items()
    rows = read_table(Path("out/table2_author.csv"))
    assert [(row["algorithm"], row["seed"], row["round"]) for row in rows] == [
        (algorithm, seed, n) for algorithm in ("ff", "bp") for seed in (0, 1) for n in (1, 2)
    ]
    assert all(0 < row["live_4"] <= 100 for row in rows)
    for table in _rows("out/table2.json"):
        last = [row for row in rows if row["algorithm"] == table["algorithm"] and row["round"] == 2]
        assert table["accuracies"] == pytest.approx([row["test"] for row in last], abs=1e-4)
        if table["algorithm"] == "ff":
            assert table["unit_accuracy_mean"][0] == pytest.approx(
                sum(row["test_unit_0"] for row in last) / 2, abs=0.01
            )
    run = next(Path("out/runs").glob("ff_*seed1"))
    assert [row["test"] for row in read_table(run / "rounds.csv")] == [row["test"] for row in rows[2:4]]
    assert Path("out/table2_author.md").read_text().count("\n| ") == 10  # a header, its line, and 4 for each network
    assert Path("out/table2_author.png").is_file()


def test_a_resumed_run_continues_its_record(data, monkeypatch):
    arguments = ["table2", "--rows", "1", "--procedure", "author", "--seeds", "1", *data[:3]]
    assert main([*arguments, "--out", "whole"]) == 0
    begun = []

    class Interrupted(runs._History):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            begun.append(trainer.current_epoch)
            if len(begun) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_History", Interrupted)
    assert main([*arguments, "--out", "cut"]) == 130
    (record,) = Path("cut").rglob("rounds.csv")
    assert len(read_table(record)) == 1
    assert main([*arguments, "--out", "cut"]) == 0
    assert begun == [0, 1, 1]
    (whole,) = Path("whole").rglob("rounds.csv")
    assert record.read_text() == whole.read_text()


def test_the_record_does_not_change_the_training(tiny_mnist, trainer):
    row = rows_of("table1")[-1]  # it has dropout
    weights = []
    for recorded in (False, True):
        torch.manual_seed(0)
        made = make_procedure(row, "author", 0, str(tiny_mnist), quick=True)
        callbacks = [RoundRecord(Path("rounds.csv"), made.data)] if recorded else []
        trainer(callbacks=callbacks, max_epochs=2).fit(made.module, made.data)
        weights.append(made.module.state_dict())
    assert len(read_table(Path("rounds.csv"))) == 2
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_held_out_validation_images_are_not_trained_on(tiny_mnist):
    row = rows_of("table2")[0]
    made = make_procedure(row, "author_held_out", 0, str(tiny_mnist))
    assert (made.data.train_size, made.data.val_size, VALIDATION) == (55_000, 0, 5000)
    assert make_procedure(row, "author", 0, str(tiny_mnist)).data.train_size is None


@pytest.mark.slow
def test_table_files_and_a_second_call_that_trains_nothing(data, capsys):
    arguments = ["table2", "--seeds", "2", *data]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[8/8] intff (784,(100,100),(100,100),10) mixture 75 % tuned seed 1: test accuracy" in printed
    rows = _rows("out/table2.json")
    assert [row["network"] for row in rows] == [row.network for row in rows_of("table2")]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["seeds"] == 2
        mean = sum(row["accuracies"]) / 2
        assert row["accuracy_mean"] == pytest.approx(mean)
        assert row["accuracy_std"] == pytest.approx(abs(row["accuracies"][0] - mean) * 2**0.5)
    text = Path("out/table2.md").read_text()
    assert "python -m intff_lightning.reproduce table2 --seeds 2" in text
    assert text.count("\n| ") == 6  # a header, its line and four rows
    stamps = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}
    assert len(stamps) == 8
    assert main(arguments) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}
    assert _rows("out/table2.json") == rows


def test_rows_of_other_calls_are_kept(data):
    assert main(["table2", "--rows", "1", "3", "--seeds", "1", *data]) == 0
    assert main(["table2", "--rows", "1", "--procedure", "author", "--seeds", "1", *data]) == 0
    kept = [(row["algorithm"], row["procedure"]) for row in _rows("out/table2.json")]
    assert kept == [("intff", "tuned"), ("intff", "author"), ("bp", "tuned")]


def test_channels_are_a_procedure_of_intff_and_ff(data, capsys):
    made = {row.algorithm: make_procedure(row, "channels", 0, data[1]).module for row in rows_of("table2")[:2]}
    assert all(module.by_class and not module.encoder.shows_label for module in made.values())
    assert main(["table2", "--rows", "1", "--seeds", "1", *data]) == 0
    assert main(["table2", "--rows", "1", "2", "3", "--procedure", "channels", "--seeds", "1", *data]) == 0
    kept = [(row["algorithm"], row["procedure"]) for row in _rows("out/table2.json")]
    assert kept == [("intff", "tuned"), ("intff", "channels"), ("ff", "channels")]  # BP needs no label in the image
    assert main(["table2", "--rows", "3", "--procedure", "channels", *data]) == 1
    assert "--procedure channels: these rows lack it" in capsys.readouterr().err


@pytest.mark.parametrize(("table", "row"), [("table2", "1"), ("table1", "7")], ids=["intff", "convolution"])
def test_an_interrupted_run_resumes_and_ends_with_the_same_figures(table, row, data, monkeypatch, capsys):
    arguments = [table, "--rows", row, "--seeds", "1", "--data_dir", data[1], "--quick"]
    assert main([*arguments, "--out", "whole"]) == 0
    epochs = []

    class Interrupted(runs._History):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            epochs.append(trainer.current_epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_History", Interrupted)
    assert main([*arguments, "--out", "cut"]) == 130
    assert "the same command continues from here" in capsys.readouterr().err
    assert main([*arguments, "--out", "cut"]) == 0
    assert epochs == [0, 1, 1]  # not from the beginning
    (whole,), (cut,) = (_rows(f"{name}/{table}.json") for name in ("whole", "cut"))
    assert cut["accuracies"] == whole["accuracies"]
    assert cut["unit_accuracy_mean"] == whole["unit_accuracy_mean"]
    histories = [json.loads(next(Path(name).rglob("result.json")).read_text())["history"] for name in ("whole", "cut")]
    assert [epoch["val/loss"] for epoch in histories[0]] == [epoch["val/loss"] for epoch in histories[1]]


def test_a_changed_procedure_is_trained_anew(data, monkeypatch):
    arguments = ["table2", "--rows", "3", "--seeds", "1", *data]
    assert main(arguments) == 0
    (done,) = Path("out/runs").rglob("result.json")
    before = done.stat().st_mtime_ns
    plain = runs.to_recipe
    monkeypatch.setattr(
        runs, "to_recipe", lambda part: {**(it := plain(part)), "init_args": {**it["init_args"], "a": None}}
    )
    assert main(arguments) == 0
    assert done.stat().st_mtime_ns == before  # a new option of the package that is not used changes nothing
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.Adam)
    assert main(arguments) == 0
    assert done.stat().st_mtime_ns != before


@pytest.mark.slow
def test_several_at_a_time(data):
    # other processes do not know of the smaller split: the author's runs have none
    assert main(["table2", "--rows", "2", "3", "--procedure", "author", "--seeds", "1", "--jobs", "2", *data]) == 0
    assert {row["algorithm"] for row in _rows("out/table2.json")} == {"ff", "bp"}


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_shipped_configs_are_the_procedures(table):
    assert main([table, "--procedure", "all", "--out", str(ROOT / "results/paper"), "--configs", "written"]) == 0
    written = list(Path("written").iterdir())
    assert len(written) == sum(len(set(row.procedures) - {HELD_OUT}) for row in rows_of(table))
    assert {path.name for path in written} == {path.name for path in (ROOT / "configs/paper").glob(f"{table}_*")}
    for path in written:
        assert path.read_text() == (ROOT / "configs/paper" / path.name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "procedure"),
    [
        (row, procedure)
        for row in [*rows_of("table1")[:3], *rows_of("table2")[:3]]
        for procedure in row.procedures
        if procedure != HELD_OUT
    ],
    ids=lambda value: f"{value.table}-{value.algorithm}" if isinstance(value, Row) else value,
)
def test_a_shipped_config_trains_the_network_of_its_procedure(row, procedure, tiny_mnist, trainer):
    config = yaml.safe_load((ROOT / "configs/paper" / file_name(row, procedure)).read_text())
    weights, seen = [], []

    class Seen(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, *_):
            seen.append(batch)

    for shipped in (True, False):
        torch.manual_seed(0)
        if shipped:
            module, data = from_recipe(config["model"]), from_recipe(config["data"])
            data.data_dir, data.seed = tiny_mnist, 0
        else:
            made = make_procedure(row, procedure, 0, str(tiny_mnist))
            module, data = made.module, made.data
            assert config["trainer"] == {"max_epochs": made.epochs}
        data.val_size = min(data.val_size, 100)
        trainer(callbacks=[Seen()], limit_train_batches=2, limit_val_batches=0).fit(module, data)
        weights.append(module.state_dict())
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.image, other.image)
        assert row.algorithm == "bp" or torch.equal(one.negative_target, other.negative_target)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_figures(data):
    assert main(["figure3", *data]) == 0
    losses = [row["unit_losses"] for row in _rows("out/figure3.json")]
    assert [len(units) for units in losses] == [2, 2]
    assert all(len(unit) == 2 and all(value > 0 for value in unit) for units in losses for unit in units)
    assert main(["figure4", *data]) == 0
    assert sum(row["samples"] for row in _rows("out/figure4.json")) == 666
    for name in ("figure3", "figure4"):
        assert Path(f"out/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_robustness_has_every_share_and_kind_for_every_algorithm(data):
    rows = rows_of("robustness")
    assert {(row.corruption, row.rate) for row in rows if row.algorithm == "bp"} == {
        ("clean", 0.0),
        *(("mixture", rate) for rate in (0.25, 0.5, 0.75, 0.9)),
        *((kind, 0.5) for kind in ("gaussian_pixels", "unloaded_rows", "noise_images", "label_noise")),
    }
    assert len(rows) == 27
    numbers = [str(i + 1) for i, row in enumerate(rows) if row.algorithm == "bp"]
    assert main(["robustness", "--rows", *numbers, "--seeds", "1", *data]) == 0
    assert Path("out/robustness.png").is_file()


def test_the_figure_shows_our_procedures_and_the_authors_where_there_is_no_other(tmp_path, monkeypatch):
    accuracy = {"accuracy_mean": 98.0, "accuracy_std": 0.1}
    rows = [
        {"algorithm": algorithm, "procedure": procedure, "corruption": corruption, "rate": rate, **accuracy}
        for algorithm, procedure in (("bp", "author"), ("intff", "tuned"), ("intff", "channels"), ("intff", "author"))
        for corruption, rate in (("clean", 0.0), ("mixture", 0.75), ("label_noise", 0.5))
    ]
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append(figure))
    figures.draw_robustness(rows, tmp_path / "robustness.png")
    for axes in saved[0].axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["IntFF", "IntFF, channels", "BP"]


def test_section_6_holds():
    rows = equivalence()
    assert len(rows) == 2
    for row in rows:
        assert 0 <= row["relative"] < 1e-12


def test_mistakes_are_said_in_a_few_lines(data, capsys):
    assert main(["table1", "--rows", "9", *data]) == 1
    message = capsys.readouterr().err
    assert "--rows 9: table1 has the rows" in message
    assert "4: intff (784,(200,200,200),(50,50))" in message
    with pytest.raises(SystemExit):
        main(["table1", "--seeds", "0", *data])
    assert "--seeds: 0 is no number from 1 on" in capsys.readouterr().err
    assert main(["figure4", "--data_dir", "nowhere/at/all\0", "--out", "out"]) == 1
    Path("out").mkdir(exist_ok=True)
    Path("out/table1.json").write_text('[{"quick": false}]')
    assert main(["table1", *data]) == 1
    assert "name another folder" in capsys.readouterr().err
    assert main(["table1", *data[:3], "--out", "/dev/null/out"]) == 1
    assert "--out /dev/null/out cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["table3"])
    assert stop.value.code == 2


def test_the_ablation_has_a_row_for_every_choice(data, capsys):
    rows = rows_of("ablation")
    assert len({row.network for row in rows}) == len(rows)
    for position in range(4):  # units, encodings, negatives, losses
        assert len({row.network.split(" | ")[position] for row in rows}) > 3
    chosen = [
        i for i, row in enumerate(rows, 1) if row.network.endswith("| both") and row.network[:5] in ("dense", "recur")
    ]
    numbers = [str(number) for number in chosen[:3]]
    assert main(["ablation", "--rows", *numbers, "--seeds", "1", *data]) == 0
    assert "dense | overlay | 3 wrong | both" in capsys.readouterr().out
    assert Path("out/ablation.png").is_file()
    assert len(_rows("out/ablation.json")) == 3
    made = {row.network: make_procedure(row, "tuned", 0, data[1]) for row in rows}
    for network, procedure in made.items():
        unit, encoding, *_ = network.split(" | ")
        assert {type(u).__name__.lower() for u in procedure.module.units} == {f"{unit.split()[0]}unit"}
        assert procedure.module.by_class == (encoding in ("channels", "mean", "patches", "head"))
        procedure.module.build((1, 28, 28), 10)
        assert (procedure.epochs, procedure.data.train_size) == (10, 10_000)
