"""Corruptions of images and labels: of a training set (Tang 2023, section 5.1), and of test data (MNIST-C).

Which samples a corruption changes, and how, depends on (seed, sample) alone: not on the epoch, and never on the batch.
``corruption`` of a datamodule changes training data only, so that validation and test data stay clean, as in the paper.
``test_corruption`` changes the images of tests and predictions only.
"""

from intff_lightning.corruptions.base import Corruption, check_keeps_labels
from intff_lightning.corruptions.drawing import DottedLine, Stripe, Zigzag
from intff_lightning.corruptions.edges import CannyEdges
from intff_lightning.corruptions.geometry import Rotate, Scale, Shear, Translate
from intff_lightning.corruptions.images import SEVERITIES, ImageCorruption
from intff_lightning.corruptions.kinds import MNIST_C
from intff_lightning.corruptions.noise import GlassBlur, ImpulseNoise, MotionBlur, ShotNoise
from intff_lightning.corruptions.training import GaussianPixels, LabelNoise, NoiseImages, PaperMixture, UnloadedRows
from intff_lightning.corruptions.weather import Brightness, Fog, Spatter

__all__ = [
    "MNIST_C",
    "SEVERITIES",
    "Brightness",
    "CannyEdges",
    "Corruption",
    "DottedLine",
    "Fog",
    "GaussianPixels",
    "GlassBlur",
    "ImageCorruption",
    "ImpulseNoise",
    "LabelNoise",
    "MotionBlur",
    "NoiseImages",
    "PaperMixture",
    "Rotate",
    "Scale",
    "Shear",
    "ShotNoise",
    "Spatter",
    "Stripe",
    "Translate",
    "UnloadedRows",
    "Zigzag",
    "check_keeps_labels",
]
