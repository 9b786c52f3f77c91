"""Editing with any denoiser: from an image, around a mask, back to the noise, and through a measurement."""

from core.edit.image import begin, image_to_image, strengthened
from core.edit.inpaint import Inpainted, inpaint, masked_condition, repaint
from core.edit.invert import invert, invert_exactly
from core.edit.measure import DPS, Posterior, scalar_variance
from core.edit.operator import Blur, Downsample, Linear, Mask

__all__ = [
    "DPS",
    "Blur",
    "Downsample",
    "Inpainted",
    "Linear",
    "Mask",
    "Posterior",
    "begin",
    "image_to_image",
    "inpaint",
    "invert",
    "invert_exactly",
    "masked_condition",
    "repaint",
    "scalar_variance",
    "strengthened",
]
