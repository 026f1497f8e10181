"""What is drawn is what was measured, and can be read: by anyone, at any number of units."""

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, TrainingFigures
from intff_lightning.callbacks.figures import first_layer_fields
from intff_lightning.errors import ConfigurationError
from intff_lightning.labels import LabelPlanes, LabelToken, NoLabel
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy
from intff_lightning.negatives import HybridImages
from intff_lightning.reporting import plots

EVALUATION = ["accuracy_by_unit", "confusion_matrix", "goodness_histograms", "input_pairs", "receptive_fields",
              "wrong_predictions"]  # fmt: skip


def _history(units):
    history = {"val/accuracy": [(e, 1 - 0.4 / e) for e in range(1, 31)]}
    for k in range(units):
        history[f"train/loss/unit_{k}"] = [(e, 0.7 / e + 0.01 * k) for e in range(1, 31)]
        history[f"goodness/positive/unit_{k}"] = [(e, 1.5 + 0.1 * e / (k + 1)) for e in range(1, 31)]
        history[f"goodness/negative/unit_{k}"] = [(e, 1.5 - 0.04 * e / (k + 1)) for e in range(1, 31)]
        history[f"val/accuracy/unit_{k}"] = [(e, 1 - 0.5 / (e + k)) for e in range(1, 31)]
    return history


def _figures(units):
    """Every figure of a network of so many units."""
    positive = torch.rand(units, 300) * 2 + 1
    negative = torch.rand(units, 900) * 2
    yield from plots.training_curves(_history(units)).items()
    yield "histograms", plots.goodness_histograms("Goodness of test data", positive, negative, [1.5] * units)
    alone = [97.94 + k / 50 for k in range(units)]
    yield "accuracy_by_unit", plots.accuracy_by_unit("Test accuracy 98.97 %", alone, 98.97, [0])
    yield "confusion", plots.confusion_matrix("Test accuracy 98.97 %", torch.randint(0, 1000, (10, 10)))
    image, target = torch.rand(24, 1, 28, 28), torch.randint(0, 10, (24,))
    yield "wrong", plots.wrong_predictions("24 of 103 test images", image, target, torch.randn(24, 10))
    for few in (1, 3):
        yield "wrong", plots.wrong_predictions("1 of 4 test images with a wrong label ahead, the surest ones",
                                               image[:few], target[:few], torch.randn(few, 10))  # fmt: skip
        yield "sheet", plots.contact_sheet(["digit.png"] * few, image[:few], torch.rand(few, 10))
    yield "pairs", plots.input_pairs("What the network is shown", {"image": image, "positive": image}, 1)
    yield "fields", plots.receptive_fields("First layer: weights of 3 of 3 neurons, the largest ones", image[:3])


@pytest.mark.slow
@pytest.mark.parametrize("units", [2, 5, 20])
def test_no_text_overlaps_another_or_leaves_the_figure(units):
    for name, figure in _figures(units):
        figure.savefig(Path("figure.png"), dpi=100)  # lays it out
        boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
        assert boxes
        width, height = figure.get_size_inches() * figure.dpi
        for text, box in boxes:
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, (name, text)
        for (one, a), (other, b) in combinations(boxes, 2):
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, (name, one, other)


def _texts(figure):
    """Every text that can be seen: ticks beyond the limits have labels that are not drawn."""
    hidden = []
    for axes in figure.axes:
        hidden += [axes.xaxis.label, axes.yaxis.label] if not axes.axison else []
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not axes.axison or not min(limits) <= tick.get_loc() <= max(limits):
                    hidden += [tick.label1, tick.label2]
    unseen = {id(text) for text in hidden}
    return [t for t in figure.findobj(Text) if id(t) not in unseen and t.get_visible() and t.get_text().strip()]


