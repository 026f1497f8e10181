"""Settings that won their studies, by which our procedures train: see :mod:`intff_lightning.reproduce.tuning`.

``python -m intff_lightning.reproduce tune STUDY --out results`` prints what to enter here. A test compares the entries
with ``results/tuning/STUDY.json``, and the packaged configs of convolutional networks with the entries.
"""

from typing import Any

WINNERS: dict[tuple[str, str], dict[str, Any]] = {}
"""By study and algorithm: ``{"settings": ..., "vote": ...}``."""
