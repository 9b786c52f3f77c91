"""Editing with any denoiser: from an image, around a mask, back to the noise, and through a measurement."""

from core.edit.image import begin, image_to_image, strengthened
from core.edit.inpaint import Inpainted, inpaint, masked_condition, repaint
from core.edit.invert import invert, invert_exactly
from core.edit.measure import DPS, Posterior, scalar_variance
from core.edit.operator import Blur, Downsample, Linear, Mask
from core.edit.parts import Part, in_parts, ramp

__all__ = [
    "DPS",
    "Blur",
    "Downsample",
    "Inpainted",
    "Linear",
    "Mask",
    "Part",
    "Posterior",
    "begin",
    "image_to_image",
    "in_parts",
    "inpaint",
    "invert",
    "invert_exactly",
    "masked_condition",
    "ramp",
    "repaint",
    "scalar_variance",
    "strengthened",
]
