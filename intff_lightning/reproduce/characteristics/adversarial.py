"""Adversarial examples within a distance eps in each pixel: FGSM, PGD, and the parts of AutoAttack.

The gradient goes through the scores of all voting units: nothing stands between the units in a trained network, as it
does in training. Scores are divided by the temperature of calibration. This changes no prediction, and keeps the
cross-entropy of large scores from being flat, which would hide the gradient. AutoAttack's parts are those of its
authors' own code (Croce and Hein 2020).

Hidden gradients would make a network look robust. The signs of that (Carlini et al. 2019) are measured: a black-box
attack that succeeds where gradients fail, more steps that do less, and a large eps that leaves accuracy.
"""

import copy
import functools
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn.functional import cross_entropy

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import float_pixels
from intff_lightning.reproduce.characteristics.intervals import BASELINE
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import scores
from intff_lightning.reproduce.characteristics.report import ALGORITHM_NAMES, PLACE_NAMES
from intff_lightning.temperature import fit_temperature

Score = Callable[[Tensor], Tensor]
"""Returns scores ``(B, C)`` of images ``(B, *)`` in [0, 1], with a gradient."""
Attack = Callable[[Score, Tensor, Tensor, float], Tensor]
"""Takes scores, images ``(B, *)``, targets ``(B,)`` and eps; returns images within eps and [0, 1]."""

ALL = "all attacks"
BLACK_BOX = "Square"
CLEAN = "no attack"
TOLERANCE = 0.02
"""Share of the images above which a check of :data:`MASKING` fails."""
MASKING = ("broken by the black box alone", "accuracy regained by more steps", "accuracy left at eps 1")
"""Measures that are zero, or nearly so, if gradients are not hidden."""


@dataclass(frozen=True)
class Budget:
    """How many images are attacked, and how hard.

    Args:
        images: The first test images.
        eps: Largest change of a pixel, in [0, 1].
        steps: Steps of APGD and FAB; 100 in AutoAttack.
        targets: Wrong classes that APGD-T and FAB-T aim at, the likeliest first; 9 in AutoAttack.
        queries: Queries of the Square attack; 5,000 in AutoAttack.
        more_steps: Steps of the PGD that is compared with that of 20 steps, at the smallest eps.
    """

    images: int = 200
    eps: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    more_steps: int = 100


BUDGETS = {"dense": Budget(), "conv": Budget(images=50, steps=50, targets=3, queries=1000)}
"""By network: a convolutional network that reads labels takes seconds for one step."""
_SILENT = logging.getLogger(__name__)  # APGD reports gradients that are zero, which the checks measure
_SILENT.addHandler(logging.NullHandler())
_QUICK = Budget(images=20, eps=(0.1,), steps=5, targets=2, queries=20, more_steps=30)


def check_library() -> None:
    """Refuse to go on if the library of AutoAttack's parts is not installed."""
    if importlib.util.find_spec("pyautoattack") is None:
        raise ConfigurationError('adversarial examples need AutoAttack: pip install "intff-lightning[attacks]".')


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the accuracy on the first test images under each attack, and under all of them together."""
    budget = _QUICK if quick else BUDGETS[trained.network]
    temperature = fit_temperature(scores(trained.module, trained.validation), trained.validation.target)
    device = trained.module.device
    module = copy.deepcopy(trained.module).requires_grad_(False)  # an attack would add to the gradients of weights
    image = float_pixels(trained.test.image[: budget.images]).to(device)
    target = trained.test.target[: budget.images].to(device)
    return attacked(lambda x: module(x) / temperature, image, target, budget, trained.seed)


def attacked(score: Score, image: Tensor, target: Tensor, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Attack images ``(B, *)`` in [0, 1] with targets ``(B,)``, and return rows as :func:`measure` does.

    Raises:
        ConfigurationError: The library of AutoAttack's parts is not installed.
    """
    clean = still_right(score, image, target)
    rows = [_row(CLEAN, "accuracy", clean, "higher")]
    for eps in budget.eps:
        right = {
            name: clean & still_right(score, attack(score, image, target, eps), target)
            for name, attack in attacks(budget, seed).items()
        }
        rows += [_row(f"{name}, eps {eps:g}", "accuracy", each, "higher") for name, each in right.items()]
        white = torch.stack([each for name, each in right.items() if name != BLACK_BOX]).all(0)
        rows.append(_row(f"{ALL}, eps {eps:g}", "accuracy", white & right[BLACK_BOX], "higher"))
        rows.append(_row(f"check, eps {eps:g}", MASKING[0], white & ~right[BLACK_BOX], "lower"))
        if eps == budget.eps[0]:
            adversarial = pgd(score, image, target, eps, budget.more_steps, seed)
            more = clean & still_right(score, adversarial, target)
            regained = float(more.double().mean() - right["PGD-20"].double().mean())
            name = f"check, PGD-{budget.more_steps}, eps {eps:g}"
            rows.append({"what": name, "measure": MASKING[1], "value": max(0.0, regained), "better": "lower"})
    left = clean.clone()
    for name in ("PGD-20", "APGD-CE", "APGD-T"):  # each attacks what the earlier ones have left
        some = left.nonzero().squeeze(1)
        if len(some):
            found = attacks(budget, seed)[name](score, image[some], target[some], 1.0)
            left[some] = still_right(score, found, target[some])
    rows.append(_row("check, eps 1", MASKING[2], left, "lower"))
    return rows


