"""The benchmarks by their shape; of what they measure, only what does not depend on the machine."""

import copy
import functools
import json

import lightning as L
import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.local import UnitL2

BATCH, INPUTS, HIDDEN, OUTPUTS = 8, 16, 32, 4
H, Y, SCALAR = 4 * BATCH * HIDDEN, 4 * BATCH * OUTPUTS, 4  # bytes of activations in float32


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def step():
    """A network of two layers, and a training step of it."""
    network = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, OUTPUTS))
    x = torch.rand(BATCH, INPUTS)
    return network, lambda: network(x).sum().backward()


def test_tracked_bytes_are_those_counted_by_hand(step):
    from benchmarks.memory import Tracker

    network, train = step
    with Tracker() as tracker:
        train()
    # when the hidden layer's gradient goes through the ReLU: its activations, the gradient before and after; the loss
    # and the gradient of the loss
    peak, alive = tracker.peak(without=[p.grad for p in network.parameters()])
    assert peak == 3 * H + 2 * SCALAR
    assert sorted(size for size, _ in alive) == [SCALAR, SCALAR, H, H, H]
    # with them, when that layer's own weights have got theirs: the gradient that came through the ReLU is there yet
    assert tracker.peak()[0] == max(
        3 * H + 2 * SCALAR + 4 * (OUTPUTS * HIDDEN + OUTPUTS),
        H + 2 * SCALAR + 4 * (OUTPUTS * HIDDEN + OUTPUTS + HIDDEN * INPUTS + HIDDEN),
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_tracked_bytes_of_a_forward_pass(step, mode):
    from benchmarks.memory import Tracker, peak_bytes

    network, _ = step
    x = torch.rand(BATCH, INPUTS)
    with mode(), Tracker() as tracker:
        y = network(x)
    assert tracker.peak()[0] == H + Y
    assert sum(size for _, size, _ in tracker.events) == Y  # the hidden layer is gone
    with mode():
        assert peak_bytes(lambda: network(x), "cpu") == H + Y
    with tracker:
        del y
    assert sum(size for _, size, _ in tracker.events) == 0


def test_what_was_there_before_is_not_tracked():
    from benchmarks.memory import Tracker

    before = torch.zeros(1000)
    with Tracker() as tracker:
        before.view(10, 100).add_(1)
        made = before[:10] + 1
        made.resize_(20)
    assert tracker.peak()[0] == 4 * 20


def test_tracked_bytes_are_those_of_torchs_profiler(step, tmp_path):
    from benchmarks.memory import Tracker

    _, train = step
    for p in step[0].parameters():
        p.grad = None
    with Tracker() as tracker:
        train()
    for p in step[0].parameters():
        p.grad = None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        train()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    current = most = 0
    for _, size in memory:
        current += size
        most = max(most, current)
    assert tracker.peak()[0] == most


def test_checkpointing_is_the_same_network():
    from benchmarks.opponents import Network

    for network in (Network(((12,), (12,), (10, 10))), Network(((4,), (4,), (4,), (4,)), conv=True, shape=(1, 6, 6))):
        plain, segments = network.backprop(), network.backprop(checkpointing=True)
        segments.load_state_dict(plain.state_dict())
        image = torch.rand(5, *network.shape)
        for module in (plain, segments):
            module.train()(image).square().sum().backward()
        for mine, theirs in zip(segments.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
        units = [p.shape for p in network.intff().units.parameters()]
        assert units == [p.shape for p in plain.body.parameters()]


def test_operations_are_those_counted_by_hand():
    from benchmarks.inference import operations, separate
    from benchmarks.opponents import PAPER

    module, image = PAPER.intff(), torch.rand(3, 1, 28, 28)
    pixels, first, others = 774 * 200, 784 * 200, 2 * 200 * 200 + 200 * 50 + 50 * 50
    with torch.inference_mode():
        assert operations(lambda: separate(module, image)) == 2 * 3 * 10 * (first + others)
        assert operations(lambda: module.label_goodness(image)) == 2 * 3 * (pixels + 10 * others)


def _run(name, out):
    from benchmarks.__main__ import main

    main([name, "--quick", "--out", str(out)])
    return lambda table=name: json.loads((out / f"{table}.json").read_text())["rows"]


@pytest.mark.slow
def test_convolution(tmp_path):
    rows = _run("convolution", tmp_path)()
    assert [row["rule"] for row in rows][::2] == ["bare loop", "IntFF by class"]


def test_the_bare_loop_of_convolutions_is_the_packages_step(trainer):
    """In float64, with plain SGD: the same weights after two steps."""
    from benchmarks import convolution

    torch.manual_seed(0)
    rate = functools.partial(torch.optim.SGD, lr=0.1)
    module, image, target = convolution.module(False, rate).double(), torch.rand(6, 3, 32, 32), torch.arange(6)
    units = [copy.deepcopy(unit.body) for unit in module.units]
    optimizers = [rate(unit.parameters()) for unit in units]
    for _ in range(2):
        convolution.bare_step(units, optimizers, image.double(), target, dtype=torch.float64)
    data = DataLoader(TensorDataset(image.double(), target), batch_size=6)
    trainer(max_epochs=2, precision="64-true").fit(module, data)
    for mine, theirs in zip(module.units.parameters(), (p for unit in units for p in unit.parameters()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_memory(tmp_path):
    rows = _run("memory", tmp_path)()
    for suffix in ("md", "png"):
        assert (tmp_path / f"memory.{suffix}").stat().st_size
    assert len(rows) == 2 * 10
    for row in rows:  # from two units to four
        if row["rule"] in ("IntFF immediate", "IntFF by class", "IntFF, nine wrong labels, in chunks"):
            assert row["growth %"] < 5
        if row["rule"] in ("IntFF joint", "BP"):
            assert row["growth %"] > 5
    peaks = {(row["network"], row["rule"]): row["4 units, MB"] for row in rows}
    for network in {network for network, _ in peaks}:
        assert peaks[network, "IntFF, nine wrong labels, in chunks"] < 1.5 * peaks[network, "IntFF immediate"]
        assert peaks[network, "IntFF, nine wrong labels"] > 3 * peaks[network, "IntFF immediate"]


@pytest.mark.slow
def test_inference(tmp_path):
    read = _run("inference", tmp_path)
    assert (tmp_path / "inference.png").stat().st_size
    for row in read():
        assert row["ceiling"] > 1
        assert row["scores differ by at most"] < 1e-4
    sweep = [row["sweep, MB"] for row in read("inference_memory")]
    assert sweep == sorted(sweep)
    assert len(read("inference_mnist")) == 2


@pytest.mark.slow
def test_scaling(tmp_path):
    read = _run("scaling", tmp_path)
    assert (tmp_path / "scaling.png").stat().st_size
    rows = read()
    assert len(rows) == 5 * 3 * 2
    for row in rows:
        assert row["min"] <= row["seconds (median)"] <= row["max"]
        assert (row["activations MB"] == "") == (row["over"] == "images")


@pytest.mark.slow
def test_steps(tmp_path):
    rows = _run("steps", tmp_path)()
    assert (tmp_path / "steps.png").stat().st_size
    assert {row["rule"] for row in rows} > {"BP", "BP, checkpointing", "BP, 4 micro-batches", "IntFF immediate"}
    for row in rows:
        assert row["min"] <= row["of BP (median)"] <= row["max"]


def test_the_model_of_a_pipeline():
    from benchmarks.pipeline_model import Link, batch_seconds

    units, slow, beside = [1.0, 2.0, 3.0, 2.0], Link(0.5, 10.0, beside=False), Link(0.5, 10.0)
    assert batch_seconds(units, 0.25, 1, 20, slow) == 8.25
    assert batch_seconds(units, 0.25, 2, 20, slow) == 5.25 + 0.5 + 2  # [1, 2], [3, 2], and a message
    assert batch_seconds(units, 0.25, 3, 20, slow) == 3.25 + 2 * 2.5  # the stage in the middle receives and sends
    assert batch_seconds(units, 0.25, 4, 20, beside) == 3.25  # the link works beside the units
    assert batch_seconds(units, 0.25, 4, 200, beside) == 20.5  # and takes longer than they do


@pytest.mark.slow
def test_pipeline(tmp_path, forks, monkeypatch):
    from benchmarks import pipeline

    def start(arguments, processes, threads):
        group = forks.start("benchmarks.pipeline_worker", *arguments, count=processes)

        def end():
            assert not any(group.wait()), group.output[-3000:]

        return end

    ways = [pipeline.ONE, pipeline.LOOP, pipeline.PIPELINE, "BP, GPipe, 4 micro-batches"]
    monkeypatch.setattr(pipeline, "WAYS", {way: pipeline.WAYS[way] for way in ways})
    monkeypatch.setattr(pipeline, "_start", start)
    read = _run("pipeline", tmp_path)
    assert (tmp_path / "pipeline_model.png").stat().st_size
    rows = {row["way"]: row for row in read()}
    one, _, ours, theirs = (rows[way] for way in ways)
    assert ours["parameters and states, MB"] < 0.55 * one["parameters and states, MB"]
    assert ours["sent, MB"] == pytest.approx(512 * 512 * 4 / 1e6, rel=0.05)  # activations of 256 images, twice
    assert theirs["sent, MB"] == pytest.approx(2 * 256 * 512 * 4 / 1e6)  # activations, and their gradients
    (model,) = read("pipeline_model")
    assert model["model, ms"] < model["units, ms"] + model["constant, ms"]


@pytest.mark.slow
def test_throughput(tmp_path, tiny_mnist, blank_figures, monkeypatch):
    from benchmarks.__main__ import main

    monkeypatch.chdir(ROOT)
    main(["throughput", "--quick", "--epochs", "1", "--data_dir", str(tiny_mnist), "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "throughput.json").read_text())["rows"]
    assert (tmp_path / "throughput.png").is_file()
    assert len(rows) == 2 * 3
    for row in rows:
        assert row["least"] <= row["ours / this loop (median)"] <= row["most"]
        assert (row["loop"] == "intff_lightning") <= (row["least"] == row["most"] == 1)


@pytest.mark.parametrize("conv", [False, True])
def test_the_bare_loop_trains_as_the_module_does(conv, trainer):
    from benchmarks.opponents import Network
    from benchmarks.throughput import BareLoop

    network = Network(((6, 5), (4,)), conv=conv, shape=(1, 8, 8))
    image, target = torch.randint(256, (32, 1, 8, 8), dtype=torch.uint8), torch.randint(10, (32,))
    bare = BareLoop(image, target, network, batches=1, fused=False, gain=10)
    module = network.intff(optimizer=functools.partial(torch.optim.Adam, lr=3e-3))
    for unit, layers in zip(module.units, bare.units, strict=True):
        unit.normalization = UnitL2(gain=10)
        for ours, theirs in zip(unit.parameters(), layers.parameters(), strict=True):
            ours.data.copy_(theirs)
    data = PairedDataModule(train=InMemoryDataset(image, target), num_classes=10, batch_size=8, val_size=0)

    class BareStep(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, *_):
            bare.step(batch.image.view(8, *bare.image.shape[1:]), batch.target, batch.negative_target[:, 0])

    trainer(max_epochs=2, callbacks=[BareStep()]).fit(module, data)
    for unit, layers in zip(module.units, bare.units, strict=True):
        for ours, theirs in zip(unit.parameters(), layers.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert module.global_step == 8


@pytest.mark.slow
def test_startup(tmp_path, monkeypatch):
    from benchmarks import startup

    fit = startup.PROCESSES["fit, to the first batch"][0]
    monkeypatch.setattr(startup, "PROCESSES", {"nothing": (["-c", "pass"], "nothing"), "fit": (fit, "nothing")})
    rows = _run("startup", tmp_path)()
    assert [row["process"] for row in rows] == ["nothing", "fit"]
    assert all(row["seconds (median)"] > 0 for row in rows)


def test_standing_puts_accuracies_beside_published_ones(tmp_path):
    from benchmarks import standing
    from benchmarks.__main__ import main

    results = [
        ("mnist", [98.0, 99.0], 120.0),
        ("mnist_conv", [99.6, 99.7], 600.0),
        ("mnist_conv_bp", [99.9], 300.0),
    ]
    for config, accuracies, seconds in results:
        rows = [{"test accuracy %": accuracy, "training s": seconds} for accuracy in accuracies]
        if config == "mnist":
            rows = [row | {"one view %": row["test accuracy %"] - 1} for row in rows]
        (tmp_path / f"accuracy_{config}.json").write_text(json.dumps({"rows": rows, "machine": "x86_64, 2 threads"}))
    main(["standing", "--results", str(tmp_path), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "standing.json").read_text())
    ours = {row["method"]: row for row in found["rows"] if row["seeds"]}
    convolution = ours["intff_lightning, mnist_conv"]
    assert convolution["accuracy %"] == pytest.approx(99.65)
    assert ours["intff_lightning, mnist"]["accuracy %"] == pytest.approx(98.5)
    assert ours["intff_lightning, mnist, one view"]["accuracy %"] == pytest.approx(97.5)
    assert convolution["std"] == pytest.approx(0.0707, abs=1e-4)
    assert (convolution["minutes"], convolution["seeds"], convolution["threads"]) == (10.0, 2, 2)
    (sentence,) = found["sentences"]  # backpropagation is not ours
    ahead, equal, behind = sentence.split("; ")
    assert ahead.startswith("- MNIST: `mnist_conv` has 99.65 % (2 seeds), ahead of IntFF (Tang 2023) 98.00, ")
    assert equal == "equal to DeeperForward (2025) 99.65, ASGE (2509.12394) 99.65"
    assert behind == "behind predsim (1901.06656) 99.69, Distance-Forward (2024) 99.70."
    assert [row["accuracy %"] for row in found["rows"] if row["data"] == "MNIST"] == sorted(
        (row["accuracy %"] for row in found["rows"] if row["data"] == "MNIST"), reverse=True
    )
    assert (tmp_path / "standing.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="run `benchmarks accuracy` first"):
        main(["standing", "--results", str(tmp_path / "none"), "--out", str(tmp_path)])
    committed = json.loads((ROOT / "results" / "benchmarks" / "standing.json").read_text())
    assert [row for row in committed["rows"] if row["seeds"]] == sorted(
        standing.measured(ROOT / "results" / "benchmarks"),
        key=lambda row: [row["method"] for row in committed["rows"]].index(row["method"]),
    ), "an accuracy is newer: run `python -m benchmarks standing`"


TINY = """# Digits for a test.
trainer: {max_epochs: 2}
model:
  class_path: IntFFModule
  init_args: {units: [{class_path: DenseUnit, init_args: {widths: [20]}}]}
data: {class_path: DigitsDataModule}
"""


@pytest.mark.parametrize("line", ["accuracy --config digits --jobs 0", "resume --runs 0", "together --rounds 0"])
def test_counts_below_one_are_refused(line, capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(line.split())
    assert f"{line.split()[-2]}: 0 is no number from 1 on" in capsys.readouterr().err


def test_training_seconds_are_those_of_the_last_time_that_an_epoch_was_trained(tmp_path):
    from benchmarks.accuracy import training_seconds

    lines = ["epoch  9/10  loss 0.1  val/accuracy 98.00 %  2.0 s", "epoch 10/10   50 %  512 samples/s", "resuming"]
    lines += ["epoch  9/10  loss 0.1  val/accuracy 98.00 %  3.0 s", "epoch 10/10  loss 0.1  62.5 s", "took 7.0 s"]
    path = tmp_path / "printed.jsonl"
    path.write_text("".join(json.dumps([k, line]) + "\n" for k, line in enumerate(lines)))
    assert training_seconds(path) == 65.5


@pytest.mark.parametrize(
    ("config", "has_folder"),
    [
        *((name, False) for name in ("digits", "wine", "diabetes", "words")),
        *((name, True) for name in ("mnist", "cifar10_conv", "paper/table1_intff_784_100-50_30-10_tuned")),
    ],
)
def test_only_data_with_a_folder_get_one(config, has_folder, tmp_path):
    from benchmarks.accuracy import data_options
    from intff_lightning.cli.configs import find_config

    elsewhere = tmp_path / "digits" / "config.yaml"  # the folders of a path mean nothing
    elsewhere.parent.mkdir()
    elsewhere.write_text(find_config(config).read_text())
    for name in (config, str(elsewhere)):
        assert data_options(name, "DIR") == (["--data.data_dir", "DIR"] if has_folder else [])


def test_a_row_is_of_one_folder_of_data(tmp_path, monkeypatch):
    from benchmarks import accuracy

    def fit(config, seed, folder, data_dir, *options):
        folder.mkdir(parents=True)
        torch.save({"state_dict": {}, "hyper_parameters": {"views": None}}, folder / "last.ckpt")
        (folder / "printed.jsonl").write_text(json.dumps([1.0, "epoch  1/1  loss 0.1  2.0 s"]) + "\n")
        return {"test/accuracy": float(data_dir[-1])}, []

    monkeypatch.setattr(accuracy, "fit", fit)
    monkeypatch.chdir(tmp_path)
    row = accuracy.measure("mnist", 0, tmp_path / "a", "data1", [])
    for same in ("data1", "./data1", str(tmp_path / "data1")):
        assert accuracy.measure("mnist", 0, tmp_path / "a", same, []) == row
    with pytest.raises(SystemExit, match=r"a is of the data in .*data1, and not of .*data2: remove it"):
        accuracy.measure("mnist", 0, tmp_path / "a", "data2", [])
    done = tmp_path / "a" / "row.json"
    older = json.loads(done.read_text())
    del older["data_dir"]
    done.write_text(json.dumps(older))
    assert accuracy.measure("mnist", 0, tmp_path / "a", "data2", []) == row
    own = accuracy.measure("digits", 0, tmp_path / "b", "data1", [])  # digits are in no folder
    assert accuracy.measure("digits", 0, tmp_path / "b", "data2", []) == own


def test_a_network_of_several_views_is_also_tested_on_one(tmp_path, monkeypatch):
    from benchmarks import accuracy

    def fit(config, seed, folder, data_dir, *options):
        folder.mkdir(parents=True)
        torch.save({"state_dict": {}, "hyper_parameters": {"views": {"class_path": "V"}}}, folder / "last.ckpt")
        (folder / "best.ckpt").touch()
        (folder / "printed.jsonl").touch()
        return {"test/accuracy": 0.75}, []

    def run(arguments, folder):
        assert arguments == ["test", "--ckpt_path", str(tmp_path / "a/best.ckpt"), "--model.views", "null"]
        return {"test/accuracy": 0.5}, []

    monkeypatch.setattr(accuracy, "fit", fit)
    monkeypatch.setattr(accuracy, "run", run)
    row = accuracy.measure("digits", 0, tmp_path / "a", "data", [])
    assert (row["test accuracy %"], row["one view %"]) == (75.0, 50.0)


@pytest.mark.slow
def test_accuracy_of_a_seed_is_measured_once(tmp_path):
    from benchmarks.__main__ import main

    config, threads = tmp_path / "digits_tiny.yaml", torch.get_num_threads()
    config.write_text(TINY)

    def measure(*options):
        main(["accuracy", "--config", str(config), "--seeds", "1", "--jobs", "2", "--out", str(tmp_path), *options])
        torch.set_num_threads(threads)
        return json.loads((tmp_path / "accuracy_digits_tiny.json").read_text())["rows"]

    (row,) = first = measure("--", "--trainer.max_epochs", "1")
    assert (row["seed"], row["parameters"]) == (0, 100 * 20 + 20)
    (weights,) = (tmp_path / "logs").rglob("last.ckpt")
    written = weights.stat().st_mtime_ns
    assert measure("--", "--trainer.max_epochs", "1") == first
    assert weights.stat().st_mtime_ns == written  # nothing was trained
    with pytest.raises(SystemExit, match=r"is of another version of .*: remove it"):
        measure()  # other options
    config.write_text(TINY.replace("[20]", "[30]"))
    with pytest.raises(SystemExit, match=r"is of another version of .*: remove it"):
        measure("--", "--trainer.max_epochs", "1")
    torch.set_num_threads(threads)


def test_time_to_accuracy_compares_runs_of_a_seed():
    from benchmarks.time_to_accuracy import _curve, _note, _passed

    accuracies = [(3.0, 97.0), (4.5, 98.25), (6.0, 98.0)]
    lines = [
        (at, f"epoch {k}/3  loss 0.5000  val/accuracy {found:.2f} %  1.5 s") for k, (at, found) in enumerate(accuracies)
    ]
    curve = _curve([(0.5, "Hidden units"), *lines])
    assert curve == [(at, 1.5, found) for at, found in accuracies]
    assert _passed(curve, 98.0) == (4.5, 3.0)
    assert _passed(curve, 99.0) == ("never", "never")
    mine, theirs = ({"config": name, "from process start s": 4.0, "training s": 3.0} for name in ("mine", "theirs"))
    note = _note(
        [{**mine, "training s": 6.0}, mine, mine, theirs, theirs, {**theirs, "from process start s": 8.0}], 98.0
    )
    assert "mine: 4.0 s from process start, on average. theirs: 5.3 s" in note
    assert "From process start, mine takes 1.00 times as long as theirs (median)." in note
    assert "In training, mine takes 1.00 times as long as theirs (median)." in note
    assert "In training" not in _note([{**mine, "training s": "never"}, theirs], 98.0)
