"""Adversarial examples: gradients against differences, attacks against the closed form of a linear classifier."""

import importlib.util

import pytest
import torch

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import ConfigurationError
from intff_lightning.local import ChannelGoodness
from intff_lightning.reproduce.characteristics import adversarial
from intff_lightning.reproduce.characteristics.adversarial import Budget, attacked, attacks, fgsm, pgd
from intff_lightning.reproduce.characteristics.intervals import compare
from intff_lightning.reproduce.characteristics.networks import Trained

SIZES = {"input_shape": [1, 6, 6], "num_classes": 5}
MODULES = {
    "intff": lambda: IntFFModule([DenseUnit([12, 10], activation="Softplus"), DenseUnit([10])], **SIZES),
    "channels": lambda: IntFFModule([DenseUnit([10]), DenseUnit([15])], goodness=ChannelGoodness(), **SIZES),
    "conv": lambda: IntFFModule([ConvUnit([4]), ConvUnit([6])], **SIZES),
    "bp": lambda: BackpropModule(DenseUnit([10]), **SIZES),
}
ALL = ("FGSM", "PGD-20", "APGD-CE", "APGD-T", "FAB-T", "Square")


@pytest.mark.parametrize("name", MODULES)
def test_gradients_reach_the_image_through_all_units(name):
    module = MODULES[name]().double().eval()
    image = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(module, (image.requires_grad_(),), eps=1e-7, atol=1e-4, rtol=1e-3)
    if name != "bp":
        for goodness in module.label_goodness(image):  # of every unit alone
            (gradient,) = torch.autograd.grad(goodness.sum(), image, retain_graph=True)
            assert (gradient.flatten(1) != 0).any(1).all()


@pytest.fixture
def linear():
    """A linear classifier, images far from the ends of [0, 1], and the eps at which each one can be broken."""
    generator = torch.Generator().manual_seed(0)
    # so steep that the cross-entropy is about the likeliest wrong class, which the closed form is about
    weight = 300 * torch.randn(5, 16, generator=generator, dtype=torch.float64)
    image = 0.5 + 0.1 * (torch.rand(40, 1, 4, 4, generator=generator) - 0.5)

    def score(x):
        return (x.flatten(1).double() - 0.5) @ weight.T

    found = score(image)
    target = found.argmax(1)
    margin = found.gather(1, target[:, None]) - found
    distance = (weight[target][:, None] - weight).abs().sum(2)  # L1, the dual of L-infinity
    ratio = (margin / distance).scatter(1, target[:, None], float("inf"))
    return score, image, target, ratio.min(1).values


@pytest.mark.parametrize("name", ALL)
def test_attacks_break_what_can_be_broken(linear, name):
    if name not in ("FGSM", "PGD-20"):
        pytest.importorskip("pyautoattack")
    score, image, target, weakest = linear
    attack = attacks(Budget(steps=50, targets=4, queries=600), seed=0)[name]
    eps = float(weakest.median())
    state = torch.get_rng_state()
    found = attack(score, image, target, eps)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found - image).abs().max() <= eps + 1e-6
    right = score(found).argmax(1) == target
    assert right[weakest > 1.01 * eps].all()  # nothing can break these
    broken = ~right[weakest < (0.5 if name == "Square" else 0.95) * eps]
    assert len(broken) > 5
    assert broken.float().mean() > (0.8 if name == "Square" else 0.9)


def test_steps_and_clipping_by_hand():
    weight = torch.tensor([[1.0, -2.0], [-1.0, 3.0]])

    def score(x):
        return x @ weight.T

    image, target = torch.tensor([[0.5, 0.02]]), torch.tensor([0])
    assert torch.allclose(fgsm(score, image, target, 0.1), torch.tensor([[0.4, 0.12]]))
    assert torch.allclose(fgsm(score, image, torch.tensor([1]), 0.1), torch.tensor([[0.6, 0.0]]))  # clipped
    assert torch.allclose(pgd(score, image, target, 0.05, steps=50), torch.tensor([[0.45, 0.07]]))  # the corner
    assert torch.equal(pgd(score, image, target, 0.3, seed=1), pgd(score, image, target, 0.3, seed=1))


@pytest.fixture
def digits_network():
    sets = [DigitsDataModule().dataset(part) for part in ("val", "test")]
    return Trained("intff", "dense", "mnist", 0, IntFFModule.from_pretrained("digits"), *sets)


