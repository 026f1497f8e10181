"""Calibration: temperature, ECE, Brier score and reliability diagrams, by hand and by plain loops."""

import math

import numpy as np
import pytest
import torch

from intff_lightning import IntFFModule
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import DataError
from intff_lightning.reproduce.characteristics import calibration
from intff_lightning.reproduce.characteristics.calibration import (
    AFTER,
    BEFORE,
    brier_score,
    calibration_error,
    draw_reliability,
    probabilities,
    reliability,
)
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.temperature import fit_temperature

P = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.95, 0.05]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 1, 0])


def _drawn(size=20_000, temperature=3.0):
    """Logits, and labels that are drawn with their probabilities at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(size, 10, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).squeeze(1)


def test_brier_score_by_hand():
    expected = (2 * 0.1**2 + 2 * 0.7**2 + 2 * 0.2**2 + 2 * 0.05**2) / 4
    assert brier_score(P, TARGET) == pytest.approx(expected)
    assert brier_score(torch.eye(3), torch.tensor([0, 1, 2])) == 0
    assert brier_score(torch.eye(3), torch.tensor([1, 2, 0])) == 2


def test_ece_by_hand():
    # of 15 bins: 0.9 and 0.95 are in the 14th and the 15th, 0.7 in the 11th, 0.8 in the 12th
    expected = (0.1 + 0.7 + 0.2 + 0.05) / 4
    assert calibration_error(P, TARGET) == pytest.approx(expected)


def test_the_bins_of_a_diagram_are_those_of_the_ece():
    logits, target = _drawn()
    p = probabilities(logits)
    bins = reliability(p, target)
    assert sum(each.share for each in bins) == pytest.approx(1)
    gap = sum(each.share * abs(each.accuracy - each.confidence) for each in bins)
    assert gap == pytest.approx(calibration_error(p, target), abs=1e-5)
    confidence, right = p.max(1).values.numpy(), (p.argmax(1) == target).numpy()
    for each in bins:  # a plain loop
        inside = (confidence > each.number / 15) & (confidence <= (each.number + 1) / 15)
        assert each.share == pytest.approx(inside.mean())
        assert each.confidence == pytest.approx(confidence[inside].mean())
        assert each.accuracy == pytest.approx(right[inside].mean())


def test_the_temperature_of_the_labels_is_found():
    logits, target = _drawn()
    found = fit_temperature(logits, target)
    assert found == pytest.approx(3, rel=0.03)
    # there, the derivative of the log-likelihood in 1/T is zero: mean score of the target = expected score
    p = probabilities(logits, found)
    assert float((p * logits).sum(1).mean()) == pytest.approx(float(logits.gather(1, target[:, None]).mean()), abs=1e-3)
    assert fit_temperature(1e4 * logits, target) == pytest.approx(1e4 * found, rel=1e-4)
    assert calibration_error(p, target) < 0.2 * calibration_error(probabilities(logits), target)


def test_scores_without_an_optimum_become_certain_or_even():
    right, target = torch.eye(10).repeat(3, 1), torch.arange(10).repeat(3)
    certain = probabilities(right, fit_temperature(right, target))
    assert certain.max(1).values.min() > 1 - 1e-9
    even = probabilities(right, fit_temperature(right, (target + 1) % 10))
    assert (even - 0.1).abs().max() < 1e-4
    assert fit_temperature(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)) == 1
    with pytest.raises(DataError, match="no temperature"):
        fit_temperature(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int64))


def test_a_network_before_and_after(tmp_path):
    sets = [DigitsDataModule().dataset(part) for part in ("val", "test")]
    trained = Trained("intff", "dense", "mnist", 0, IntFFModule.from_pretrained("digits"), *sets)
    rows = calibration.measure(trained, "nowhere")
    values = {(row["what"], row["measure"]): row["value"] for row in rows}
    with torch.no_grad():
        score, validation = (trained.module(data.image).double() for data in (trained.test, trained.validation))
    grid = np.exp(np.linspace(-6, 6, 4001))
    losses = [torch.nn.functional.cross_entropy(validation / t, trained.validation.target) for t in grid]
    best = (score / grid[int(np.argmin(losses))]).softmax(1)
    assert values[BEFORE, "Brier score"] == pytest.approx(brier_score(score.softmax(1), trained.test.target))
    assert values[AFTER, "Brier score"] == pytest.approx(brier_score(best, trained.test.target), abs=1e-3)
    assert values[BEFORE, "ECE"] == pytest.approx(calibration_error(score.softmax(1), trained.test.target))
    assert values[AFTER, "ECE"] == pytest.approx(calibration_error(best, trained.test.target), abs=1e-3)
    drawn = [{"network": "dense", "dataset": "mnist", "algorithm": "intff", **row} for row in rows]
    draw_reliability(drawn, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 10_000
    assert {row["what"] for row in rows if calibration.shown(row)} == {BEFORE, AFTER}
