"""Trained networks as ONNX, torch.export and traced programs, and the tables and graphs that an example input gives."""

import io

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_summary import summarize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule, LabelPlanes
from intff_lightning.errors import DataError
from intff_lightning.local import ChannelGoodness

NETWORKS = {
    "dense": lambda: IntFFModule([DenseUnit([12, 8]), DenseUnit([6])]),
    "convolution": lambda: IntFFModule([ConvUnit([4], norm="batch"), DenseUnit([6])], encoder=LabelPlanes()),
    "by class": lambda: IntFFModule([ConvUnit([10]), DenseUnit([10])], goodness=ChannelGoodness()),
    "backpropagation": lambda: BackpropModule(DenseUnit([6])),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning", "ignore:.*log_graph.*"
)


@pytest.fixture
def fitted(digits, trainer):
    def fit(name, **options):
        module = NETWORKS[name]()
        module.example_input_array = torch.rand(2, 1, 10, 10)
        trainer(limit_train_batches=2, limit_val_batches=1, **options).fit(module, digits())
        return module.eval()

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolution", "backpropagation"])
def test_a_program_computes_what_the_fitted_module_computes(name, fitted):
    module = fitted(name)
    image = torch.rand(7, 1, 10, 10)
    with torch.no_grad():
        scores = module(image)
    batch = torch.export.Dim("batch", min=1, max=1000)
    program = torch.export.export(module, (image[:2],), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(image), scores)
    torch.testing.assert_close(torch.jit.trace(module, image)(image), scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "by class"])
def test_to_onnx_after_fit(name, fitted):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = fitted(name)
    image = torch.rand(7, 1, 10, 10)
    batch = torch.export.Dim("batch", min=1, max=1000)
    options = {"dynamo": True, "dynamic_shapes": ({0: batch},), "input_names": ["image"], "verbose": False}
    module.to_onnx("scores.onnx", **options)  # by its example_input_array
    (scores,) = onnxruntime.InferenceSession("scores.onnx").run(None, {"image": image.numpy()})
    np.testing.assert_allclose(scores, module(image).detach(), rtol=1e-3, atol=1e-5)
    older = io.BytesIO()  # by torch's exporter that traces
    module.to_onnx(older, image, dynamo=False, input_names=["image"])
    (scores,) = onnxruntime.InferenceSession(older.getvalue()).run(None, {"image": image.numpy()})
    np.testing.assert_allclose(scores, module(image).detach(), rtol=1e-3, atol=1e-5)


class _Example(IntFFModule):
    example_input_array = torch.rand(3, 1, 10, 10)


class _InConstructor(IntFFModule):
    def __init__(self, **options):
        super().__init__(**options)
        self.example_input_array = torch.rand(3, 1, 10, 10)


@pytest.mark.parametrize("kind", [_Example, _InConstructor])
def test_the_summary_shows_the_sizes_of_an_example_input(kind, digits, trainer, capsys):
    module = kind(units=[DenseUnit([12, 8]), DenseUnit([6])])
    run = trainer(max_steps=1, limit_val_batches=0, callbacks=[ModelSummary()], enable_model_summary=True)
    run.fit(module, digits())  # the summary is made before training
    table = summarize(module, max_depth=2)
    sizes = dict(zip(table.layer_names, zip(table.in_sizes, table.out_sizes, strict=True), strict=True))
    assert sizes["units"] == ([30, 1, 10, 10], [2, 30])  # three images under ten labels
    assert sizes["units.0"] == ([30, 1, 10, 10], [30, 8])
    assert sizes["units.1"] == ([30, 8], [30, 6])


def test_a_batch_that_is_only_a_tensor_is_still_refused(trainer):
    images = torch.utils.data.DataLoader(torch.rand(4, 1, 10, 10), batch_size=2)
    module = _Example(units=[DenseUnit([4])], input_shape=[1, 10, 10], num_classes=10)
    with pytest.raises(DataError):
        trainer().fit(module, images)


@pytest.mark.parametrize("name", ["dense", "by class", "backpropagation"])
def test_tensorboard_draws_the_graph(name, fitted):
    logger = TensorBoardLogger("logs", log_graph=True)
    fitted(name, logger=logger)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir, {"graph": 1}).Reload()
    assert any("units" in node.name or "body" in node.name for node in events.Graph().node)
