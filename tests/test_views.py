"""Views against the images made by hand, and networks that average over them."""

import lightning as L
import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.cli import main
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import ChannelGoodness
from intff_lightning.negatives import HardLabels
from intff_lightning.recipe import to_recipe
from intff_lightning.views import ShiftsAndFlips, Views

SHAPE, CLASSES = (2, 6, 5), 3


def _by_hand(image, pixels, step, flip):
    """The views in any order, by NumPy's indices."""
    size, channels, height, width = image.shape
    padded = np.zeros((size, channels, height + 2 * pixels, width + 2 * pixels), dtype=np.float32)
    padded[:, :, pixels : pixels + height, pixels : pixels + width] = image.numpy()
    views = []
    for down in range(-pixels, pixels + 1, step):
        for right in range(-pixels, pixels + 1, step):
            view = padded[:, :, pixels - down : pixels - down + height, pixels - right : pixels - right + width]
            views += [view, view[:, :, :, ::-1]] if flip else [view]
    return [torch.from_numpy(view.copy()) for view in views]


@pytest.mark.parametrize(
    ("pixels", "step", "flip", "count"), [(1, 1, False, 9), (4, 2, False, 25), (2, 2, True, 18), (0, 1, True, 2)]
)
def test_views_are_those_made_by_hand(pixels, step, flip, count):
    image = torch.rand(3, *SHAPE)
    views = list(ShiftsAndFlips(pixels, step, flip)(image))
    assert len(views) == count
    assert any(torch.equal(view, image) for view in views)
    expected = _by_hand(image, pixels, step, flip)
    key = lambda view: view.flatten().tolist()  # noqa: E731
    assert sorted(map(key, views)) == sorted(map(key, expected))


def _network(kind, views):
    torch.manual_seed(0)
    options = {"input_shape": list(SHAPE), "num_classes": CLASSES, "views": views}
    if kind == "backpropagation":
        return BackpropModule(DenseUnit([9]), **options)
    if kind == "by class":
        return IntFFModule([ConvUnit([6], norm="batch"), DenseUnit([9])], goodness=ChannelGoodness(), **options)
    return IntFFModule([DenseUnit([9]), DenseUnit([7])], vote=[1], **options)


@pytest.mark.parametrize("kind", ["labels", "by class", "backpropagation"])
def test_scores_are_averaged_in_eval_mode_alone(kind, trainer):
    plain, averaged = _network(kind, None).eval(), _network(kind, ShiftsAndFlips(1, flip=True)).eval()
    image, target = torch.rand(40, *SHAPE), torch.randint(0, CLASSES, (40,))
    with torch.no_grad():
        expected = torch.stack([plain(view) for view in _by_hand(image, 1, 1, True)]).mean(0)
        torch.testing.assert_close(averaged(image), expected)
        torch.testing.assert_close(averaged.predictions(image), expected)
        assert not torch.allclose(plain(image), expected, atol=1e-4)
        if kind == "by class":  # to export takes seconds
            exported = torch.export.export(averaged, (image,)).module()
            torch.testing.assert_close(exported(image), expected)
    (metrics,) = (
        trainer(callbacks=[GoodnessAccuracy()]).test(
            averaged, DataLoader(TensorDataset(image, target), batch_size=40), verbose=False
        )
        if kind != "labels"
        else [{"test/accuracy": float((averaged(image).argmax(1) == target).float().mean())}]
    )
    assert metrics["test/accuracy"] == pytest.approx(float((expected.argmax(1) == target).float().mean()))
    assert to_recipe(averaged)["init_args"]["views"]["init_args"] == {"pixels": 1, "flip": True}
    for module in (plain, averaged):
        module.train()
    with torch.no_grad():
        torch.testing.assert_close(averaged(image), plain(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda views: IntFFModule([DenseUnit([20])], goodness=ChannelGoodness(), views=views),
        lambda views: BackpropModule(DenseUnit([20]), views=views),
    ],
)
def test_training_stays_the_same(make, trainer, digits):
    weights, accuracies = [], []
    for views in (None, ShiftsAndFlips(1)):
        L.seed_everything(0, verbose=False)
        module, run = make(views), trainer(max_epochs=2, callbacks=[GoodnessAccuracy()])
        run.fit(module, digits())
        weights.append(module.state_dict())
        accuracies.append(float(run.callback_metrics["val/accuracy"]))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert accuracies[0] != accuracies[1]


def test_hard_negatives_are_drawn_without_views(trainer):
    image, target = torch.rand(24, 1, 4, 4), torch.arange(24) % 5
    part = InMemoryDataset(image, target)
    weights, calls = [], []

    class _Counted(ShiftsAndFlips):
        def __call__(self, image):
            calls.append(torch.is_grad_enabled())
            return super().__call__(image)

    for views in (None, _Counted(1)):
        L.seed_everything(0, verbose=False)
        module = IntFFModule([DenseUnit([9])], views=views, input_shape=[1, 4, 4], num_classes=5)
        calls.clear()
        data = PairedDataModule(train=part, val=part, num_classes=5, batch_size=8, negatives=HardLabels(), seed=1)
        trainer(max_epochs=2).fit(module, data)
        weights.append(module.state_dict())
    assert not calls
    assert module.views is views
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_scores_in_bfloat16_are_averaged_in_float32():
    image = torch.rand(30, *SHAPE)
    module = _network("backpropagation", ShiftsAndFlips(2, flip=True)).eval()
    plain = _network("backpropagation", None).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = torch.stack([plain(view).double() for view in _by_hand(image, 2, 1, True)]).mean(0)
        assert plain(image).dtype == torch.bfloat16
        torch.testing.assert_close(module(image), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_the_command_line_trains_and_tests_with_views(capsys):
    views = ["--model.views", "ShiftsAndFlips", "--model.views.pixels", "1"]
    assert main(["fit", "--config", str(ROOT / "configs/digits.yaml"), "--trainer.max_epochs", "1", *views]) == 0
    network = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("│ network ") and "%" in line
    )
    assert main(["test", "--ckpt_path", "best"]) == 0
    assert network in capsys.readouterr().out
    module = IntFFModule.load_from_checkpoint("lightning_logs/version_0/checkpoints/best.ckpt")
    assert (module.views.pixels, module.views.flip) == (1, False)


class _Cropped(Views):
    def __call__(self, image):
        yield image[:, :, 1:, 1:]


def test_views_that_cannot_be_made_are_refused():
    with pytest.raises(ConfigurationError, match="0 pixels or more are needed"):
        ShiftsAndFlips(-1)
    with pytest.raises(ConfigurationError, match="a step of 1 or more that divides them"):
        ShiftsAndFlips(3, step=2)
    with pytest.raises(ConfigurationError, match="step=2 has no effect without pixels"):
        ShiftsAndFlips(step=2, flip=True)
    with pytest.raises(ConfigurationError, match="has no effect without pixels or flip=true"):
        ShiftsAndFlips()
    for make in (
        lambda **options: IntFFModule([DenseUnit([4])], **options),
        lambda **o: BackpropModule(DenseUnit([4]), **o),
    ):
        with pytest.raises(ConfigurationError, match=r"needs images \(C, H, W\), not of shape \(12,\)"):
            make(input_shape=[12], num_classes=2, views=ShiftsAndFlips(1))
        with pytest.raises(
            ConfigurationError, match=r"_Cropped gives views of shape \(1, 4, 4\), and the network takes"
        ):
            make(input_shape=[1, 5, 5], num_classes=2, views=_Cropped())
