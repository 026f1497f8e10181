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
    ("dense_mixture", "intff"): {
        "settings": {
            "learning_rate": 0.0044924053048605445,
            "weight_decay": 0.10083005033210156,
            "batch_size": 128,
            "warmup": 0.07600535839832741,
            "activation": "GELU",
            "normalization": "rms",
            "augmentation": "shift 1",
            "wrong_labels": 9,
            "threshold_weight": 0.054141601617294845,
            "collaboration": 0.5803258907206323,
            "temperature": 0.5489525264628295,
        },
        "vote": [0],
    },
    ("dense_mixture", "channels"): {
        "settings": {
            "learning_rate": 0.005450021719319077,
            "weight_decay": 0.00914488252846685,
            "batch_size": 128,
            "warmup": 0.053753149397617175,
            "activation": "GELU",
            "normalization": "norm 20",
            "augmentation": "shift 1",
            "goodness": "head",
            "threshold_weight": 0.1578621559003942,
            "collaboration": 0.20244208702450306,
            "temperature": 1.5238720256416338,
        },
        "vote": [0],
    },
    ("dense_mixture", "ff"): {
        "settings": {
            "learning_rate": 0.0044729062194744365,
            "weight_decay": 0.012928744540002757,
            "batch_size": 64,
            "warmup": 0.07767055647133407,
            "activation": "GELU",
            "normalization": "norm 20",
            "augmentation": "shift 1",
            "wrong_labels": 9,
            "threshold_weight": 0.12139980778461894,
            "collaboration": 0.548978122806719,
            "temperature": 0.2889177666514942,
        },
        "vote": [0],
    },
    ("dense_mixture", "bp"): {
        "settings": {
            "learning_rate": 0.002623017987982042,
            "weight_decay": 0.10738462155610823,
            "batch_size": 128,
            "warmup": 0.04247495324962738,
            "activation": "GELU",
            "normalization": "norm 20",
            "augmentation": "shift 1",
            "label_smoothing": 0.06310500834869126,
        },
        "vote": None,
    },
}
"""By study and algorithm: ``{"settings": ..., "vote": ...}``."""
