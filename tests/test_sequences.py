"""Token sequences: padding never counts, units compute what plain loops compute, and every route works or refuses."""

import copy
import functools

import lightning as L
import numpy as np
import pytest
import torch
from token_data import CLASSES, LENGTH, VOCABULARY, sequences, token_data
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning import (
    AttentionUnit,
    BackpropModule,
    ConvUnit,
    DenseUnit,
    EmbeddingUnit,
    HiddenUnit,
    IntFFModule,
    LabelOverlay,
    LabelPrefix,
    LinearHead,
    NoLabel,
    RecurrentUnit,
    SequenceUnit,
    WrongLabels,
)
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger, LinearProbe, TrainingFigures
from intff_lightning.corruptions import GaussianPixels, LabelNoise
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    GroupNormalization,
    LabelCrossEntropy,
    MeanActivation,
    MeanSquares,
    NoNormalization,
    SumSquares,
    TopGoodness,
    UnitL2,
)
from intff_lightning.negatives import GaussianNoise, HardLabels, HybridImages, Perturbed
from intff_lightning.samples import checked
from intff_lightning.sequences import PaddedShape, TokenShape, example, mark, real_positions
from intff_lightning.units import UnitChain

LENGTHS = (1, 3, 4, 6)


def _units():
    """A unit of each kind that reads positions."""
    return [
        EmbeddingUnit(8, context=3),
        RecurrentUnit(6, layers=2),
        AttentionUnit(8, heads=2, blocks=2),
        RecurrentUnit(6, cell="LSTM", bidirectional=False),
    ]


def _built(units, length=LENGTH, **options):
    module = IntFFModule(units, input_shape=[length], num_classes=CLASSES, vocabulary=VOCABULARY, **options)
    return module.double().eval()


def _shorter(module, length, **options):
    """The same network for sequences of another length: attention has learned one position more for each token."""
    other = _built(_units(), length, **options)
    weights = module.state_dict()
    for name, like in other.state_dict().items():
        if name.endswith("position"):
            weights[name] = weights[name][: len(like)]
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize(
    "options",
    [
        {"goodness": ChannelGoodness(), "normalization": RMS(gain=3)},
        {"goodness": MeanActivation(), "normalization": GroupNormalization(2)},
        {"goodness": LinearHead(pool=1), "normalization": NoNormalization()},
        {"goodness": MeanSquares(), "normalization": UnitL2(gain=5)},
        {"goodness": SumSquares(), "normalization": RMS()},
        {"goodness": MeanActivation(by_class=False)},
    ],
    ids=["channels", "mean", "head", "label", "sum", "label mean"],
)
def test_padding_changes_nothing(options):
    """Sequences padded to seven tokens, against networks for just their length, one sequence at a time."""
    module = _built(_units(), **options)
    ids = torch.randint(1, VOCABULARY, (len(LENGTHS), LENGTH)) * (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None])
    with torch.no_grad():
        goodness = module.label_goodness(ids)
        assert goodness.shape == (4, len(LENGTHS), CLASSES)
        assert goodness.std(2).min() > 0 or not module.by_class
        for number, length in enumerate(LENGTHS):
            alone = _shorter(module, length, **options).label_goodness(ids[number : number + 1, :length])
            torch.testing.assert_close(goodness[:, number], alone[:, 0], rtol=1e-7, atol=1e-9)


def _padded(size=4, length=6, width=5):
    real = torch.arange(length) < torch.tensor([6, 1, 3, 4])[:size, None]
    return mark(torch.randn(size, length, width), real), real


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("both", [True, False])
def test_a_recurrent_unit_equals_packed_sequences(kind, both):
    unit = RecurrentUnit(4, layers=2, cell=kind, bidirectional=both, normalization=NoNormalization())
    unit.setup(PaddedShape((6, 5)), CLASSES)
    reference = vars(nn)[kind](5, 4, 2, batch_first=True, bidirectional=both)
    cells = unit.body.layers.cells
    for layer in range(2):
        for direction, cell in enumerate(cells[layer]):
            for name, value in cell.named_parameters():  # weight_ih_l0 and so on
                theirs = name.replace("_l0", f"_l{layer}") + ("_reverse" if direction else "")
                dict(reference.named_parameters())[theirs].data.copy_(value.data)
    x, real = _padded()
    packed = pack_padded_sequence(x, real.sum(1), batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True, total_length=6)
    expected = unit.body.layers.output(states) * real.unsqueeze(2)
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=2e-5)


