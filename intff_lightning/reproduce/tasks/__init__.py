"""Tasks beyond the paper's: ``python -m intff_lightning.reproduce tasks``."""
