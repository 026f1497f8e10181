"""Characteristics as tables and as sentences, which claim no difference whose interval contains zero."""

from collections.abc import Sequence
from typing import Any

from intff_lightning.reporting.tables import markdown_table
from intff_lightning.reproduce.options import QUICK_NOTE

ALGORITHM_NAMES = {"intff": "IntFF", "channels": "IntFF by class", "ff": "FF", "bp": "BP"}
PLACE_NAMES = {
    "dense": "dense network",
    "conv": "convolutional network",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}
VERDICTS = ("ahead", "behind", "undecided", "in doubt")
_NOTE = (
    "Difference: from backpropagation (BP) of the same network with the same seed, mean over the seeds, with its 95 % "
    "interval (low to high) by Student's t. Shares are in percent, their differences in points. Ahead and behind: the "
    "interval does not contain zero, and the difference is not the same in every seed, which may be a single image. "
    "Better: whether higher or lower values count as ahead; without it, nothing is compared."
)


def markdown(title: str, found: dict[str, Any]) -> str:
    """Return the table of a characteristic, or of the differences of all of them, for a file."""
    rows: list[dict[str, Any]] = found["rows"]
    several = "characteristic" in rows[0]
    header = [
        *(["characteristic"] if several else []),
        "network",
        "data",
        "condition",
        "measure",
        "better",
        "algorithm",
    ]
    header += ["settings", "mean", "std", "difference", "low", "high", "verdict", "seeds"]
    lines = [
        [
            *([row["characteristic"].replace("_", " ")] if several else []),
            row["network"],
            PLACE_NAMES[row["dataset"]],
            row["what"],
            row["measure"],
            row["better"],
            ALGORITHM_NAMES[row["algorithm"]],
            row["settings"],
            *(number(row[name], row["unit"]) for name in ("mean", "std")),
            *("" if row[name] is None else number(row[name], row["unit"]) for name in ("difference", "low", "high")),
            row["verdict"],
            str(row["seeds"]),
        ]
        for row in rows
    ]
    commands = ", ".join(f"`{line}`" for line in dict.fromkeys(found.get("commands", {0: found["command"]}).values()))
    made = f"{commands}: torch {found['versions']['torch']}, {found['date']}."
    note = QUICK_NOTE if found["quick"] else _NOTE
    return "\n".join([f"# {title}", "", made, "", note, "", markdown_table(header, lines)])


def number(value: float, unit: str) -> str:
    """Return a share in percent, or a count."""
    return f"{value:,.0f}" if unit == "count" else f"{100 * value:.2f}"


def sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say in lines of Markdown where algorithms are ahead of backpropagation, and where behind.

    Args:
        rows: Rows of :func:`~intff_lightning.reproduce.characteristics.intervals.compare`.
    """
    compared = [row for row in rows if row["low"] is not None]
    if not compared:
        return ["One seed gives no interval, so nothing is said about who is ahead."]
    lines = []
    for algorithm, name in ALGORITHM_NAMES.items():
        mine = [row for row in compared if row["algorithm"] == algorithm]
        if not mine:
            continue
        count = {verdict: sum(row["verdict"] == verdict for row in mine) for verdict in VERDICTS}
        lines.append(
            f"- **{name}** is ahead of backpropagation in {count['ahead']} of {len(mine)} comparisons, and behind in "
            f"{count['behind']}; {count['undecided']} are undecided"
            + (f", and {count['in doubt']} in doubt." if count["in doubt"] else ".")
        )
        lines += [
            f"    - {verdict}: {_claim(row)}"
            for verdict in ("ahead", "behind")
            for row in mine
            if row["verdict"] == verdict
        ]
    return lines


def _claim(row: dict[str, Any]) -> str:
    """Return one difference in words, with its interval."""
    place = f"{PLACE_NAMES[row['network']]}, {PLACE_NAMES[row['dataset']]}, {row['what']}, {row['measure']}"
    baseline = row["mean"] - row["difference"]
    values = [number(value, row["unit"]) for value in (row["mean"], baseline)]
    ends = " to ".join(("+" if row[end] > 0 else "") + number(row[end], row["unit"]) for end in ("low", "high"))
    kind = " %" if row["unit"] == "share" else ""
    untuned = ", untuned" if row["settings"].startswith("start") else ""
    return f"{place}: {values[0]}{kind} against {values[1]}{kind} (difference {ends}{untuned})"


def overview(rows: Sequence[dict[str, Any]]) -> str:
    """Say how many differences of shares have an interval without zero, and how many would have one by chance."""
    compared = [row for row in rows if row["verdict"] and row["unit"] == "share"]
    decided = sum(row["verdict"] in ("ahead", "behind") for row in compared)
    return (
        f"Of {len(compared)} differences from backpropagation, {decided} are decided. About "
        f"{round(len(compared) / 20)} would be by chance if there were no difference at all."
    )