def test_an_attention_unit_equals_its_blocks_on_each_sequence_alone():
    unit = AttentionUnit(8, heads=2, blocks=2, normalization=NoNormalization())
    unit.setup(PaddedShape((6, 5)), CLASSES)
    layers, (x, real) = unit.body.layers, _padded()
    h = unit(x)
    for row, length in enumerate(real.sum(1).tolist()):
        alone = layers.tokens.embedding(x[row : row + 1, :length]) + layers.tokens.position[:length]
        for block in layers.blocks:
            alone = block(alone)
        torch.testing.assert_close(h[row, :length], layers.output(alone)[0], rtol=1e-4, atol=2e-5)
        assert not h[row, length:].any()


def test_an_embedding_unit_equals_a_plain_loop():
    unit = EmbeddingUnit(3, context=3)
    unit.setup(TokenShape([4], VOCABULARY), CLASSES)
    table, layer = unit.body.layers.embedding.weight, unit.body.layers.layer
    ids = torch.tensor([[5, 2, 9, 0]])
    assert not table[0].any()
    for place in range(3):
        total = layer.bias.clone()
        for offset in (-1, 0, 1):
            neighbour = ids[0, place + offset] if 0 <= place + offset < 4 else torch.tensor(0)
            total = total + layer.weight[:, :, offset + 1] @ table[neighbour]
        torch.testing.assert_close(unit(ids)[0, place], total.relu(), rtol=1e-4, atol=2e-5)
    assert not unit(ids)[0, 3].any()
    assert unit.output_shape == (4, 3)
    assert isinstance(unit.output_shape, PaddedShape)