def test_curves_hold_the_values_and_are_told_apart_in_grey():
    figures = plots.training_curves(_history(4))
    assert sorted(figures) == ["accuracy", "goodness", "local_loss"]
    lines = figures["local_loss"].axes[0].get_lines()
    assert [line.get_label() for line in lines] == [f"unit {k}" for k in range(4)]
    for k, line in enumerate(lines):
        assert line.get_ydata().tolist() == pytest.approx([0.7 / e + 0.01 * k for e in range(1, 31)])
    assert len({line.get_linestyle() for line in lines}) == 4
    shades = [sum(w * c for w, c in zip((0.3, 0.59, 0.11), to_rgb(line.get_color()), strict=True)) for line in lines]
    assert all(b - a > 0.1 for a, b in pairwise(shades))  # each brighter than the one before
    vote = figures["accuracy"].axes[0].get_lines()[-1]
    assert vote.get_label() == "vote"
    assert vote.get_ydata()[-1] == pytest.approx(100 * (1 - 0.4 / 30))


def test_histograms_count_every_sample_and_show_the_threshold():
    positive, negative = torch.tensor([[0.5, 2.5, 3.5, 3.5]]), torch.tensor([[0.1, 0.2]])
    axes = plots.goodness_histograms("", positive, negative, [1.5]).axes[0]
    for patch, count in zip(axes.patches, (2, 4), strict=True):
        outline = patch.get_xy()
        heights = torch.tensor(outline[1:-1:2, 1])  # of each bin's left corner
        share = heights[: len(heights)].unique()
        assert float(share.max()) <= 100
        assert patch.get_hatch() == ("////" if count == 2 else "")
    assert [line.get_xdata()[0] for line in axes.get_lines()] == [1.5]
    assert axes.get_xlim()[1] > 3.4
    without = plots.goodness_histograms("", positive, negative, [None]).axes[0]
    assert not without.get_lines()


def test_units_that_do_not_vote_are_hatched():
    assert plots.accuracy_by_unit("", [0.0, 0.0], 0.0).axes[0].get_ylim() == (0.0, 1.08)
    axes = plots.accuracy_by_unit("", [90.0, 95.0, 96.5], 97.25, [1, 2]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [90.0, 95.0, 96.5, 97.25]
    assert [bar.get_hatch() for bar in axes.patches] == ["//", None, None, None]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "vote"]


def _run(module, data, trainer, **options):
    figures = TrainingFigures(**options)
    run = trainer(
        max_epochs=2, logger=[CSVLogger("."), TensorBoardLogger(".", version=0)],
        callbacks=[GoodnessLogger(), GoodnessAccuracy(), figures],
    )  # fmt: skip
    run.fit(module, data)
    run.test(module, data, verbose=False)
    drawn = sorted(path.name for path in (Path(run.log_dir) / "figures").iterdir())
    return run, drawn


