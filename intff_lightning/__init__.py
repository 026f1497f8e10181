"""Integrated Forward-Forward learning as PyTorch Lightning modules.

Two wings, data and network, meet only in the batch. Reading order:

- ``functional``: the paper's equations. ``errors``, ``files``, ``modes``, ``recipe`` and ``lightning_compat`` are small
  tools that everything uses. ``sequences``: token ids and padding.
- ``samples``: how data enters. ``pairs``: the batch. Data wing: ``draws``, ``negatives``, ``distortions``
  (negatives for anomaly detection), ``corruptions``, ``augmentations``, ``framing`` (pictures from elsewhere),
  ``datamodules``.
- Network wing: ``labels``, ``label_tokens``, ``local``, ``heads``, ``units``, ``resumption``, ``network``,
  ``voting``, ``views`` (of an image, in tests), ``pretext`` (classes without labels), ``features`` (for a linear
  probe), ``classifier`` (the trained network), ``optim``, ``averaging`` (over processes), ``stage`` (a network's part
  in a process), ``stepping``, ``passes``, ``pretrained`` (weights by name), ``module`` (the algorithm), ``backprop``
  (the baseline), ``targets``, ``temperature`` and ``regression`` (numbers instead of classes).
- Units in several processes: ``pipeline``.
- Around them: ``randomness``, ``checkpoints``, ``detection`` (of anomalies), ``reporting``, ``callbacks``, ``report``
  (of a run), ``cli``, ``configs``, ``reproduce`` (the paper's tables).
"""

import functools
import importlib
import importlib.util
import sys
import warnings
from typing import TYPE_CHECKING, Any

if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    warnings.warn(
        "intff_lightning builds on `lightning`, and a Trainer of `pytorch_lightning` does not accept its modules: "
        "write `import lightning.pytorch as pl` instead of `import pytorch_lightning as pl`.",
        stacklevel=2,
    )

from intff_lightning._version import __version__

if TYPE_CHECKING:
    from intff_lightning.backprop import BackpropModule
    from intff_lightning.heads import LinearHead, PatchGoodness
    from intff_lightning.label_tokens import LabelPrefix
    from intff_lightning.labels import (
        FourierPattern,
        LabelColumns,
        LabelEmbedding,
        LabelOverlay,
        LabelPlanes,
        LabelToken,
        NoLabel,
    )
    from intff_lightning.module import IntFFModule
    from intff_lightning.negatives import (
        GaussianNoise,
        HardLabels,
        HybridImages,
        Perturbed,
        Rotated,
        ShiftedTargets,
        ShuffledLabels,
        WrongLabels,
    )
    from intff_lightning.pairs import PairedBatch
    from intff_lightning.pipeline import UnitPipelineStrategy
    from intff_lightning.regression import BackpropRegression, RegressionModule
    from intff_lightning.targets import TargetFeatures
    from intff_lightning.units import (
        AttentionUnit,
        ConvUnit,
        DenseUnit,
        EmbeddingUnit,
        HiddenUnit,
        RecurrentUnit,
        SequenceUnit,
        TorchvisionUnit,
        split,
    )

__all__ = [
    "AttentionUnit",
    "BackpropModule",
    "BackpropRegression",
    "ConvUnit",
    "DenseUnit",
    "EmbeddingUnit",
    "FourierPattern",
    "GaussianNoise",
    "HardLabels",
    "HiddenUnit",
    "HybridImages",
    "IntFFModule",
    "LabelColumns",
    "LabelEmbedding",
    "LabelOverlay",
    "LabelPlanes",
    "LabelPrefix",
    "LabelToken",
    "LinearHead",
    "NoLabel",
    "PairedBatch",
    "PatchGoodness",
    "Perturbed",
    "RecurrentUnit",
    "RegressionModule",
    "Rotated",
    "SequenceUnit",
    "ShiftedTargets",
    "ShuffledLabels",
    "TargetFeatures",
    "TorchvisionUnit",
    "UnitPipelineStrategy",
    "WrongLabels",
    "__version__",
    "split",
]

if not TYPE_CHECKING:  # or every other name would pass for one of the package

    def __getattr__(name: str) -> Any:
        """Import a name when it is asked for: torch and Lightning take seconds, which help and versions do not need."""
        if name in __all__:
            places = (
                "units",
                "labels",
                "label_tokens",
                "negatives",
                "heads",
                "pairs",
                "module",
                "backprop",
                "pipeline",
            )
            for place in (*places, "targets", "regression"):
                found = vars(importlib.import_module(f"{__name__}.{place}"))
                if name in found:
                    globals()[name] = found[name]
                    return found[name]
        if not name.startswith("_") and _is_module(name):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    @functools.cache  # the command line asks for many names hundreds of times
    def _is_module(name: str) -> bool:
        return importlib.util.find_spec(f"{__name__}.{name}") is not None

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