@pytest.mark.parametrize(
    ("goodness", "of_one"),
    [
        (MeanSquares(), lambda h: h.square().mean()),
        (SumSquares(), lambda h: h.square().sum()),
        (
            ChannelGoodness(),
            lambda h: torch.stack([h[:, :2].square().mean(), h[:, 2:4].square().mean(), h[:, 4].square().mean()]),
        ),
        (MeanActivation(), lambda h: torch.stack([h[:, :2].mean(), h[:, 2:4].mean(), h[:, 4].mean()])),
        (MeanActivation(by_class=False), lambda h: h.mean()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_goodness_of_a_sequence_is_that_of_its_tokens(goodness, of_one):
    goodness.setup(PaddedShape((6, 5)), CLASSES)
    h, real = _padded()
    for row, value in enumerate(goodness(h)):
        torch.testing.assert_close(value, of_one(h[row][real[row]]))
    silent = mark(torch.zeros(1, 4, 5), torch.tensor([[True, True, False, False]]))
    assert real_positions(silent).tolist() == [[True, True, False, False]]  # no token is taken for padding
    for dtype in (torch.float16, torch.bfloat16):
        quiet = mark(torch.zeros(1, 4, 5, dtype=dtype), real_positions(silent))
        assert quiet.dtype == dtype
        assert torch.equal(real_positions(quiet), real_positions(silent))


@pytest.mark.parametrize("make", [RecurrentUnit, functools.partial(AttentionUnit, heads=2)])
@pytest.mark.parametrize(
    ("normalization", "dtype"),
    [(GroupNormalization(), torch.float32), (UnitL2(), torch.float16)],
)
def test_a_normalization_makes_no_padding_of_a_token_without_activity(make, normalization, dtype):
    unit = make(4, normalization=normalization)
    unit.setup(PaddedShape((4, 5)), CLASSES)
    real = torch.tensor([[True, True, True, False]])
    x = mark(torch.tensor([900.0, 0.0, 300.0, 0.0], dtype=dtype).view(1, 4, 1) * torch.arange(5), real)
    normalized = unit.normalize(x)
    assert torch.equal(real_positions(normalized), real)
    torch.testing.assert_close(normalized[0, 1], torch.full((5,), 1e-5, dtype=dtype))
    assert torch.equal(real_positions(unit(x.float())), real)


def test_a_label_is_a_token_in_front():
    encoder = LabelPrefix()
    encoder.setup(TokenShape([3], 10), CLASSES)
    ids = torch.tensor([[4, 5, 0], [6, 0, 0]])
    assert encoder(ids, torch.tensor([2, 0])).tolist() == [[12, 4, 5, 0], [10, 6, 0, 0]]
    assert encoder(ids, None).tolist() == [[4, 5, 0, 0], [6, 0, 0, 0]]
    assert (encoder.output_shape, encoder.output_shape.vocabulary) == ((4,), 13)
    for copied in (copy.deepcopy(encoder.output_shape), copy.copy(encoder.output_shape)):
        assert copied.vocabulary == 13
    module = IntFFModule([EmbeddingUnit(6), RecurrentUnit(6)], input_shape=[3], num_classes=3, vocabulary=10)
    assert isinstance(module.encoder, LabelPrefix)
    scores = torch.stack([module.goodness(encoder(ids, torch.full((2,), c))).sum(0) for c in range(3)], 1)
    torch.testing.assert_close(module(ids), scores)


def test_the_embedding_is_trained_by_its_own_loss_alone():
    """One step with the units behind it, against a plain step on its own loss, in float64."""
    ids, target = sequences(16)
    module = _built([EmbeddingUnit(6), RecurrentUnit(6)], goodness=ChannelGoodness(), loss=LabelCrossEntropy()).train()
    module.optimizer_factory = functools.partial(torch.optim.SGD, lr=0.5)
    unit = copy.deepcopy(module.units[0])
    h = unit(ids)
    g = unit.goodness(h)
    others = torch.stack([g[row, [c for c in range(CLASSES) if c != own]] for row, own in enumerate(target)])
    unit.loss(g[torch.arange(16), target], others, target, None).backward()
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter -= 0.5 * parameter.grad
    trainer = L.Trainer(max_steps=1, precision="64-true", accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(ids, target), batch_size=16))
    for name, value in module.units[0].state_dict().items():
        torch.testing.assert_close(value, unit.state_dict()[name])
    assert not module.units[0].body.layers.embedding.weight[0].any()


def _trained(trainer, units, data=None, epochs=3, **options):
    torch.manual_seed(0)
    module = IntFFModule(units, optimizer=functools.partial(torch.optim.Adam, lr=0.01), normalization=RMS(), **options)
    run = trainer(max_epochs=epochs, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
    run.fit(module, data or token_data())
    return module, run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "options"),
    [
        ([EmbeddingUnit(12), RecurrentUnit(12)], {"goodness": ChannelGoodness(), "loss": LabelCrossEntropy()}),
        ([EmbeddingUnit(12, context=1), AttentionUnit(12, heads=2)], {"goodness": LinearHead(pool=1),
                                                                      "loss": LabelCrossEntropy(threshold_weight=0)}),
        ([EmbeddingUnit(12, context=5), DenseUnit([24])], {"chunk_size": 60, "loss": LabelCrossEntropy()}),
    ],
    ids=["by class", "head", "label"],
)  # fmt: skip
def test_networks_learn_and_every_route_works(units, options, trainer, tmp_path):
    module, run = _trained(trainer, units, token_data(negatives=WrongLabels(2)), epochs=8, **options)
    data = token_data()
    (tested,) = run.test(module, data, verbose=False)
    assert tested["test/accuracy"] > 0.8
    assert run.validate(module, data, verbose=False)[0]["val/accuracy"] > 0.8
    scores = torch.cat(run.predict(module, data))
    ids, target = sequences(96, 2)
    assert (scores.argmax(1) == target).double().mean() == pytest.approx(tested["test/accuracy"])
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = IntFFModule.load_from_checkpoint(tmp_path / "last.ckpt").eval()
    assert (loaded.hparams["vocabulary"], loaded.hparams["input_shape"]) == (VOCABULARY, [LENGTH])
    torch.testing.assert_close(loaded(ids), scores)
    assert loaded.embed(ids).isfinite().all()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true"])
def test_half_precision(precision, trainer):
    module = IntFFModule([EmbeddingUnit(8), RecurrentUnit(8), AttentionUnit(8, heads=2)], goodness=ChannelGoodness(),
                         normalization=RMS(), optimizer=functools.partial(torch.optim.SGD, lr=0.1))  # fmt: skip
    run = trainer(max_epochs=1, precision=precision, callbacks=[GoodnessAccuracy()])
    run.fit(module, token_data(train=64))
    assert all(scores.isfinite().all() for scores in run.predict(module, token_data(train=64)))


def test_a_resumed_run_ends_with_the_same_bits(trainer, tmp_path):
    units = lambda: [EmbeddingUnit(6), RecurrentUnit(6)]  # noqa: E731
    whole, _ = _trained(trainer, units(), epochs=2)
    _, run = _trained(trainer, units(), epochs=1)
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed = IntFFModule(units(), optimizer=functools.partial(torch.optim.Adam, lr=0.01), normalization=RMS())
    run = trainer(max_epochs=2, callbacks=[GoodnessLogger(), GoodnessAccuracy()])
    run.fit(resumed, token_data(), ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_backpropagation_of_the_same_layers(trainer):
    units = [EmbeddingUnit(16), RecurrentUnit(16)]
    module = BackpropModule(UnitChain(units), optimizer=functools.partial(torch.optim.Adam, lr=0.01))
    run = trainer(max_epochs=6, callbacks=[GoodnessAccuracy()])
    run.fit(module, token_data())
    assert run.callback_metrics["val/accuracy"] > 0.8
    ids, _ = sequences(8)
    x = ids
    for body in module.body.body:
        x = body(x)
    expected = torch.stack([row[own].mean(0) for row, own in zip(x, ids != 0, strict=True)]) @ module.head[1].weight.T
    torch.testing.assert_close(module(ids), expected + module.head[1].bias, rtol=1e-4, atol=1e-4)
    layers = IntFFModule(units, input_shape=[LENGTH], num_classes=CLASSES, vocabulary=VOCABULARY, encoder=NoLabel())
    count = sum(p.numel() for unit in layers.units for p in unit.parameters())
    assert sum(p.numel() for p in module.body.parameters()) == count


@pytest.mark.slow
def test_parts_around_the_network(trainer, tmp_path):
    """A linear probe, figures, hard labels, label noise, and a network of one's own for token ids."""
    module = IntFFModule([EmbeddingUnit(8), RecurrentUnit(8)], normalization=RMS())
    callbacks = [GoodnessLogger(), GoodnessAccuracy(), LinearProbe(epochs=1), TrainingFigures(folder=str(tmp_path))]
    run = trainer(max_epochs=1, callbacks=callbacks)
    data = token_data(train=64, negatives=HardLabels(), corruption=LabelNoise(0.2))
    run.fit(module, data)
    run.test(module, data, verbose=False)
    assert list(tmp_path.glob("*.png"))

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(VOCABULARY, 8, padding_idx=0)

        def forward(self, ids):
            return self.bag(ids).relu()

    for own in (IntFFModule([Bag(), DenseUnit([6])], goodness=ChannelGoodness()), BackpropModule(Bag())):
        trainer(max_epochs=1, callbacks=[GoodnessAccuracy()]).fit(own, token_data(train=64))


def test_plain_batches_and_foreign_datamodules(trainer):
    ids, target = sequences(32)

    class Foreign(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(ids.to(torch.int16), target), batch_size=8)

        val_dataloader = predict_dataloader = train_dataloader

    wrapped = PairedDataModule(Foreign(), vocabulary=VOCABULARY, num_classes=CLASSES)
    trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)]), wrapped)
    module = IntFFModule([EmbeddingUnit(6)], goodness=ChannelGoodness(), input_shape=[LENGTH], num_classes=CLASSES,
                         vocabulary=VOCABULARY)  # fmt: skip
    run = trainer(max_epochs=1)
    run.fit(module, Foreign())
    assert len(torch.cat(run.predict(module, Foreign()))) == 32
    with pytest.raises(DataError, match=r"a batch to predict: sample 0 has the id 13"):
        run.predict(module, DataLoader(torch.full((2, LENGTH), 13)))
    lists = [([int(i) for i in row], int(label)) for row, label in zip(ids, target, strict=True)]
    arrays = [(np.array(row, dtype=np.uint8), label) for row, label in lists]
    named = [{"input_ids": row, "label": label, "attention_mask": [1] * LENGTH} for row, label in lists]
    for samples in (lists, arrays, named):
        data = PairedDataModule(train=samples, val_size=0, vocabulary=VOCABULARY, num_classes=CLASSES)
        trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)]), data)
        batch = next(iter(data.train_dataloader()))
        assert torch.equal(batch.image, ids[batch.sample])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 13]], "sample 0 has the id 13, and ids must be 0 to 12"),
        ([[1, 2, 3], [1, -1, 0]], "sample 1 has the id -1"),
        ([[0, 0, 0]], "sample 0 has no token"),
        ([[1, 0, 3]], "sample 0 has padding .0. before a token. Pad sequences at their end"),
        ([[1.0, 2.0, 3.0]], r"vocabulary=13, and the batch is torch.float32 .*Token ids are integers \(B, T\)"),
        ([[[1], [2]]], r"Token ids are integers \(B, T\)"),
    ],
)
def test_sequences_that_cannot_be(ids, message):
    samples = torch.tensor(ids)
    data = PairedDataModule(train=TensorDataset(samples, torch.zeros(len(ids), dtype=torch.int64)), vocabulary=13)
    with pytest.raises(DataError, match=message):
        data.dataset("train")


