"""The kinds of MNIST-C by name."""

from intff_lightning.corruptions.drawing import DottedLine, Stripe, Zigzag
from intff_lightning.corruptions.edges import CannyEdges
from intff_lightning.corruptions.geometry import Rotate, Scale, Shear, Translate
from intff_lightning.corruptions.images import ImageCorruption
from intff_lightning.corruptions.noise import GlassBlur, ImpulseNoise, MotionBlur, ShotNoise
from intff_lightning.corruptions.weather import Brightness, Fog, Spatter

MNIST_C: dict[str, type[ImageCorruption]] = {
    "shot_noise": ShotNoise,
    "impulse_noise": ImpulseNoise,
    "glass_blur": GlassBlur,
    "motion_blur": MotionBlur,
    "shear": Shear,
    "scale": Scale,
    "rotate": Rotate,
    "brightness": Brightness,
    "translate": Translate,
    "stripe": Stripe,
    "fog": Fog,
    "spatter": Spatter,
    "dotted_line": DottedLine,
    "zigzag": Zigzag,
    "canny_edges": CannyEdges,
}
"""The 15 kinds, by the names that the MNIST-C data set gives them."""
