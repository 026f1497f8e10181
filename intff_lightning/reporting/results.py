"""Writing down what was measured: JSON and Markdown, with the versions and the machine behind it."""

import datetime
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import lightning
import torch

from intff_lightning._version import __version__
from intff_lightning.files import atomic_write


def about() -> dict[str, Any]:
    """Return versions, machine and date."""
    return {
        "versions": {
            "intff_lightning": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"),
            "lightning": lightning.__version__,
        },
        "machine": platform.machine(),
        "date": datetime.date.today().isoformat(),
    }


def write_results(name: str, out: Path, values: Any, text: str) -> list[Path]:
    """Write ``NAME.json`` and ``NAME.md``, each whole or not at all, and return their paths."""
    paths = [out / f"{name}.json", out / f"{name}.md"]
    for path, content in zip(paths, (json.dumps(values, indent=1) + "\n", text), strict=True):
        with atomic_write(path) as partial:
            partial.write_text(content)
    return paths