def test_sequences_of_several_lengths_are_refused(trainer):
    data = PairedDataModule(
        train=[(torch.tensor([1, 2]), 0), (torch.tensor([1]), 1)], val_size=0, vocabulary=9, num_classes=2
    )
    with pytest.raises(
        DataError, match=r"sequence 1 of a batch .*Pad the sequences of token ids with zeros to one length"
    ):
        trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)], input_shape=[2]), data)


def _module(*units, **options):
    return IntFFModule(list(units), input_shape=[LENGTH], num_classes=CLASSES, vocabulary=VOCABULARY, **options)


class _Shifted(SequenceUnit):
    """A unit of one's own that knows padding."""

    def make_padded_body(self, input_shape):
        class Layers(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(input_shape[1], 5)

            def forward(self, x, real):
                return self.layer(x).relu()

        return Layers()

    def __init__(self, **options):
        super().__init__(nn.Identity(), **options)


def test_a_unit_of_ones_own_that_knows_padding():
    module = _module(EmbeddingUnit(6), _Shifted(), DenseUnit([4]))
    ids = torch.tensor([[3, 4, 0, 0, 0, 0, 0]])
    h = module.units[1](module.units[0](module.encoder(ids, torch.tensor([1]))))
    assert (h != 0).any(2).tolist() == [[True] * 3 + [False] * 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _module(DenseUnit([5])), "unit_0 cannot read token ids: put an EmbeddingUnit first"),
        (lambda: _module(RecurrentUnit(5)), "unit_0 cannot read token ids: put an EmbeddingUnit first"),
        (lambda: _module(EmbeddingUnit(5), EmbeddingUnit(5)), r"unit_1 embeds token ids, .*put it first"),
        (lambda: IntFFModule([EmbeddingUnit(5)], input_shape=[8], num_classes=3), "unit_0 embeds token ids"),
        (lambda: _module(EmbeddingUnit(5), HiddenUnit(nn.Linear(5, 5))), "unit_1 would read the padding"),
        (lambda: _module(EmbeddingUnit(5), ConvUnit([4])), "unit_1 would read the padding"),
        (lambda: _module(HiddenUnit(nn.Embedding(20, 4))), r"unit_0 returns \(8, 4\) for token ids"),
        (lambda: _module(EmbeddingUnit(5), goodness=TopGoodness()), "TopGoodness would count"),
        (lambda: _module(EmbeddingUnit(5, goodness=MeanSquares(selected=[0]))), "MeanSquares would count"),
        (lambda: _module(EmbeddingUnit(5), encoder=LabelOverlay()), "LabelOverlay cannot take token sequences"),
        (lambda: IntFFModule([DenseUnit([5])], encoder=LabelPrefix(), input_shape=[8], num_classes=3),
         "LabelPrefix needs token sequences"),
        (lambda: EmbeddingUnit(5, normalization=RMS()), "normalization has no effect on token ids"),
        (lambda: EmbeddingUnit(5, context=2), "context=2 an odd number"),
        (lambda: token_data(vocabulary=VOCABULARY, pixel_range=[0, 9]), "multiple values|pixel_range has no effect"),
        (lambda: PairedDataModule(train=TensorDataset(*sequences(9)), vocabulary=1), "vocabulary=1: an integer"),
        (lambda: PairedDataModule(train=TensorDataset(*sequences(9)), vocabulary=13, pixel_range=[0.0, 9.0]),
         "pixel_range has no effect on token ids"),
        (lambda: _module(EmbeddingUnit(5))(torch.rand(2, LENGTH)), "token ids must be integers, not torch.float32"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises((ConfigurationError, DataError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": Perturbed()}, "Perturbed needs pixels or other numbers"),
        ({"negatives": GaussianNoise()}, "GaussianNoise needs pixels"),
        ({"negatives": HybridImages()}, "HybridImages needs images"),
        ({"corruption": GaussianPixels()}, "GaussianPixels needs pixels, and these are token ids: use LabelNoise"),
    ],
)
def test_noise_is_for_pixels(options, message, trainer):
    with pytest.raises(ConfigurationError, match=message):
        trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)]), token_data(train=64, **options))