def shown(row: dict[str, Any]) -> bool:
    """Tell whether a row is the accuracy under all attacks, or without one; the others are in the table alone."""
    return str(row["what"]).startswith((ALL, CLEAN))


def withhold(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Put claims in doubt that hidden gradients may have made: that a network for which a check fails is robust.

    Args:
        rows: Rows of :func:`~intff_lightning.reproduce.characteristics.intervals.compare`; verdicts are changed.

    Returns:
        One sentence for each network with checks above :data:`TOLERANCE`; see ``Characteristic.withhold``.
    """
    failed: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["measure"] in MASKING and row["mean"] > TOLERANCE:
            check = f"{row['what'].removeprefix('check, ')}, {row['measure']}: {100 * row['mean']:.1f} %"
            failed.setdefault((row["network"], row["dataset"], row["algorithm"]), []).append(check)
    for row in rows:
        robust = row["algorithm"] if row["verdict"] == "ahead" else BASELINE
        attack = row["measure"] == "accuracy" and row["what"] != CLEAN
        if row["verdict"] in ("ahead", "behind") and attack and (row["network"], row["dataset"], robust) in failed:
            row["verdict"] = "in doubt"
    return [
        {
            "of": f"{network} {dataset}",
            "line": f"- Gradients of {ALGORITHM_NAMES[algorithm]} may be hidden ({PLACE_NAMES[network]}, "
            f"{PLACE_NAMES[dataset]}): {'; '.join(checks)}.",
        }
        for (network, dataset, algorithm), checks in failed.items()
    ]


def _row(what: str, measure: str, right: Tensor, better: str) -> dict[str, Any]:
    return {"what": what, "measure": measure, "value": float(right.double().mean()), "better": better}


@torch.no_grad()
def still_right(score: Score, image: Tensor, target: Tensor) -> Tensor:
    """Tell which images ``(B, *)`` are classified as their targets, bool ``(B,)``."""
    return score(image).argmax(1) == target


# -------------------------------------------------------------------- attacks


def attacks(budget: Budget, seed: int) -> dict[str, Attack]:
    """Return all attacks by name; all but the Square attack use gradients."""
    return {
        "FGSM": fgsm,
        "PGD-20": functools.partial(pgd, steps=20, seed=seed),
        **{
            name: functools.partial(_of_autoattack, name=name, budget=budget, seed=seed)
            for name in ("APGD-CE", "APGD-T", "FAB-T", BLACK_BOX)
        },
    }


def fgsm(score: Score, image: Tensor, target: Tensor, eps: float) -> Tensor:
    r"""Return the images after one step of size eps (Goodfellow et al. 2015).

    .. math:: x' = x + \epsilon \operatorname{sign} \nabla_x L(x, y)

    L is the cross-entropy.
    """
    return (image + eps * _gradient(score, image, target)[0].sign()).clamp(0, 1)


def pgd(score: Score, image: Tensor, target: Tensor, eps: float, steps: int = 20, seed: int = 0) -> Tensor:
    r"""Return the images after projected gradient steps from a random start (Madry et al. 2018).

    .. math:: x_{t+1} = \Pi_{x, \epsilon} (x_t + \alpha \operatorname{sign} \nabla_{x_t} L(x_t, y)), \qquad \alpha = 2.5
        \, \epsilon / \text{steps}

    An image stays as it is once it is misclassified. The start depends on (seed, place in the batch).
    """
    draws = Draws(seed, 0, torch.arange(len(image), device=image.device))
    start = image + eps * (2 * draws.uniform(*image.shape[1:]) - 1)
    found = start.clamp(0, 1)
    for _ in range(steps):
        gradient, right = _gradient(score, found, target)
        moved = found + 2.5 * eps / steps * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, image - eps), image + eps).clamp(0, 1)
        found = torch.where(right.view(-1, *[1] * (image.ndim - 1)), moved, found)
    return found


def _gradient(score: Score, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of each image's cross-entropy, ``(B, *)``, and which images are right, bool ``(B,)``."""
    with torch.enable_grad():
        x = image.detach().requires_grad_()
        found = score(x)
        (gradient,) = torch.autograd.grad(cross_entropy(found, target, reduction="sum"), x)
    return gradient, found.argmax(1) == target


def _of_autoattack(
    score: Score, image: Tensor, target: Tensor, eps: float, *, name: str, budget: Budget, seed: int
) -> Tensor:
    """Return the images after one of AutoAttack's parts; those that it cannot break within eps stay as they are."""
    check_library()
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    def single(x: Tensor) -> Tensor:
        return score(x).float()  # it computes in single precision

    options: dict[str, Any] = {"norm": "Linf", "eps": eps, "seed": seed, "device": image.device}
    steps = {"n_iter": budget.steps, "logger": _SILENT}
    targets = min(budget.targets, score(image[:1]).shape[1] - 1)
    if name == "APGD-CE":
        attack = APGDAttack(single, loss="ce", **options, **steps)
    elif name == "APGD-T":
        attack = APGDAttack_targeted(single, n_target_classes=targets, **options, **steps)
    elif name == "FAB-T":
        attack = FABAttack_PT(single, targeted=True, n_iter=budget.steps, n_target_classes=targets, **options)
    else:
        attack = SquareAttack(single, n_queries=budget.queries, p_init=0.8, resc_schedule=False, **options)
    with isolate_rng():  # it seeds the global generators
        found: Tensor = attack.perturb(image.clone(), target)
    found = torch.minimum(torch.maximum(found.detach(), image - eps), image + eps)  # rounding may pass the border
    return found.clamp(0, 1)
