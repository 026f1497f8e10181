"""Anomaly detection: measures, one-class data, the callback, predictions and the command line."""

import csv
import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch.utils.data import TensorDataset
from torchvision.datasets import VisionDataset

from intff_lightning import BackpropModule, DenseUnit, HybridImages, IntFFModule, NoLabel, Rotated, WrongLabels
from intff_lightning.callbacks import AnomalyScore
from intff_lightning.cli import main
from intff_lightning.corruptions import Fog
from intff_lightning.datamodules import (
    DigitsDataModule,
    ImageFolderDataModule,
    InMemoryDataset,
    OneClassDataModule,
    PairedDataModule,
    TableDataModule,
)
from intff_lightning.detection import detection_metrics
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError, DivergenceError
from intff_lightning.functional import float_pixels, softplus_loss
from intff_lightning.local import SymBaLoss
from intff_lightning.pairs import PairedBatch
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce.characteristics import out_of_distribution
from intff_lightning.reproduce.tasks import anomaly
from intff_lightning.units.chain import UnitChain
from intff_lightning.views import ShiftsAndFlips

SHAPE = [1, 10, 10]


def _digits(**options):
    return OneClassDataModule(DigitsDataModule(), **{"negatives": Rotated(), "normal": 3, **options})


def _network(units=2, **options):
    made = [DenseUnit([12]) for _ in range(units)]
    return IntFFModule(made, encoder=NoLabel(), input_shape=SHAPE, num_classes=2, **options).eval()


def _trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "enable_model_summary": False, "max_epochs": 1, **options})


def _reference(score, anomalous):
    """The same measures by scikit-learn."""
    false, true, _ = roc_curve(anomalous, score, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(anomalous, score),
        "aupr": average_precision_score(anomalous, score),
        "fpr95": false[true >= 0.95][0],
    }


# -------------------------------------------------------------------- measures


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("ties", [False, True])
def test_measures_are_those_of_scikit_learn_at_any_scale(scale, ties):
    generator = torch.Generator().manual_seed(1)
    anomalous = torch.rand(500, generator=generator) < 0.3
    score = torch.randn(500, generator=generator, dtype=torch.float64) + anomalous
    score = (score * 4).round() if ties else score
    found = detection_metrics(scale * score, anomalous)
    assert found == pytest.approx(_reference(score.numpy(), anomalous.numpy()), abs=1e-6)


