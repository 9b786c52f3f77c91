"""Linear inverse problems with any denoiser: samples of what a measurement may have come from."""

from core.inverse.operator import Blur, Downsample, LinearOperator, Mask
from core.inverse.posterior import DPS, MeasurementPosterior, scalar_variance

__all__ = ["DPS", "Blur", "Downsample", "LinearOperator", "Mask", "MeasurementPosterior", "scalar_variance"]
