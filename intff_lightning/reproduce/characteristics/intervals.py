"""Differences from backpropagation, paired by seed, with the 95 % intervals of Student's t distribution."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

LEVEL = 0.95
BASELINE = "bp"


class Interval(NamedTuple):
    """A mean difference and the ends of its interval, ``None`` if there is one pair only."""

    difference: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval does not contain zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    r"""Return the mean difference of pairs and its 95 % interval.

    .. math:: \bar d \pm t_{0.975,\,n-1} \, s_d / \sqrt n

    The differences d of the n pairs are taken to be normal; s is their standard deviation.

    Args:
        ours: One value per seed.
        theirs: The values of the other side for the same seeds.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, count = fmean(differences), len(differences)
    if count < 2:
        return Interval(mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * stdev(differences) / count**0.5
    return Interval(mean, mean - half, mean + half)


def compare(measured: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one row per network, data set, condition, measure and algorithm.

    Args:
        measured: What characteristics return, each with its ``network``, ``dataset``, ``algorithm``, ``seed`` and
            ``settings``.

    Returns:
        Rows with ``values`` by seed, ``mean``, ``std`` and, for all but backpropagation, ``difference``, ``low``,
        ``high`` and ``verdict``: ``ahead`` or ``behind`` backpropagation, or ``undecided`` if the interval contains
        zero or there is none. Shares that differ by the same amount in every seed are undecided, too: all seeds share
        the test images, and then one image may be the whole difference.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[int, dict[str, Any]]]] = {}
    for row in measured:
        place = tuple(row[name] for name in ("network", "dataset", "what", "measure"))
        groups.setdefault(place, {}).setdefault(row["algorithm"], {})[row["seed"]] = row
    return [_compared(own, theirs.get(BASELINE, {})) for theirs in groups.values() for own in theirs.values()]


def _compared(own: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    seeds = sorted(own)
    first = own[seeds[0]]
    values = [float(own[seed]["value"]) for seed in seeds]
    names = ("network", "dataset", "what", "measure", "better", "algorithm", "settings")
    row = {
        **{name: first[name] for name in names},
        "unit": first.get("unit", "share"),
        "seeds": len(seeds),
        "values": values,
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else 0.0,
    }
    if first["algorithm"] == BASELINE or not first["better"] or sorted(baseline) != seeds:
        return {**row, "difference": None, "low": None, "high": None, "verdict": ""}
    found = paired_interval(values, [float(baseline[seed]["value"]) for seed in seeds])
    ahead = (found.difference > 0) == (first["better"] == "higher")
    interval = {"difference": found.difference, "low": found.low, "high": found.high}
    decided = found.decided and (found.low != found.high or row["unit"] == "count")
    return {**row, **interval, "verdict": ("ahead" if ahead else "behind") if decided else "undecided"}
