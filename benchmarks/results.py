"""Writing what was measured: JSON and Markdown, with the command, versions and machine that gave it."""

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.table import Table


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation, and extremes."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "min": min(values), "max": max(values)}


def write(name: str, out: Path, rows: list[dict[str, Any]], note: str = "") -> None:
    """Print rows as a table and write ``NAME.json`` and ``NAME.md``."""
    columns = list(rows[0])
    about = {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({**about, "note": note, "rows": rows}, indent=1) + "\n")
    cells = [[_text(row[column]) for column in columns] for row in rows]
    lines = [
        f"# {name}",
        "",
        f"`{about['command']}`, {about['date']}, {about['machine']}, torch {torch.__version__}.",
        "",
    ]
    lines += [note, ""] if note else []
    lines += ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")
    table = Table(*columns, title=name)
    for line in cells:
        table.add_row(*line)
    Console().print(table)
    print(f"written: {out / name}.json and .md")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
