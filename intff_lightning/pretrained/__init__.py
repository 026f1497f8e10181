"""Small trained networks that come with the package, found by name; ``manifest.json`` tells how each was made.

Each file is a checkpoint with the weights and the recipes of the network and its data, without the state of a training.
Weights are stored in float16, if this changes no class of the validation and test images.
"""

import difflib
import json
from pathlib import Path
from typing import Any

from intff_lightning.errors import ConfigurationError

FOLDER = Path(__file__).parent
"""Folder of the weights and their manifest."""
MANIFEST = "manifest.json"
"""Name of the manifest in that folder: a list with one entry for each network."""
PREFIX = "pretrained:"
"""Begins a ``--ckpt_path`` that is a name."""


def read_manifest(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the entries of the manifest, sorted by name."""
    path = folder / MANIFEST
    entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return entries


def find_weights(name: str) -> Path:
    """Return the checkpoint of a packaged network.

    Raises:
        ConfigurationError: There is none of this name.
    """
    names = [entry["name"] for entry in read_manifest()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise ConfigurationError(f"there is no pretrained network {name!r}.{guess} The names are: {', '.join(names)}.")
    return FOLDER / f"{name}.ckpt"
