"""Existing networks cut into units."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from intff_lightning import IntFFModule, LabelOverlay, split
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.errors import ConfigurationError

LAYERS = ["layer1", "layer2", "layer3", "layer4"]


class _Plain(nn.Module):
    """Code between modules, a parameter and a constant of its own, and an argument with a default."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.shift = nn.Parameter(torch.full((8,), 0.25))
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, scale=2.0, mask=None, *, other=None):
        x = torch.relu(self.first(torch.flatten(x, 1))) + self.shift
        if mask is not None:
            x = x * mask
        x = F.dropout(self.norm(x), 0.5, training=self.training)
        x = x + torch.relu(self.second(x)) * scale + torch.arange(8.0)
        return self.third(x).log_softmax(1)


class _Branches(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if self.kind == "values" and x.sum() > 0:
            return x
        if self.kind == "mode" and self.training:
            x = x * 2
        if self.kind == "random":
            x = x + torch.randn(4)
        x = self.second(x)
        return self.first(self.third(x)) if self.kind == "shared" else self.third(x)


def _chain(pieces, x):
    for piece in pieces:
        x = piece(x)
    return x


def _agree(model, pieces, reference, x):
    """Bit for bit in both modes, batch statistics included; ``reference`` computes what is expected."""
    other = copy.deepcopy(model)
    for training in (True, True, False):
        other.train(training)
        for piece in pieces:
            piece.train(training)
        torch.manual_seed(3)
        expected = reference(other, x)
        torch.manual_seed(3)
        assert torch.equal(_chain(pieces, x), expected)
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not any(module.training for piece in pieces for module in piece.modules())


def _features(model, x):
    """A resnet without its head."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def resnet():
    return torchvision.models.resnet18(num_classes=10)


def test_a_sequential_is_sliced():
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)]
    model = nn.Sequential(*layers)
    pieces = split(model, at=[3, 5])
    assert [list(piece) for piece in pieces] == [layers[:3], layers[3:5], layers[5:]]  # the very modules
    _agree(model, pieces, nn.Sequential.__call__, torch.rand(7, 6))
    assert [len(piece) for piece in split(model, at=["3"], until=-1)] == [3, 2]
    assert [len(piece) for piece in split(model, at=[0, 3])] == [3, 3]  # the first piece may be named as well
    assert [len(piece) for piece in split(model, at=[])] == [6]
    again = nn.Linear(6, 6)
    assert [len(piece) for piece in split(nn.Sequential(again, nn.ReLU(), again), at=[], until=2)] == [2]


def test_resnet(resnet, images):
    pieces = split(resnet, at=LAYERS, until="avgpool")
    assert len(pieces) == 5
    assert pieces[1].layer1 is resnet.layer1
    assert [type(piece).__name__ for piece in pieces][:2] == ["ResNet_0", "ResNet_1"]
    _agree(resnet, pieces, _features, images)
    _agree(resnet, split(resnet, at=["layer1.1", "layer3"]), nn.Module.__call__, images)


def test_pieces_share_the_models_weights(resnet, images):
    pieces = split(resnet, at=LAYERS)
    optimizer = torch.optim.SGD(pieces[2].parameters(), lr=0.1)
    before = copy.deepcopy(resnet.state_dict())
    _chain(pieces, images).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, value in resnet.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"layer2"}
    assert sum(len(list(piece.parameters())) for piece in pieces) == len(list(resnet.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "at"),
    [
        (torchvision.models.mobilenet_v2, ["features.4", "features.7", "features.14.conv.1", "classifier"]),
        (torchvision.models.vgg11, ["features.3", "features.11", "classifier"]),
    ],
)
def test_other_networks(make, at, images):
    model = make(num_classes=10).train()
    if at[2].endswith("conv.1"):  # inside a block without a shortcut
        assert not model.features[14].use_res_connect
    _agree(model, split(model, at=at), nn.Module.__call__, images[:2])


def test_code_between_modules_is_kept():
    model = _Plain()
    pieces = split(model, at=["norm", "third"])
    assert not hasattr(model, "_tensor_constant0")  # where fx leaves it
    assert sorted(dict(pieces[0].named_parameters())) == ["first.bias", "first.weight", "shift"]
    _agree(model, pieces, nn.Module.__call__, torch.rand(6, 3, 4))
    _agree(model, split(model, at=["norm"]), nn.Module.__call__, torch.rand(6, 3, 4))
    for mode in (True, False):
        assert {part.training for piece in split(model.train(mode), at=["norm"]) for part in piece.modules()} == {mode}


def test_pickles_copies_and_state_dicts():
    model = _Plain().eval()
    x = torch.rand(6, 3, 4)
    (piece, _) = split(model, at=["third"])
    file = io.BytesIO()
    torch.save(piece, file)
    file.seek(0)
    copies = [copy.deepcopy(piece), pickle.loads(pickle.dumps(piece)), torch.load(file, weights_only=False)]
    for other in copies:
        for training in (True, False):
            torch.manual_seed(1)
            expected = copy.deepcopy(piece).train(training)(x)
            torch.manual_seed(1)
            assert torch.equal(copy.deepcopy(other).train(training)(x), expected)
    (fresh, _) = split(_Plain().eval(), at=["third"])
    assert not torch.equal(fresh(x), piece(x))
    fresh.load_state_dict(piece.state_dict())
    assert torch.equal(fresh(x), piece(x))
    assert {name for name in piece.state_dict() if not name.startswith("_")} <= set(model.state_dict())


@pytest.mark.parametrize(
    ("at", "until", "message"),
    [
        (["layer1.0.conv2"], None, r"(?s)the cut at 'layer1.0.conv2' is crossed by 2 values \(.*outside its residual"),
        (["layer1"], "layer2.0.bn2", "the cut at 'layer2.0.bn2' is crossed by 2 values"),
        (["layr1"], None, "no submodule 'layr1' to cut at. Did you mean layer1"),
        (["zzz"], None, "It has conv1, bn1, relu, maxpool, layer1"),
        ([1], None, "ResNet is no Sequential: give names"),
        (["layer2", "layer1"], None, "'layer1' does not come after 'layer2'"),
        (["layer1", "layer1.0"], None, "'layer1.0' does not come after 'layer1'"),
        (["layer2"], "layer1", "'layer1' does not come after 'layer2'"),
        ([], "conv1", "until='conv1' leaves nothing"),
        (["maxpool", "layer1"], None, "piece 1 has no parameters to train"),
        (["layer1", "avgpool"], "fc", "piece 2 has no parameters to train"),
    ],
)
def test_cuts_that_cannot_be(resnet, at, until, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        split(resnet, at=at, until=until)
    assert str(refused.value).count("\n") < 3
    assert resnet.training
    assert all(module.training for module in resnet.modules())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("values", "cannot be traced.*\n.*control flow"),
        ("mode", "in training differs from that of evaluation"),
        ("random", "draws at random"),
        ("shared", "pieces 0 and 1 share first.weight"),
    ],
)
def test_networks_that_cannot_be_cut(kind, message):
    model = _Branches(kind)
    with pytest.raises(ConfigurationError, match=message):
        split(model, at=["third"])
    assert not [name for name in vars(model) if name.startswith("_tensor")]


def test_modules_that_do_not_run_and_numbers_out_of_range():
    with pytest.raises(ConfigurationError, match="does not call unused"):
        split(_Plain(), at=["unused"])
    with pytest.raises(ConfigurationError, match="no module 7 to cut at: Sequential has 1 modules"):
        split(nn.Sequential(nn.Linear(2, 2)), at=[7])
    with pytest.raises(ConfigurationError, match="must take one tensor"):
        split(nn.Bilinear(2, 2, 2), at=[])
    with pytest.raises(ConfigurationError, match="piece 0 has no parameters"):
        split(nn.Identity(), at=[])


@pytest.mark.slow
def test_a_network_in_pieces_trains_by_intff(resnet, trainer):
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = torch.as_tensor(digits.images[:96], dtype=torch.float32).unsqueeze(1) / 16
    image = F.interpolate(image, (16, 16)).expand(-1, 3, -1, -1).contiguous()
    data = InMemoryDataset(image, torch.as_tensor(digits.target[:96]))
    module = IntFFModule(split(resnet, at=LAYERS, until="avgpool"), encoder=LabelOverlay())
    before = copy.deepcopy(resnet.state_dict())
    run = trainer(limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0, enable_checkpointing=True)
    run.fit(module, PairedDataModule(train=data, val_size=32, batch_size=16, num_classes=10))
    moved = {name.split(".")[0] for name, value in resnet.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"conv1", "bn1", *LAYERS}  # every unit, and not the head
    run.save_checkpoint("resnet.ckpt")
    fresh = split(torchvision.models.resnet18(num_classes=10), at=LAYERS, until="avgpool")
    again = IntFFModule.load_from_checkpoint("resnet.ckpt", units=fresh)
    with torch.no_grad():
        assert torch.equal(again.eval()(image[:5]), module.eval()(image[:5]))