def test_measures_refuse_one_kind_of_data_and_scores_that_are_no_numbers():
    with pytest.raises(DataError, match="only one of them"):
        detection_metrics(torch.rand(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(DataError, match="not a number"):
        detection_metrics(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))


# -------------------------------------------------------------------- data


def test_training_and_validation_data_are_normal_and_a_test_has_all_classes():
    data, whole = _digits(normal=[3, 5]), DigitsDataModule()
    for part in ("train", "val"):
        all_of_them = whole.dataset(part)
        mine = (all_of_them.target == 3) | (all_of_them.target == 5)
        assert torch.equal(data.dataset(part).image, all_of_them.image[mine])
        assert not data.dataset(part).target.any()
    test = whole.dataset("test")
    assert torch.equal(data.dataset("test").image, test.image)
    assert data.dataset("test").target.tolist() == [int(label not in (3, 5)) for label in test.target.tolist()]
    assert (data.num_classes, data.input_shape) == (2, (1, 10, 10))


class _Foreign:
    """A map-style data set that tells nothing about itself."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, target, _ = self.dataset[index]
        return {"picture": image.double().numpy(), "kind": int(target)}


def test_data_that_is_not_in_memory_gives_the_same_samples():
    whole = DigitsDataModule()
    parts = {part: whole.dataset(part) for part in ("train", "val", "test")}
    foreign = PairedDataModule(**{part: _Foreign(data) for part, data in parts.items()}, keys=["picture", "kind"])
    data = OneClassDataModule(foreign, Rotated(), normal=3)
    data.setup("fit")
    mine = next(iter(data.val_dataloader()))
    theirs = next(iter(_digits().val_dataloader()))
    assert torch.equal(mine.image.float(), theirs.image)
    assert torch.equal(mine.target, theirs.target)
    tested = next(iter(data.test_dataloader()))
    assert torch.equal(tested.target, (parts["test"].target[: len(tested.target)] != 3).long())


class _Marked(VisionDataset):
    """Images whose pixels are the raw targets, told as torchvision's data sets do."""

    def __init__(self, size, **transforms):
        super().__init__(**transforms)
        self.targets = [k % 5 for k in range(size)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image, target = torch.full((1, 2, 2), self.targets[index] / 8), self.targets[index]
        return (image, target) if self.transforms is None else self.transforms(image, target)


@pytest.mark.parametrize(
    ("transforms", "raw"),
    [
        ({}, 3),
        ({"transform": lambda image: image}, 3),
        ({"target_transform": lambda target: 4 - target}, 1),
        ({"transforms": lambda image, target: (image, 4 - target)}, 1),
    ],
)
def test_normal_classes_are_those_after_the_transforms_of_targets(transforms, raw):
    sets = {part: _Marked(50, **transforms) for part in ("train", "test")}
    source = PairedDataModule(**sets, num_classes=5, val_size=25)
    data = OneClassDataModule(source, Rotated(), normal=3)
    parts = {part: data.dataset(part) for part in ("train", "val", "test")}
    assert len(parts["train"]) + len(parts["val"]) == 10
    for dataset in parts.values():
        for image, target in (dataset[k] for k in range(len(dataset))):
            assert bool(target) is (float(image.max()) != raw / 8)


@pytest.mark.parametrize("cache", [False, True])
def test_a_folder_may_have_anomalies_in_the_test_alone(tmp_path, cache):
    for part, count, kinds in (("train", 10, {"good": 200}), ("test", 2, {"bent": 10, "good": 200, "loose": 50})):
        for kind, grey in kinds.items():
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), grey + number).save(folder / f"{number}.png")
    options = {"grey": True, "val_size": 4, "cache": cache}
    with pytest.raises(DataError, match="bent, loose not in train"):
        ImageFolderDataModule(str(tmp_path), 8, **options).dataset("test")
    whole = ImageFolderDataModule(str(tmp_path), 8, new_classes=True, **options)
    tested = whole.dataset("test")
    assert [int(tested[i][1]) for i in range(6)] == [1, 1, 0, 0, 2, 2]
    data = OneClassDataModule(whole, Rotated())
    train, val = data.dataset("train"), data.dataset("val")
    assert len(train) + len(val) == 10
    for image, target, *_ in [*(train[i] for i in range(len(train))), *(val[i] for i in range(len(val)))]:
        assert 200 <= int(image.max()) < 210
        assert int(target) == 0
    test = data.dataset("test")
    assert [int(test[i][1]) for i in range(6)] == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneClassDataModule(DigitsDataModule(batch_size=7), Rotated()), "batch_size=7 has no effect"),
        (lambda: OneClassDataModule(DigitsDataModule(negatives=Rotated()), Rotated()), "negatives has no effect"),
        (lambda: OneClassDataModule(PairedDataModule(L.LightningDataModule()), Rotated()), "give data sets"),
        (lambda: _digits(negatives=WrongLabels()), "WrongLabels gives other labels"),
        (lambda: _digits(normal=[]), "give the number of a class"),
        (lambda: OneClassDataModule(L.LightningDataModule(), Rotated()), "give data sets"),
        (lambda: OneClassDataModule(TableDataModule("sklearn:wine"), Rotated()), "preprocessing on all training rows"),
        (lambda: OneClassDataModule(DigitsDataModule(test_corruption=Fog()), Rotated()), "test_corruption.* no effect"),
        (lambda: BackpropModule(torch.nn.Flatten(), negatives=True, input_shape=SHAPE, num_classes=3), "two classes"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_class_without_training_samples_is_refused():
    with pytest.raises(DataError, match="no sample has the class 12"):
        _digits(normal=12).dataset("train")


def test_test_data_may_be_corrupted_and_predictions_are_read_as_tests_are():
    module = _network()
    clean, foggy = _digits(normal=torch.tensor(3).numpy()[()]), _digits(test_corruption=Fog())
    found = [torch.cat(_trainer().predict(module, data)) for data in (clean, foggy)]
    assert found[0].shape == found[1].shape
    assert not torch.equal(*found)
    source, ones = clean.dataset("test"), torch.zeros(20)
    listed = [{"picture": 255 * image, "kind": int(kind)} for image, kind in zip(source.image[:20], ones, strict=True)]
    options = {"keys": ["picture", "kind"], "pixel_range": [0, 255]}
    data = OneClassDataModule(PairedDataModule(train=listed, test=listed, val_size=0.2, **options), Rotated())
    torch.testing.assert_close(torch.cat(_trainer().predict(module, data)), found[0][:20])


# -------------------------------------------------------------------- scores


def test_the_anomaly_score_is_minus_the_log_odds_of_positive_data():
    module, image = _network(), torch.rand(7, *SHAPE)
    with torch.no_grad():
        score, probability = module.anomaly_score(image), module.positive_probability(image)
        rows = module.predictions(image)
    torch.testing.assert_close(torch.sigmoid(-score), probability)
    torch.testing.assert_close(rows, torch.cat([score.unsqueeze(1), module.goodness(image).T], 1))
    torch.testing.assert_close(score, 3 - rows[:, 1:].sum(1))  # two thresholds of 1.5


def test_other_losses_votes_and_networks_with_labels_have_anomaly_scores_too():
    image = torch.rand(5, *SHAPE)
    with torch.no_grad():
        module = _network(loss=SymBaLoss(), vote=[1], vote_weights=[2.0])
        torch.testing.assert_close(module.anomaly_score(image), -2 * module.goodness(image)[1])
        labelled = IntFFModule([DenseUnit([9])], input_shape=SHAPE, num_classes=4).eval()
        torch.testing.assert_close(labelled.anomaly_score(image), 1.5 - labelled(image).amax(1))
        classes = BackpropModule(torch.nn.Flatten(), input_shape=SHAPE, num_classes=4)
        torch.testing.assert_close(classes.anomaly_score(image), -classes(image).softmax(1).amax(1))


def _shifted(image, down, right):
    """Shift images pixel by pixel; zeros enter."""
    moved = torch.zeros_like(image)
    for row in range(10):
        for column in range(10):
            if 0 <= row - down < 10 and 0 <= column - right < 10:
                moved[:, :, row, column] = image[:, :, row - down, column - right]
    return moved


@pytest.mark.parametrize("kind", ["no labels", "labels", "backpropagation"])
def test_anomaly_scores_are_averaged_over_shifts(kind):
    options = {"input_shape": SHAPE, "num_classes": 2}
    image = torch.rand(6, *SHAPE)

    def made(views):
        torch.manual_seed(0)
        if kind == "backpropagation":
            return BackpropModule(torch.nn.Flatten(), negatives=True, views=views, **options)
        return IntFFModule([DenseUnit([9])], NoLabel() if kind == "no labels" else None, views=views, **options)

    plain, moves = made(None).eval(), made(ShiftsAndFlips(1)).eval()
    views = [_shifted(image, down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    with torch.no_grad():
        read = plain.label_goodness if kind == "labels" else plain.anomaly_score
        mean = torch.stack([read(view) for view in views]).mean(0)
        expected = 1.5 - mean.sum(0).amax(1) if kind == "labels" else mean
        torch.testing.assert_close(moves.anomaly_score(image), expected)
        assert not torch.allclose(plain.anomaly_score(image), expected, atol=1e-4)
        if kind != "labels":
            torch.testing.assert_close(moves.predictions(image)[:, 0], expected)


def test_backpropagation_of_negatives_weighs_positives_and_negatives_equally():
    chain = UnitChain([DenseUnit([12]), DenseUnit([12])])
    module = BackpropModule(chain, negatives=True, input_shape=SHAPE, num_classes=2)
    image, negative = torch.rand(4, *SHAPE), torch.rand(4, 3, *SHAPE)
    batch = PairedBatch(image, torch.zeros(4, dtype=torch.int64), negative, None)
    loss, _, scores = module._outputs(batch)
    odds, odds_of_negatives = -module.anomaly_score(image), -module.anomaly_score(negative.flatten(0, 1))
    torch.testing.assert_close(loss, softplus_loss(odds, odds_of_negatives.view(4, 3), threshold=0.0))
    torch.testing.assert_close(scores[:, 0] - scores[:, 1], odds)
    torch.testing.assert_close(module.predictions(image), -odds.unsqueeze(1))
    with pytest.raises(ConfigurationError, match="needs negative images"):
        module._outputs(batch._replace(negative_image=None))


class _Brightness(L.LightningModule):
    """Dark images are anomalous; a module of somebody else."""

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = wrong

    def anomaly_score(self, image):
        return -image.flatten(1).mean(1) + self.wrong

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step


def test_a_validation_is_against_negatives_and_a_test_against_other_classes():
    data, trainer = _digits(negatives=HybridImages(2), batch_size=50), _trainer(callbacks=[AnomalyScore()])
    (found,) = trainer.validate(_Brightness(), data, verbose=False)
    val = data.dataset("val").image
    # the batch is the whole set: 18 images
    negative = HybridImages(2).images(val, torch.zeros(len(val)), Draws(0, 0, ~torch.arange(len(val)))).flatten(0, 1)
    score = -torch.cat([val, negative]).flatten(1).mean(1)
    expected = _reference(score, torch.arange(len(score)) >= len(val))
    assert {name: found[f"val/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    (found,) = trainer.test(_Brightness(), data, verbose=False)
    test = data.dataset("test")
    expected = _reference(-test.image.flatten(1).mean(1), test.target)
    assert {name: found[f"test/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_each_unit_has_an_auroc_of_its_own():
    data, module = _digits(), _network()
    (found,) = _trainer(callbacks=[AnomalyScore()]).test(module, data, verbose=False)
    test = data.dataset("test")
    with torch.no_grad():
        goodness = module.goodness(float_pixels(test.image))
    for k in range(2):
        assert found[f"test/auroc/unit_{k}"] == pytest.approx(roc_auc_score(test.target, -goodness[k]), abs=1e-5)
    assert found["test/auroc"] == pytest.approx(roc_auc_score(test.target, -goodness.sum(0)), abs=1e-5)


def test_what_cannot_be_scored_is_said():
    with pytest.raises(DivergenceError, match="not finite"):
        _trainer(callbacks=[AnomalyScore()]).test(_Brightness(torch.nan), _digits(), verbose=False)
    same = PairedDataModule(val=DigitsDataModule().dataset("val"))
    with pytest.raises(ConfigurationError, match="negative images, and there are none"):
        _trainer(callbacks=[AnomalyScore()]).validate(_Brightness(), same, verbose=False)
    image = torch.rand(4, *SHAPE)
    normal = PairedDataModule(test=TensorDataset(image, torch.zeros(4, dtype=torch.int64)), num_classes=2)
    with pytest.warns(UserWarning, match="has normal data alone"):
        assert _trainer(callbacks=[AnomalyScore()]).test(_Brightness(), normal, verbose=False) == [{}]

    class NoScore(_Brightness):
        anomaly_score = None

    with pytest.raises(ConfigurationError, match="asks NoScore for anomaly_score"):
        _trainer(callbacks=[AnomalyScore()]).test(NoScore(), _digits(), verbose=False)


# -------------------------------------------------------------------- the command line

DATA = """
data:
  class_path: OneClassDataModule
  init_args:
    data: {class_path: DigitsDataModule, init_args: {val_seed: 1}}
    normal: 3
    negatives:
      class_path: OneOf
      init_args:
        sources:
          - class_path: Warped
          - class_path: Chained
            init_args: {steps: [{class_path: Erased}, {class_path: Rotated}]}
"""
MODELS = {
    "intff": """
  class_path: IntFFModule
  init_args:
    encoder: {class_path: NoLabel}
    units: [{class_path: DenseUnit, init_args: {widths: [20]}}, {class_path: DenseUnit, init_args: {widths: [20]}}]
""",
    "bp": """
  class_path: BackpropModule
  init_args: {negatives: true, body: {class_path: DenseUnit, init_args: {widths: [20]}}}
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MODELS))
def test_the_command_line_selects_on_negatives_tests_and_writes_scores(kind, capsys, blank_figures):
    Path("mine.yaml").write_text(f"trainer: {{max_epochs: 2, accelerator: cpu}}\nmodel:{MODELS[kind]}{DATA}")
    assert main(["fit", "--config", "mine.yaml"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "val/auroc" in printed
    assert "AUPR" in printed
    best = Path("lightning_logs/version_0/checkpoints/best.ckpt")
    state = torch.load(best, weights_only=True)["callbacks"]
    assert [callback["monitor"] for name, callback in state.items() if "BestCheckpoint" in name] == ["val/auroc"]
    assert main(["predict", "--ckpt_path", str(best), "--trainer.accelerator", "cpu"]) == 0, capsys.readouterr().err
    (path,) = Path("lightning_logs").rglob("predictions.csv")
    with path.open() as file:
        lines = list(csv.DictReader(file))
    module = (IntFFModule if kind == "intff" else BackpropModule).load_from_checkpoint(best).eval()
    data = OneClassDataModule(DigitsDataModule(val_seed=1), Rotated(), normal=3)
    with torch.no_grad():
        score = module.cpu().anomaly_score(data.dataset("test").image)
    assert [float(line["anomaly_score"]) for line in lines] == pytest.approx(score.tolist(), abs=1e-4)
    units = ["goodness_unit_0", "goodness_unit_1"] if kind == "intff" else []
    assert list(lines[0]) == ["index", "anomaly_score", *units]
    Path("pictures").mkdir()
    Image.linear_gradient("L").save("pictures/grey.png")
    command = ["predict", "--ckpt_path", str(best), "--images", "pictures", "--trainer.accelerator", "cpu"]
    assert main(command) == 0, capsys.readouterr().err
    (path,) = set(Path("lightning_logs").rglob("predictions.csv")) - {path}
    head, line = path.read_text().splitlines()
    assert head == ",".join(["file", "anomaly_score", *units])
    assert "grey.png," in line


@pytest.mark.slow
def test_a_linear_probe_of_one_class_is_refused(capsys):
    Path("mine.yaml").write_text(f"trainer: {{max_epochs: 1, accelerator: cpu}}\nmodel:{MODELS['intff']}{DATA}")
    assert main(["fit", "--config", "mine.yaml", "--probe.epochs", "3"]) == 1
    assert "its training data has one class" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_anomaly", "fashion_mnist_anomaly"])
def test_the_configs_are_the_networks_of_the_table(name, capsys):
    """The command line builds the network and the negatives of ``reproduce.tasks.anomaly``."""
    assert main(["fit", "--config", name, "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_epochs"] == anomaly.EPOCHS
    for mine, theirs in (
        (shown["model"], anomaly.make_network("intff", _chosen(name))),
        (shown["data"]["init_args"]["negatives"], anomaly.negatives()),
    ):
        assert _contains(mine, to_recipe(theirs))


def _chosen(name):
    """The settings that were chosen for the data of a config when the table was made."""
    dataset = "MNIST" if name == "mnist_anomaly" else "Fashion-MNIST"
    table = json.loads((ROOT / "results/tasks/anomaly.json").read_text())
    return {
        row["measure"]: row["mean"]
        for row in table
        if (row["what"], row["algorithm"]) == (dataset, "intff") and row["measure"] in anomaly.TRIED[0]
    }


def _contains(whole, part):
    """Whether a config with all defaults holds a recipe with those arguments that were given."""
    if isinstance(part, dict):
        same_class = part.get("class_path", "").split(".")[-1] == whole.get("class_path", "").split(".")[-1]
        rest = {key: value for key, value in part.items() if key != "class_path" and value != {}}
        return same_class and all(_contains(whole[key], value) for key, value in rest.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_contains, whole, part))
    return whole == part


# -------------------------------------------------------------------- reproduce


@pytest.mark.slow
def test_a_case_measures_every_method(tiny_mnist, monkeypatch):
    monkeypatch.setattr(anomaly, "QUICK_IMAGES", 400)
    monkeypatch.setattr(anomaly.MNISTDataModule, "held_out", lambda self, size: 60)
    rows = anomaly.TASK.cases["mnist_class7"](0, str(tiny_mnist), True)
    names = [f"{name} on MNIST{end}" for name in ("AUROC", "AUPR", "FPR-95") for end in ("", ", other classes")]
    assert [(row["algorithm"], row["measure"]) for row in rows] == [
        (method, name) for method in ("intff", "bp", "nearest neighbours") for name in names
    ]
    assert all(0 <= row["value"] <= 1 for row in rows)
    assert [row["value"] for row in rows[::2]] == [row["value"] for row in rows[1::2]]
    assert len(anomaly.TASK.cases["mnist_class8"](0, str(tiny_mnist), True)) == 9  # the settings were chosen on it
    chosen = anomaly.TASK.cases["mnist_class0"](0, str(tiny_mnist), True)[: 2 * len(anomaly.TRIED[0])]
    for algorithm in ("intff", "bp"):
        setting = {row["measure"]: row["value"] for row in chosen if row["algorithm"] == algorithm}
        assert setting == anomaly.best_setting(algorithm, "MNIST", str(tiny_mnist), True)


def test_each_algorithm_takes_its_best_setting(tiny_mnist, monkeypatch):
    """A plain loop over the same trials; the scores of a setting are told apart by its learning rate."""
    monkeypatch.setattr(anomaly.MNISTDataModule, "held_out", lambda self, size: 60)
    quality = {5e-4: 0.2, 1e-3: 0.9, 2e-3: 0.1}
    monkeypatch.setattr(anomaly, "trained", lambda algorithm, setting, *rest: setting)
    monkeypatch.setattr(anomaly, "network_scores", lambda setting, image: quality[setting["learning rate"]])
    monkeypatch.setattr(anomaly, "detection_metrics", lambda score, anomalous: {"auroc": score})
    anomaly.best_setting.cache_clear()
    assert anomaly.best_setting("bp", "MNIST", str(tiny_mnist), False) == {"learning rate": 1e-3, "weight decay": 0.01}
    anomaly.best_setting.cache_clear()


def test_neighbours_are_those_of_a_plain_loop():
    normal, image = torch.rand(30, 1, 4, 4).double(), torch.rand(5, 1, 4, 4).double()
    found = anomaly.neighbour_scores(normal, image)
    centred = normal.flatten(1) - normal.flatten(1).mean(0)
    _, s, axes = torch.linalg.svd(centred, full_matrices=False)
    share = (s**2).cumsum(0) / (s**2).sum()
    axes = axes[: int((share < 0.95).sum()) + 1]
    expected = [min(float((axes @ (x - n)).norm()) for n in normal.flatten(1)) for x in image.flatten(1)]
    assert found.tolist() == pytest.approx(expected)


class _Trained:
    dataset, seed = "mnist", 0

    def __init__(self, module, test):
        self.module, self.test = module, test


def test_out_of_distribution_scores_and_measures(tiny_mnist):
    torch.manual_seed(3)
    image, target = torch.rand(60, 1, 28, 28), torch.zeros(60, dtype=torch.int64)
    module = IntFFModule([DenseUnit([30]), DenseUnit([30])], input_shape=[1, 28, 28], num_classes=10).eval()
    trained = _Trained(module, InMemoryDataset(image, target))
    rows = out_of_distribution.measure(trained, str(tiny_mnist), quick=True)
    kinds, names = out_of_distribution.foreign_images(image, "mnist", 0, str(tiny_mnist)), out_of_distribution.scores
    assert list(kinds) == ["Fashion-MNIST", "uniform noise", "blank", "rotated"]
    assert len({tuple(blank.unique().tolist()) for blank in kinds["blank"]}) > 50
    assert len(rows) == 4 * 4 * 3
    with torch.no_grad():
        logits, inside = module(image).double(), names(module, image)
        outside = names(module, kinds["blank"])
    torch.testing.assert_close(inside["energy"], logits.exp().sum(1).log())
    torch.testing.assert_close(inside["maximum softmax"], (logits.exp() / logits.exp().sum(1, keepdim=True)).amax(1))
    torch.testing.assert_close(inside["p(positive)"], logits.amax(1) - 3)
    reference = _reference(-torch.cat([inside["energy"], outside["energy"]]), torch.arange(120) >= 60)
    mine = {row["measure"]: (row["value"], row["better"]) for row in rows if row["what"] == "blank, energy"}
    assert mine["AUROC"] == (pytest.approx(reference["auroc"], abs=1e-6), "higher")
    assert mine["AUPR"] == (pytest.approx(reference["aupr"], abs=1e-6), "higher")
    assert mine["FPR-95"] == (pytest.approx(reference["fpr95"], abs=1e-6), "lower")
    classes = BackpropModule(torch.nn.Flatten(), input_shape=[1, 28, 28], num_classes=10)
    assert list(names(classes, image)) == [out_of_distribution.GOODNESS, "maximum softmax", "energy"]
