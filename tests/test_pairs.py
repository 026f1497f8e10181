"""The batch in which the data and the network meet: a plain named tuple, and what an encoder makes of it."""

import copy
import pickle

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import default_collate

from intff_lightning import (
    DenseUnit,
    FourierPattern,
    IntFFModule,
    LabelEmbedding,
    LabelOverlay,
    LabelPlanes,
    LabelToken,
    NoLabel,
    PairedBatch,
)
from intff_lightning.labels import LabelledImages
from intff_lightning.pairs import image_and_target

B, K, SHAPE = 6, 2, (1, 4, 6)


def _batch(images=False, labels=True):
    """Six samples of three classes; k = 2 negatives with images or labels of their own."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(B, *SHAPE, generator=generator)
    target = torch.tensor([0, 1, 2, 2, 1, 0])
    wrong = (target[:, None] + torch.tensor([1, 2])) % 3
    other = torch.rand(B, K, *SHAPE, generator=generator)
    return PairedBatch(image, target, other if images else None, wrong if labels else None)


KINDS = {
    "relabelled": _batch(),
    "images": _batch(images=True, labels=False),
    "both": _batch(images=True),
    "none": _batch(labels=False),
}
every_kind = pytest.mark.parametrize("batch", KINDS.values(), ids=KINDS)


def _same(ours, theirs):
    assert type(ours) is type(theirs) is PairedBatch
    assert all(a is b or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# -------------------------------------------------------------------- a plain named tuple


def test_its_fields_are_its_contents():
    assert PairedBatch._fields == ("image", "target", "negative_image", "negative_target")
    assert PairedBatch.__bases__ == (tuple,)
    overridden = {"__new__", "__iter__", "__getitem__", "__len__", "__eq__", "__hash__", "__reduce__"}
    # typing.NamedTuple makes a __new__ of its own, and nothing else is touched
    assert overridden & vars(PairedBatch).keys() == {"__new__"}


@every_kind
def test_indexing_unpacking_and_comparing(batch):
    image, target, negative_image, negative_target = batch
    assert len(batch) == 4
    assert (image, target) == (batch[0], batch[1]) == batch[:2] == (batch.image, batch.target)
    assert (negative_image, negative_target) == (batch[-2], batch[-1]) == (batch.negative_image, batch.negative_target)
    assert batch == PairedBatch(*batch) == tuple(batch)
    assert batch != batch._replace(target=None)
    assert list(batch._asdict()) == list(PairedBatch._fields)
    assert image_and_target(batch) == (image, target)
    assert image_and_target([image, target, "more"]) == (image, target)


@every_kind
def test_replacing_a_field_changes_nothing_else(batch):
    target = batch.target.roll(1)
    other = batch._replace(target=target)
    assert type(other) is PairedBatch
    assert other.target is target
    assert other.positive == (batch.image, target)
    assert (other.image, *other[2:]) == (batch.image, *batch[2:])
    assert not torch.equal(batch.target, target)


@every_kind
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_copies_and_pickles(batch, copied):
    _same(copied(batch), batch)


@every_kind
def test_it_moves_between_devices(batch):
    _same(move_data_to_device(batch, torch.device("cpu")), batch)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert type(moved) is PairedBatch
    for ours, theirs in zip(moved, batch, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.device.type, ours.shape, ours.dtype) == ("meta", theirs.shape, theirs.dtype)


def test_a_loader_collates_samples_into_a_batch():
    samples = [PairedBatch(*(field[k] for field in _batch(images=True))) for k in range(B)]
    _same(default_collate(samples), _batch(images=True))


# -------------------------------------------------------------------- its two pairs


@every_kind
def test_the_positive_pair(batch):
    assert batch.positive == (batch.image, batch.target)


def test_the_negative_pair():
    batch = KINDS["relabelled"]
    image, label = batch.negative
    assert label is batch.negative_target
    assert torch.equal(image, torch.stack([batch.image] * K, dim=1))
    assert image.untyped_storage().data_ptr() == batch.image.untyped_storage().data_ptr()  # no copies
    for name in ("images", "both"):
        assert KINDS[name].negative == (KINDS[name].negative_image, KINDS[name].negative_target)
    image, label = KINDS["none"].negative
    assert image.shape == (B, 0, *SHAPE)
    assert (label.shape, label.dtype) == ((B, 0), torch.int64)


# -------------------------------------------------------------------- the network's inputs

ENCODERS = [LabelOverlay, LabelPlanes, FourierPattern, lambda: LabelToken([2, 3]), LabelEmbedding, NoLabel]
every_encoder = pytest.mark.parametrize(
    "make", ENCODERS, ids=["overlay", "planes", "fourier", "token", "embedding", "none"]
)


def _ready(make):
    encoder = make()
    encoder.setup(SHAPE, 3)
    return encoder


@every_encoder
@every_kind
def test_inputs_are_made_sample_by_sample(make, batch):
    encoder = _ready(make)
    positive, negative = encoder.positive(batch), encoder.negative(batch)
    assert torch.equal(positive, encoder(batch.image, batch.target))
    k = 0 if batch is KINDS["none"] else K
    assert negative.shape == (B * k, *encoder.output_shape)
    image, label = batch.negative
    for i in range(B):
        for j in range(k):
            shown = batch.target[i] if label is None else label[i, j]  # an image of its own shows the true label
            expected = encoder(image[i, j].unsqueeze(0), shown.view(1))
            torch.testing.assert_close(negative[i * k + j], expected[0], rtol=0, atol=0)


@every_encoder
@pytest.mark.parametrize("kind", ["relabelled", "images", "both"])
def test_a_module_reads_positives_first_then_the_first_negative_of_each_sample(make, kind):
    encoder, batch = _ready(make), KINDS[kind]
    x = encoder.inputs(batch)
    dense = x.dense() if isinstance(x, LabelledImages) else x
    if kind == "relabelled" and not encoder.shows_label:
        assert dense is batch.image  # which a module refuses: the negatives would be the positives
        return
    by_turn = encoder.negative(batch).view(B, K, *encoder.output_shape).transpose(0, 1).flatten(0, 1)
    assert torch.equal(dense, torch.cat([encoder.positive(batch), by_turn]))


def test_images_are_read_once_for_all_of_their_labels():
    batch = KINDS["relabelled"]
    x = _ready(LabelOverlay).inputs(batch)
    assert isinstance(x, LabelledImages)
    assert x.image is batch.image
    assert torch.equal(x.label, torch.cat([batch.target[:, None], batch.negative_target], dim=1))


@pytest.mark.parametrize("kind", ["relabelled", "images", "both", "none"])
def test_every_kind_of_batch_trains(kind, trainer):
    module = IntFFModule([DenseUnit([5]), DenseUnit([4])], input_shape=list(SHAPE), num_classes=3)
    before = [p.detach().clone() for p in module.parameters()]
    loader = torch.utils.data.DataLoader([KINDS[kind]], batch_size=None)
    trainer().fit(module, loader)
    assert all(not torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
