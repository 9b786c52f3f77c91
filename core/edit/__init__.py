"""Editing with any denoiser: from an image, around a mask, back to the noise, and in parts."""

from core.edit.image import image_to_image, noise_to_level, partial_grid
from core.edit.inpaint import Inpainted, inpaint, masked_condition, repaint
from core.edit.invert import invert, invert_exactly
from core.edit.parts import Part, in_parts, ramp

__all__ = [
    "Inpainted",
    "Part",
    "image_to_image",
    "in_parts",
    "inpaint",
    "invert",
    "invert_exactly",
    "masked_condition",
    "noise_to_level",
    "partial_grid",
    "ramp",
    "repaint",
]