def test_networks_and_data_of_different_kinds(trainer):
    words, digits = token_data(train=64), TensorDataset(torch.rand(32, LENGTH), torch.arange(32) % CLASSES)
    built = IntFFModule([DenseUnit([6])], input_shape=[LENGTH], num_classes=CLASSES)
    with pytest.raises(ConfigurationError, match="built for vocabulary=None, and the data has 13"):
        trainer(max_epochs=1).fit(built, words)
    with pytest.raises(ConfigurationError, match="built for vocabulary=14, and the data has 13"):
        trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)], vocabulary=14), words)
    with pytest.raises(DataError, match=r"token ids are needed, integers, and the input is torch.float32"):
        trainer(max_epochs=1).fit(_module(EmbeddingUnit(6), goodness=ChannelGoodness()),
                                  PairedDataModule(train=digits, num_classes=CLASSES))  # fmt: skip
    with pytest.raises(DataError, match=r"nothing tells their range.*For token ids, give vocabulary="):
        trainer(max_epochs=1).fit(IntFFModule([EmbeddingUnit(6)]), PairedDataModule(train=TensorDataset(*sequences(9))))


def test_ids_out_of_range_become_nan():
    """On an accelerator nobody waits to refuse them, and a NaN stops the run."""
    module = _module(EmbeddingUnit(6), RecurrentUnit(6), goodness=ChannelGoodness())
    ids = torch.tensor([[1, 2, 0, 0, 0, 0, 0], [1, -1, 0, 0, 0, 0, 0], [1, 99, 0, 0, 0, 0, 0]])
    assert module(ids).isnan().any(1).tolist() == [False, True, True]

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    ids = torch.tensor([[1, 2, 0], [1, 0, 2], [1, 13, 0], [1, 2, 3]]).as_subclass(Elsewhere)
    target = torch.tensor([0, 1, 2, 3])
    found, safe = checked(ids, target, CLASSES, "a batch", wait=False, vocabulary=VOCABULARY)
    assert found.as_subclass(torch.Tensor).tolist() == [[1, 2, 0], [-1] * 3, [-1] * 3, [-1] * 3]
    assert safe.tolist() == [0, 1, 2, 0]


def test_shapes_stand_for_example_inputs():
    assert example((2, 3), 4).shape == (4, 2, 3)
    assert example(TokenShape([3], 9), 2).tolist() == [[1, 1, 1]] * 2
    assert real_positions(example(PaddedShape((3, 2)), 2, torch.empty(0, dtype=torch.bfloat16))).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attribute")  # torch's, of its own recurrent layers
def test_a_program_of_the_network():
    module = _module(EmbeddingUnit(6), RecurrentUnit(6)).eval()
    ids, _ = sequences(9)
    batch = torch.export.Dim("batch", min=1, max=1000)
    program = torch.export.export(module, (ids[:2],), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(ids), module(ids))
