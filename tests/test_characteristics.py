"""Characteristics: what is measured of networks, how it is compared, and the command that trains them once."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from reference import layers_of
from scipy.stats import ttest_rel
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.local import ChannelGoodness, NoNormalization
from intff_lightning.reproduce import runs
from intff_lightning.reproduce.characteristics import (
    command,
    damage,
    early_exit,
    figure,
    forgetting,
    labels,
    networks,
    sparsity,
)
from intff_lightning.reproduce.characteristics.intervals import compare, paired_interval
from intff_lightning.reproduce.characteristics.networks import (
    NetworkRun,
    Trained,
    Training,
    few_images,
    load_sets,
    of_task,
)
from intff_lightning.reproduce.characteristics.reading import layers, predicted_activations, scores, unit_outputs
from intff_lightning.reproduce.characteristics.registry import CHARACTERISTICS
from intff_lightning.reproduce.characteristics.report import markdown, overview, sentences
from intff_lightning.reproduce.command import main
from intff_lightning.reproduce.spaces import STUDIES, make, space
from intff_lightning.units import UnitChain

SHAPE = {"input_shape": [1, 4, 5], "num_classes": 3}


def _data(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (count, 1, 4, 5), generator=generator, dtype=torch.uint8)
    return InMemoryDataset(image, torch.randint(3, (count,), generator=generator))


def _trained(module, algorithm="intff", **options):
    return Trained(algorithm, "dense", "mnist", 0, module.eval(), _data(40, 1), _data(), **options)


@pytest.fixture
def modules():
    """One network of four layers per algorithm, and a convolutional one."""

    def units(*widths):
        return [DenseUnit(list(each)) for each in widths]

    return {
        "intff": IntFFModule(units((7, 7), (7, 7)), **SHAPE),
        "channels": IntFFModule(units((7, 6), (7, 6)), goodness=ChannelGoodness(), **SHAPE),
        "ff": IntFFModule(units((7,), (7,), (7,), (7,)), vote=[0], **SHAPE),
        "bp": BackpropModule(DenseUnit([7, 7, 7, 7], normalization=NoNormalization()), **SHAPE),
        "chain": BackpropModule(UnitChain(units((7, 7), (7, 7))), **SHAPE),
        "conv": BackpropModule(UnitChain([ConvUnit([5, 5], norm="batch"), ConvUnit([6, 6])]), **SHAPE),
    }


# -------------------------------------------------------------------- comparison


def test_the_interval_is_that_of_a_paired_t_test():
    ours, theirs = [0.91, 0.93, 0.95, 0.90, 0.94], [0.90, 0.90, 0.93, 0.91, 0.92]
    found = paired_interval(ours, theirs)
    independent = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found[1:] == pytest.approx((independent.low, independent.high))
    assert found.difference == pytest.approx(0.014)
    # t_{0.975, 4} = 2.7764451, s = 0.0151658
    assert found.high - found.difference == pytest.approx(2.7764451 * 0.0151658 / 5**0.5, rel=1e-5)
    assert not found.decided
    assert paired_interval([0.9, 0.91], [0.8, 0.81]).decided
    assert not paired_interval([0.9] * 3, [0.9] * 3).decided
    assert paired_interval([0.5], [0.4])[1:] == (None, None)
    with pytest.raises(ValueError, match="zip"):
        paired_interval([0.5, 0.6], [0.4])


def _row(algorithm, seed, value, measure="accuracy", better="higher", **more):
    place = {"network": "dense", "dataset": "mnist", "what": "all", "settings": "s"}
    return {**place, "algorithm": algorithm, "seed": seed, "measure": measure, "value": value, "better": better, **more}


def _rows():
    """Accuracy and error of two seeds: IntFF is ahead in one and behind in the other, FF is undecided in both."""
    values = {"intff": ((0.9, 0.1), (0.91, 0.11)), "ff": ((0.5, 0.5), (0.9, 0.1)), "bp": ((0.8, 0.0), (0.8, 0.0))}
    kinds = (("accuracy", "higher"), ("error", "lower"))
    return [
        _row(algorithm, seed, value, *kind)
        for algorithm, seeds in values.items()
        for seed, pair in enumerate(seeds)
        for value, kind in zip(pair, kinds, strict=True)
    ]


def test_ahead_and_behind_follow_what_is_better_and_the_interval():
    found = {(row["algorithm"], row["measure"]): row for row in compare(reversed(_rows()))}
    assert found["intff", "accuracy"]["values"] == [0.9, 0.91]
    assert {place: row["verdict"] for place, row in found.items()} == {
        ("intff", "accuracy"): "ahead",
        ("intff", "error"): "behind",
        ("ff", "accuracy"): "undecided",
        ("ff", "error"): "undecided",
        ("bp", "accuracy"): "",
        ("bp", "error"): "",
    }
    assert found["bp", "accuracy"]["difference"] is None
    # one image may be the whole difference of shares that differ by the same amount in every seed
    same = [_row(algorithm, seed, value) for algorithm, value in (("intff", 0.98), ("bp", 1.0)) for seed in (0, 1)]
    assert compare(same)[0]["verdict"] == "undecided"
    # other seeds are no pairs
    (row, _) = compare([_row("intff", 0, 0.5), _row("bp", 1, 0.5)])
    assert (row["verdict"], row["difference"]) == ("", None)


def test_no_sentence_claims_a_difference_whose_interval_contains_zero():
    rows = compare(_rows())
    lines = sentences(rows)
    assert [line for line in lines if line.startswith("- ")] == [
        "- **IntFF** is ahead of backpropagation in 1 of 2 comparisons, and behind in 1; 0 are undecided.",
        "- **FF** is ahead of backpropagation in 0 of 2 comparisons, and behind in 0; 2 are undecided.",
    ]
    claims = [line.strip() for line in lines if line.startswith("    ")]
    low, high = ttest_rel([0.9, 0.91], [0.8, 0.8]).confidence_interval()
    ends = f"{100 * low:+.2f} to {100 * high:+.2f}"
    assert claims == [
        f"- ahead: dense network, MNIST, all, accuracy: 90.50 % against 80.00 % (difference {ends})",
        f"- behind: dense network, MNIST, all, error: 10.50 % against 0.00 % (difference {ends})",
    ]
    assert overview(rows).startswith("Of 4 differences from backpropagation, 2 are decided.")
    alone = compare([row for row in _rows() if row["seed"] == 0])
    assert sentences(alone) == ["One seed gives no interval, so nothing is said about who is ahead."]


def test_counts_are_no_shares():
    rows = compare([_row(a, s, v, unit="count") for a, v in (("intff", 3000), ("bp", 1000)) for s in (0, 1)])
    assert "3,000 against 1,000 (difference +2,000 to +2,000)" in sentences(rows)[1]
    assert overview(rows).startswith("Of 0 differences")
    found = {"rows": rows, "quick": False, "command": "c", "versions": {"torch": "2"}, "date": "today"}
    assert "| 3,000 | 0 | 2,000 | 2,000 | 2,000 | ahead | 2 |" in markdown("Cost", found)


def test_the_figure_turns_differences_so_that_the_right_is_better(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(figure, "save", lambda drawn, path: saved.append(drawn))
    rows = [{"characteristic": "c", **row} for row in compare(_rows()) if row["verdict"]]
    figure.draw_differences(rows, tmp_path / "differences.png")
    (axes,) = saved[0].axes
    points = {}
    for row, container in zip(rows, axes.containers, strict=True):
        marker = container.lines[0]
        points[row["algorithm"], row["measure"]] = float(marker.get_xdata()[0])
        assert (marker.get_markerfacecolor() == "white") == (row["verdict"] == "undecided")
    assert points == pytest.approx(
        {("intff", "accuracy"): 10.5, ("intff", "error"): -10.5, ("ff", "accuracy"): -10, ("ff", "error"): -30}
    )


# -------------------------------------------------------------------- what is measured


def test_few_images_are_as_many_of_each_class_and_repeated():
    target = torch.arange(400) % 10
    target[:15] = 7  # the classes are not equally large
    data = InMemoryDataset(torch.arange(400.0).view(400, 1, 1, 1) / 400, target)
    few = few_images(data, 20, seed=0)
    assert len(few) == 400
    assert set(Counter(few.target.tolist()).values()) == {40}
    numbers = Counter(few.image.flatten().tolist())
    assert set(numbers.values()) == {20}
    assert len(few_images(data, 25, seed=0)) == 400
    assert not torch.equal(few.image, few_images(data, 20, seed=1).image)
    assert torch.equal(few.image, few_images(data, 20, seed=0).image)
    assert few_images(data, 400, seed=0) is data


def test_a_task_has_its_two_classes():
    data = InMemoryDataset(torch.rand(50, 1, 2, 2), torch.arange(50) % 10)
    assert sorted({*of_task(data, 1).target.tolist()}) == [0, 1]
    assert sorted({*of_task(data, 5).target.tolist()}) == [8, 9]
    assert torch.equal(of_task(data, 5).image, data.image[(data.target > 7)])


def test_layers_are_the_same_four_in_every_algorithm(modules):
    assert {name: len(layers(module)) for name, module in modules.items()} == dict.fromkeys(modules, 4)
    image = torch.rand(3, 1, 4, 5)
    for name in ("bp", "chain"):
        first, second = unit_outputs(modules[name].eval(), image)
        every = predicted_activations(modules[name], image)
        assert torch.equal(first, every[1])
        assert torch.equal(second, every[3])
    assert [h.shape[1] for h in unit_outputs(modules["conv"].eval(), image)] == [5, 6]


def test_a_network_that_reads_labels_is_read_under_those_that_it_predicts(modules):
    module, image = modules["intff"].eval(), torch.rand(6, 1, 4, 5)
    with torch.no_grad():
        predicted = torch.stack([module(one.unsqueeze(0)).argmax() for one in image])
        x, expected = module.encoder(image, predicted), []
        for unit in module.units:
            expected += unit.activations(x)
            x = expected[-1]
    for found, h in zip(predicted_activations(module, image), expected, strict=True):
        torch.testing.assert_close(found, h)


def test_silent_neurons_are_those_whose_weights_are_zero(modules):
    """A ReLU neuron without weights and bias is zero, so a network without these weights is the damaged one."""
    trained = _trained(modules["bp"], "bp")
    linear = [layer for layer in trained.module.body.modules() if isinstance(layer, nn.Linear)]
    for chosen, draw in ((range(2, 4), None), (range(4), 1)):
        found = damage.without(trained, chosen, draw)
        state = {name: value.clone() for name, value in trained.module.state_dict().items()}
        with torch.no_grad():
            for k in chosen:
                gone = torch.ones(7, dtype=torch.bool) if draw is None else ~damage.kept_neurons(7, 0, draw, k)
                linear[k].weight[gone], linear[k].bias[gone] = 0, 0
            right = [trained.module(image / 255).argmax() == target for image, target in _singly(trained.test)]
        assert found == pytest.approx(sum(map(int, right)) / len(right))
        trained.module.load_state_dict(state)
    assert not linear[0]._forward_hooks
    kept = torch.stack([damage.kept_neurons(7, seed, 0, 0) for seed in range(20)])
    assert kept.sum(1).tolist() == [4] * 20
    assert len({tuple(row.tolist()) for row in kept}) > 10


def _singly(data):
    return zip(data.image.split(1), data.target, strict=True)


def test_units_of_ff_are_damaged_layer_by_layer_as_those_of_others(modules):
    names = ["nothing removed", "unit 1 of 2 removed", "half of unit 1 of 2", "unit 2 of 2 removed"]
    names += ["half of unit 2 of 2", "half of all units"]
    found = {name: damage.measure(_trained(module), "", quick=True) for name, module in modules.items()}
    for rows in found.values():
        assert [row["what"] for row in rows] == names
    ff = {row["what"]: row["value"] for row in found["ff"]}
    assert ff["unit 2 of 2 removed"] == ff["nothing removed"]  # it does not vote, and is not compared
    better = {row["what"]: row["better"] for row in found["ff"]}
    assert [what for what in names if not better[what]] == ["unit 2 of 2 removed", "half of unit 2 of 2"]
    assert all(row["better"] for name, rows in found.items() if name != "ff" for row in rows)


def test_sparsity_by_hand():
    h = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert sparsity.hoyer(h).tolist() == pytest.approx([1, 0, 0.6, 1])  # (2 - 7/5) / (2 - 1)
    assert sparsity.silent(torch.tensor([[2.0, 0.01, -0.03, 0.0]])).tolist() == [0.5]


def test_sparsity_is_the_mean_over_images_and_layers(modules):
    trained = _trained(modules["channels"])
    found = {(row["what"], row["measure"]): row["value"] for row in sparsity.measure(trained, "")}
    activations = [torch.stack(list(h)) for h in predicted_activations(trained.module, trained.test.image / 255)]
    for number, unit in enumerate(("unit 1 of 2", "unit 2 of 2")):
        own = [float((h.abs() <= 0.01 * h.abs().amax(1, True)).double().mean()) for h in activations]
        assert found[unit, "silent neurons"] == pytest.approx(sum(own[2 * number : 2 * number + 2]) / 2, abs=1e-6)
    assert found["all units", "Hoyer sparsity"] == pytest.approx(
        sum(found[f"unit {k} of 2", "Hoyer sparsity"] for k in (1, 2)) / 2
    )


def test_accuracy_of_few_labels_and_of_noise(modules):
    trained = _trained(modules["bp"], "bp", training=Training(images=1000))
    (row,) = labels.few_labels(trained, "")
    right = scores(trained.module, trained.test).argmax(1) == trained.test.target
    assert (row["what"], row["value"]) == ("1,000 images", pytest.approx(float(right.double().mean())))
    (row,) = labels.label_noise(_trained(modules["bp"], "bp", training=Training(noise=0.6)), "")
    assert row["what"] == "60 % wrong labels"
    rows = [{"what": "0 % wrong labels", "value": 0.9}, {"what": "60 % wrong labels", "value": 0.7}]
    assert labels.lost_by_noise(rows, [])[0]["value"] == pytest.approx(0.2)


def test_forgetting_is_what_the_best_accuracy_so_far_has_lost():
    accuracies = {(j, k): 1.0 if j == k else 0.6 if k < 5 else 0.1 * j for k in range(1, 6) for j in range(1, k + 1)}
    accuracies[2, 4] = 1.2  # more than when it was learned
    rows = [
        {"what": f"task {j} after task {k}", "measure": name, "value": value}
        for (j, k), value in accuracies.items()
        for name in ("accuracy, ten classes", "accuracy, task known")
    ]
    found = {row["measure"]: row["value"] for row in forgetting.summarize(rows, [])}
    assert found["accuracy, ten classes"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4 + 1) / 5)
    assert found["forgetting, task known"] == pytest.approx((0.9 + 1.0 + 0.7 + 0.6) / 4)


def test_a_known_task_chooses_among_its_two_classes(tiny_mnist):
    test = load_sets("mnist", str(tiny_mnist), True)[2]

    class Always(nn.Module):  # the scores of classes rise, except that 4 is above 5
        device = torch.device("cpu")

        def forward(self, image):
            return torch.tensor([0.0, 1, 2, 3, 5, 4, 6, 7, 8, 9]).expand(len(image), 10)

    trained = Trained("bp", "dense", "mnist", 0, Always(), test, test, Training(tasks=3))
    found = {(row["what"], row["measure"]): row["value"] for row in forgetting.measure(trained, "")}
    assert len(found) == 6
    four = int((test.target == 4).sum())
    assert found["task 3 after task 3", "accuracy, task known"] == pytest.approx(
        four / (four + int((test.target == 5).sum()))
    )
    assert found["task 1 after task 3", "accuracy, ten classes"] == 0


def test_multiply_accumulates_by_hand(modules, tiny_mnist, monkeypatch):
    first, layer, last = 20 * 7, 7 * 7, 7 * 3
    # with labels in the image, the first layer reads the 17 other pixels once, and all others each of three labels
    exits = {
        "intff": [17 * 7 + 3 * layer, 17 * 7 + 9 * layer],
        "channels": [first + 7 * 6, first + 3 * 7 * 6],
        "bp": [first + layer + last, first + 3 * layer + last],
        "chain": [first + layer + last, first + 3 * layer + last],
    }
    monkeypatch.setattr(early_exit, "load_sets", lambda *_: (_data(50, 3), None, None))
    for name, expected in exits.items():
        found = early_exit.measure(_trained(modules[name]), "", quick=True)
        assert [row["what"] for row in found[::2]] == ["first 2 of 4 layers", "whole network"]
        assert [row["value"] for row in found[1::2]] == expected
    cost = [row["value"] for row in early_exit.measure(_trained(modules["ff"]), "", quick=True)[1::2]]
    assert cost[0] in (17 * 7, 17 * 7 + 3 * layer)  # by the vote that validation chooses
    assert cost[1] == 17 * 7  # only the first unit votes


def test_an_early_exit_votes_as_validation_chooses(modules):
    trained = _trained(modules["ff"])
    found = early_exit.measure(trained, "", quick=True)
    with torch.no_grad():
        validation, test = (trained.module.label_goodness(d.image / 255) for d in (trained.validation, trained.test))
    best = max(
        ([0, 1], [1], [0]),
        key=lambda vote: int((validation[vote].sum(0).argmax(1) == trained.validation.target).sum()),
    )
    right = (test[best].sum(0).argmax(1) == trained.test.target).double().mean()
    assert found[0]["value"] == pytest.approx(float(right))
    assert found[2]["value"] == pytest.approx(float((test[0].argmax(1) == trained.test.target).double().mean()))


def test_backpropagation_leaves_early_by_a_regression(modules, monkeypatch):
    train, trained = _data(50, 3), _trained(modules["chain"], "bp")
    monkeypatch.setattr(early_exit, "load_sets", lambda *_: (train, None, None))
    monkeypatch.setattr(early_exit, "_IMAGES", 30)
    found = early_exit.measure(trained, "", quick=True)
    with torch.no_grad():
        body = trained.module.body
        sets = [body.activations(d.image / 255)[0].numpy() for d in (train, trained.validation, trained.test)]

    def fitted(strength, count):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return model.fit(sets[0][:count], train.target[:count])

    strengths = (0.001, 0.01, 0.1, 1.0)
    best = max(strengths, key=lambda strength: fitted(strength, 30).score(sets[1], trained.validation.target))
    assert found[0]["value"] == pytest.approx(fitted(best, 50).score(sets[2], trained.test.target))


# -------------------------------------------------------------------- the networks


@pytest.mark.parametrize("algorithm", ["intff", "channels", "ff", "bp"])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_all_algorithms_train_the_same_layers(algorithm, network):
    run = NetworkRun(algorithm, network, "fashion_mnist", 0)
    module, options = run._make("data")
    module.hparams.update(input_shape=[1, 28, 28], num_classes=10)
    module.configure_model()
    assert len(layers(module)) == (4 if network == "dense" else 6)
    found = [layer.weight.shape[0] for layer in layers_of(module, nn.Linear, nn.Conv2d)]
    widths = [100] * 4 if network == "dense" else [16, 16, 32, 32, 64, 64]
    assert found == widths + [10] * (algorithm == "bp")
    votes = "" if algorithm == "bp" else ", vote of unit 1"  # of the first unit alone, as validation chose
    assert run.settings == {"dense": f"study dense_clean{votes}", "conv": "start of study fashion_mnist_conv"}[network]
    sizes = {"conv": 128, "dense": networks.WINNERS["dense_clean", algorithm]["settings"]["batch_size"]}
    assert options["batch_size"] == sizes[network]


def test_networks_take_the_winners_of_their_studies(monkeypatch):
    start = {name: values.start for name, values in space(STUDIES["dense_clean"], "channels").items()}
    won = {"settings": {**start, "batch_size": 64, "goodness": "head"}, "vote": [1]}
    monkeypatch.setitem(networks.WINNERS, ("dense_clean", "channels"), won)
    for dataset in ("mnist", "fashion_mnist"):
        run = NetworkRun("channels", "dense", dataset, 0)
        module, options = run._make("data")
        assert (module.vote, options["batch_size"], run.settings) == ([1], 64, "study dense_clean, vote of unit 2")
        expected, _ = make(STUDIES["dense_clean"], "channels", won["settings"], "data", vote=[1])
        assert networks.to_recipe(module) == networks.to_recipe(expected)
    assert NetworkRun("channels", "conv", "mnist", 0).settings == "study mnist_conv, vote of unit 3"


def test_a_training_set_is_small_or_noisy_or_a_task(tiny_mnist):
    clean = load_sets("mnist", str(tiny_mnist), True)[0]

    def train(**training):
        run = NetworkRun("bp", "dense", "mnist", 0, Training(**training), quick=True)
        return run._data(str(tiny_mnist), run._make("")[1]).dataset("train")

    assert len(clean) == 400
    assert torch.equal(train().target, clean.target)
    noisy = train(noise=0.6).target != clean.target
    assert 0.5 < noisy.double().mean() < 0.7
    assert len({*map(bytes, train(images=20).image.flatten(1).numpy())}) == 20
    assert sorted({*train(tasks=2).target.tolist()}) == [2, 3]


@pytest.mark.slow
def test_a_sequence_of_tasks_goes_on_with_the_weights_of_the_task_before(tiny_mnist, monkeypatch):
    run = NetworkRun("channels", "dense", "mnist", 0, Training(tasks=2), quick=True)
    begun = []
    monkeypatch.setattr(
        networks, "fit", lambda module, *rest, **more: begun.append(_weights(module)) or fit(module, *rest, **more)
    )
    fit = runs.fit
    run.train(str(tiny_mnist), Path("networks"), print)
    first, second = (_weights(each.load(Path("networks"))) for each in (run.before, run))
    assert len(begun) == 2
    assert begun[1].keys() == first.keys()
    assert all(torch.equal(begun[1][name], first[name]) for name in first)
    assert any(not torch.equal(second[name], first[name]) for name in first)
    trained = run.trained(str(tiny_mnist), Path("networks"))
    assert not trained.module.training
    assert trained.training.tasks == 2
    assert len(begun) == 2


def _weights(module):
    return {name: value.cpu().clone() for name, value in module.state_dict().items()}


# -------------------------------------------------------------------- the command


@pytest.fixture
def two(monkeypatch, tiny_mnist):
    """Options of a quick call for two algorithms and the dense network."""
    monkeypatch.setattr(command, "ALGORITHMS", ["channels", "bp"])
    return ["--data_dir", str(tiny_mnist), "--quick", "--networks", "dense", "--seeds", "2"]


@pytest.mark.slow
def test_networks_are_trained_and_measured_once(two, blank_figures, monkeypatch, capsys):
    arguments = ["characteristics", *two, "--datasets", "mnist", "--out", "out"]
    assert main([*arguments, "--only", "damage", "--only_seeds", "1"]) == 0
    assert "the same command without --only_seeds" in capsys.readouterr().out
    assert not list(Path("out/characteristics").glob("*.json"))
    assert main([*arguments, "--only", "damage", "sparsity"]) == 0
    folder = Path("out/characteristics")
    found = json.loads((folder / "damage.json").read_text())
    assert {(row["algorithm"], row["seeds"]) for row in found["rows"]} == {("channels", 2), ("bp", 2)}
    shown = json.loads((folder / "differences.json").read_text())
    assert {row["characteristic"] for row in shown["rows"]} == {"damage", "sparsity"} == {*shown["sentences"]}
    assert damage.WHOLE not in {row["what"] for row in shown["rows"]}
    assert all((folder / f"{name}.md").is_file() for name in ("damage", "sparsity", "differences"))
    assert (folder / "differences.png").is_file()

    kept = {path: path.stat().st_mtime_ns for path in (folder / "networks").rglob("*") if path.is_file()}
    assert len([path for path in kept if path.name == "network.ckpt"]) == 4 == len({*(folder / "networks").iterdir()})
    assert main([*arguments, "--only", "damage"]) == 0  # nothing to be done
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    monkeypatch.setattr(networks, "fit", None)  # must not be called
    assert main([*arguments, "--only", "damage", "--again"]) == 0
    anew = {path for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert {path.name for path in anew} == {"damage.json"}
    assert len(anew) == 4
    assert json.loads((folder / "damage.json").read_text())["rows"] == found["rows"]
    assert main([*[each for each in arguments if each != "--quick"], "--only", "damage"]) == 1
    assert "holds those of a quick look" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_network_resumes_and_other_data_sets_are_kept(two, blank_figures, monkeypatch):
    arguments = ["characteristics", *two, "--only", "sparsity", "--seeds", "1"]
    assert main([*arguments, "--out", "whole"]) == 0
    epochs = []

    class Interrupted(runs._History):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            epochs.append(trainer.current_epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_History", Interrupted)
    assert main([*arguments, "--datasets", "mnist", "--out", "cut"]) == 130
    assert main([*arguments, "--datasets", "mnist", "--out", "cut"]) == 0
    assert epochs == [0, 1, 1, 0, 1]
    assert main([*arguments, "--datasets", "fashion_mnist", "--out", "cut"]) == 0
    whole, cut = (json.loads(Path(f"{name}/characteristics/sparsity.json").read_text()) for name in ("whole", "cut"))
    assert whole["rows"] == cut["rows"]
    assert {row["dataset"] for row in cut["rows"]} == {"mnist", "fashion_mnist"}


def test_mistakes_end_in_a_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["characteristics", "--seeds", "0"])
    assert "--seeds: 0 is no number from 1 on" in capsys.readouterr().err
    assert main(["characteristics", "--seeds", "2", "--only_seeds", "2"]) == 1
    assert "--only_seeds 2: the seeds are 0 to 1" in capsys.readouterr().err
    assert main(["characteristics", "--out", "/dev/null/out"]) == 1
    assert "--out /dev/null/out cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["characteristics", "--only", "beauty"])
    assert "invalid choice: 'beauty'" in capsys.readouterr().err


# -------------------------------------------------------------------- what is shipped


def test_the_page_has_a_section_for_every_characteristic():
    page = (ROOT / "docs/characteristics.md").read_text()
    assert len({each.name for each in CHARACTERISTICS}) == len(CHARACTERISTICS)
    for each in CHARACTERISTICS:
        assert f"\n## {each.title}\n" in page
        assert f"lines: sentences.{each.name}\n" in page


@pytest.mark.parametrize("each", CHARACTERISTICS, ids=lambda each: each.name)
def test_committed_tables_are_what_their_writer_gives(each):
    path = ROOT / "results/characteristics" / f"{each.name}.json"
    if path.is_file():
        assert path.with_suffix(".md").read_text() == markdown(each.title, json.loads(path.read_text()))


def test_committed_differences_are_those_of_the_tables():
    folder = ROOT / "results/characteristics"
    if (folder / "differences.json").is_file():
        found = json.loads((folder / "differences.json").read_text())
        made = command.differences({each.name: command._read(folder / f"{each.name}.json") for each in CHARACTERISTICS})
        assert {name: found[name] for name in made} == made
        assert (folder / "differences.md").read_text() == markdown("Differences from backpropagation", found)