@pytest.mark.slow
def test_a_run_draws_into_its_folder_and_tensorboard(digits, trainer):
    module = IntFFModule([DenseUnit([20]), DenseUnit([10])])
    run, drawn = _run(module, digits(), trainer)
    names = sorted([*EVALUATION, "accuracy", "goodness", "local_loss"])
    assert drawn == [f"{name}.png" for name in names]
    events = EventAccumulator(run.loggers[1].log_dir, size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == [f"figures/{name}" for name in names]
    assert events.Images("figures/local_loss")[-1].step == run.global_step
    for name in drawn:
        picture = imread(Path(run.log_dir) / "figures" / name)
        assert picture[..., :3].std() > 0.02  # something is on it


@pytest.mark.slow
def test_wrong_predictions_are_the_surest_mistakes(digits, trainer, blank_figures, monkeypatch):
    seen = {}

    def keep(title, image, target, scores, what):
        seen.update(title=title, image=image, target=target, scores=scores, what=what)
        return original(title, image, target, scores, what)

    original = plots.wrong_predictions
    monkeypatch.setattr(plots, "wrong_predictions", keep)
    module, data = IntFFModule([DenseUnit([20])]), digits()
    _run(module, data, trainer)
    test = data.dataset("test")
    with torch.no_grad():
        scores = module(test.image)
    margin = scores.amax(1) - scores.gather(1, test.target[:, None]).squeeze(1)
    surest = margin.argsort(descending=True)[:24]
    assert sorted(seen["target"].tolist()) == sorted(test.target[surest].tolist())
    assert torch.allclose(seen["scores"][0], scores[surest[0]])
    assert torch.equal(seen["image"][0], test.image[surest[0]])
    assert f"24 of {int((margin > 0).sum())} test images" in seen["title"]


def test_only_epochs_with_a_validation_have_its_metrics(digits, trainer):
    figures = TrainingFigures()
    run = trainer(max_epochs=5, check_val_every_n_epoch=2, callbacks=[GoodnessAccuracy(), figures])
    run.fit(IntFFModule([DenseUnit([9])]), digits())
    assert [epoch for epoch, _ in figures.history["val/accuracy"]] == [2, 4]
    assert [epoch for epoch, _ in figures.history["train/loss"]] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_figures_during_training_in_another_format_and_folder(digits, trainer):
    figures = TrainingFigures(every_n_epochs=2, format="svg", folder="here")
    run = trainer(max_epochs=2, callbacks=[GoodnessLogger(), GoodnessAccuracy(), figures])
    run.fit(IntFFModule([DenseUnit([9])]), digits())
    assert sorted(path.stem for path in Path("here").glob("*.svg")) == sorted(
        [*EVALUATION, "accuracy", "goodness", "local_loss"]
    )
    with pytest.raises(ConfigurationError, match="1 or more"):
        TrainingFigures(every_n_epochs=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "missing"),
    [
        (lambda: IntFFModule([DenseUnit([20])], encoder=LabelPlanes()), set()),
        (lambda: IntFFModule([DenseUnit([20])], encoder=LabelToken(patch=5)), {"receptive_fields"}),
        (
            lambda: IntFFModule([ConvUnit([10], goodness=ChannelGoodness(), loss=LabelCrossEntropy())]),
            {"input_pairs"},
        ),
        (
            lambda: IntFFModule([DenseUnit([20])], encoder=NoLabel()),
            {"accuracy_by_unit", "confusion_matrix", "wrong_predictions"},
        ),
        (
            lambda: BackpropModule(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 9), torch.nn.ReLU())),
            {"accuracy_by_unit", "goodness_histograms", "input_pairs"},
        ),
    ],
    ids=["planes", "token", "by class", "unsupervised", "backprop"],
)
def test_every_kind_of_network_is_drawn_without_what_it_lacks(make, missing, digits, trainer, blank_figures):
    module = make()
    options = {"negatives": HybridImages()} if getattr(module, "unsupervised", False) else {}
    _, drawn = _run(module, digits(**options), trainer)
    assert {name for name in EVALUATION if f"{name}.png" not in drawn} - missing <= {"wrong_predictions", "input_pairs"}
    assert missing & {Path(name).stem for name in drawn} == set()


def test_receptive_fields_are_the_pixels_weights(digits, trainer):
    module = IntFFModule([DenseUnit([20])], encoder=LabelPlanes(), input_shape=[1, 10, 10], num_classes=10)
    fields = first_layer_fields(module)
    weight = next(p for p in module.parameters() if p.ndim == 2)
    assert fields.shape == (20, 1, 10, 10)
    assert torch.equal(fields[3].flatten(), weight[3, :100])
    conv = IntFFModule([ConvUnit([6])], input_shape=[3, 8, 8], num_classes=4)
    assert first_layer_fields(conv).shape == (6, 3, 3, 3)
    picture = plots.receptive_fields("", torch.tensor([[[[0.0, 2.0], [-2.0, 1.0]]]])).axes[0].get_images()[0]
    assert picture.get_array().squeeze().tolist() == [[0.5, 1.0], [0.0, 0.75]]
