"""Settings that won their studies, by which our procedures train: see :mod:`intff_lightning.reproduce.tuning`.

``python -m intff_lightning.reproduce tune STUDY --out results`` prints what to enter here. A test compares the entries
with ``results/tuning/STUDY.json``, and the packaged configs of convolutional networks with the entries.
"""

from typing import Any

WINNERS: dict[tuple[str, str], dict[str, Any]] = {
    ("dense_clean", "intff"): {
        "settings": {
            "learning_rate": 0.006633370529576635,
            "weight_decay": 0.11276880609136623,
            "batch_size": 256,
            "warmup": 0.11315660930746435,
            "activation": "GELU",
            "normalization": "layer",
            "augmentation": "shift 1",
            "wrong_labels": 9,
            "threshold_weight": 0.3481318802546499,
            "collaboration": 0.5419695373645803,
            "temperature": 0.51911055261251,
        },
        "vote": [0],
    },
    ("dense_clean", "channels"): {
        "settings": {
            "learning_rate": 0.003,
            "weight_decay": 0.05,
            "batch_size": 128,
            "warmup": 0.05,
            "activation": "GELU",
            "normalization": "norm 20",
            "augmentation": "shift 1",
            "goodness": "channels",
            "threshold_weight": 0.1,
            "collaboration": 0.0,
            "temperature": 1.0,
        },
        "vote": [0],
    },
    ("dense_clean", "ff"): {
        "settings": {
            "learning_rate": 0.0036702868750299643,
            "weight_decay": 0.22932382198348952,
            "batch_size": 64,
            "warmup": 0.09428180234599871,
            "activation": "ReLU",
            "normalization": "rms",
            "augmentation": "shift 1",
            "wrong_labels": 9,
            "threshold_weight": 0.10271542569065051,
            "collaboration": 0.43572796627829596,
            "temperature": 0.13140912797684481,
        },
        "vote": [0],
    },
    ("dense_clean", "bp"): {
        "settings": {
            "learning_rate": 0.0018057244502902873,
            "weight_decay": 0.17256005291216733,
            "batch_size": 128,
            "warmup": 0.08380645004821202,
            "activation": "GELU",
            "normalization": "norm 20",
            "augmentation": "shift 1",
            "label_smoothing": 0.1335422936837424,
        },
        "vote": None,
    },
}
"""By study and algorithm: ``{"settings": ..., "vote": ...}``."""