@pytest.mark.slow
def test_a_network_without_hidden_gradients(digits_network, monkeypatch):
    pytest.importorskip("pyautoattack")
    budget = Budget(images=25, eps=(0.05, 0.2), steps=10, targets=2, queries=100, more_steps=40)
    monkeypatch.setattr(adversarial, "_QUICK", budget)
    before = {name: value.clone() for name, value in digits_network.module.state_dict().items()}
    rows = adversarial.measure(digits_network, "nowhere", quick=True)
    assert all(torch.equal(value, before[name]) for name, value in digits_network.module.state_dict().items())
    assert all(parameter.grad is None for parameter in digits_network.module.parameters())
    found = {row["what"]: row["value"] for row in rows}
    clean = found["no attack"]
    assert clean > 0.7
    for eps in ("0.05", "0.2"):
        worst = found[f"all attacks, eps {eps}"]
        assert worst <= min(found[f"{name}, eps {eps}"] for name in ALL) <= clean
    assert found["all attacks, eps 0.2"] < found["all attacks, eps 0.05"] < clean
    assert found["check, eps 1"] == 0
    assert adversarial.withhold(_compared(rows)) == []
    assert [row["what"] for row in rows if adversarial.shown(row)] == [
        "no attack",
        "all attacks, eps 0.05",
        "all attacks, eps 0.2",
    ]


def test_hidden_gradients_are_noticed(linear):
    pytest.importorskip("pyautoattack")
    score, image, _, weakest = linear

    def hides(x):  # rounding has no gradient
        return score((100 * x).round() / 100 + 0 * x)

    budget = Budget(eps=(2 * float(weakest.median()),), steps=10, targets=2, queries=300, more_steps=10)
    clean = score((100 * image).round() / 100).argmax(1)
    masked = attacked(hides, image, clean, budget, seed=0)
    (found,) = adversarial.withhold(_compared(masked))
    assert found["of"] == "dense mnist"
    assert "broken by the black box alone" in found["line"]

    def deaf(x):  # nothing changes its mind
        return torch.eye(5)[0] + 0 * x.flatten(1).sum(1, keepdim=True)

    (found,) = adversarial.withhold(_compared(attacked(deaf, image, torch.zeros_like(clean), budget, seed=0)))
    assert found["line"] == (
        "- Gradients of FF may be hidden (dense network, MNIST): eps 1, accuracy left at eps 1: 100.0 %."
    )


@pytest.mark.parametrize(("masked", "robust"), [("ff", "ff"), ("bp", "bp"), ("ff", "bp"), ("bp", "ff")])
def test_a_network_with_hidden_gradients_is_not_called_robust(masked, robust):
    def rows(algorithm):
        right = 0.6 if algorithm == robust else 0.3
        attacks = [("no attack", 0.9 if algorithm == robust else 0.8), ("all attacks, eps 0.1", right)]
        made = [{"what": what, "measure": "accuracy", "value": value, "better": "higher"} for what, value in attacks]
        hidden = 0.05 if algorithm == masked else 0.01
        return [*made, {"what": "check", "measure": adversarial.MASKING[0], "value": hidden, "better": "lower"}]

    found = _compared(rows("ff"), rows("bp"))
    (doubt,) = adversarial.withhold(found)
    assert {"ff": "FF", "bp": "BP"}[masked] in doubt["line"]
    clean, attack = (next(row["verdict"] for row in found if row["what"] == what) for what in ("no attack", ATTACK))
    expected = "ahead" if robust == "ff" else "behind"
    assert clean == expected
    assert attack == ("in doubt" if masked == robust else expected)


ATTACK = "all attacks, eps 0.1"


def _compared(rows, baseline=()):
    """Rows of FF, and of backpropagation, as the command compares them, with two seeds that differ a little."""
    place = {"network": "dense", "dataset": "mnist", "settings": "study"}
    return compare(
        {
            **row,
            **place,
            "algorithm": algorithm,
            "seed": seed,
            "value": row["value"] + 1e-4 * seed * (algorithm == "ff"),
        }
        for algorithm, mine in (("ff", rows), ("bp", baseline))
        for row in mine
        for seed in (0, 1)
    )


def test_a_missing_library_is_named(linear, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    score, image, target, _ = linear
    with pytest.raises(ConfigurationError, match=r'pip install "intff-lightning\[attacks\]"'):
        attacked(score, image, target, Budget(), seed=0)
