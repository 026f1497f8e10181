"""The temperature that turns scores, which have no common scale, into probabilities."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from intff_lightning.errors import DataError

_RANGE = 12.0  # of the logarithm of the temperature over the scores' standard deviation


def fit_temperature(scores: Tensor, target: Tensor) -> float:
    r"""Return the temperature T with which a softmax predicts targets best (Guo et al. 2017, section 4.2).

    .. math:: \min_T \; -\operatorname{mean} \log \operatorname{softmax}(s / T)_\text{target}

    There is one minimum in the logarithm of T, because the loss is convex in 1/T. If all scores are right, a lower
    temperature is never worse, and if they are worse than none, a higher one. The search ends at e^12 times the scores'
    standard deviation, in either direction: probabilities are 0 and 1 there, or all equal.

    Args:
        scores: ``(N, C)``, on any device.
        target: ``(N,)`` int64.

    Returns:
        T; 1 if the scores of every sample are all equal, because then no temperature is better than another.

    Raises:
        DataError: Scores are not finite.
    """
    from scipy.optimize import minimize_scalar  # takes a while, which other runs need not pay

    scores, target = scores.detach().cpu().double(), target.cpu()
    scale = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt())
    if not math.isfinite(scale):
        raise DataError("scores that are not finite have no temperature.")
    if scale == 0:
        return 1.0

    def loss(logarithm: float) -> float:
        return float(cross_entropy(scores / math.exp(logarithm), target))

    middle = math.log(scale)
    found = minimize_scalar(loss, bounds=(middle - _RANGE, middle + _RANGE), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))
