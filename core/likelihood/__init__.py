"""Likelihood: encoding data into noise and back, log p(x) with an error bar, and bits per dimension."""

from core.likelihood.bits import (
    Bits,
    Dequantisation,
    bits_per_dim,
    fitted_dequantisation,
    no_dequantisation,
    uniform_dequantisation,
)
from core.likelihood.density import EXACT, Likelihood, clean_data, cleanest_time, log_prob
from core.likelihood.path import decode, encode
from core.likelihood.prior import Prior, noised_data, normal
from core.likelihood.trace import ExactTrace, Hutchinson, Trace

__all__ = [
    "EXACT",
    "Bits",
    "Dequantisation",
    "ExactTrace",
    "Hutchinson",
    "Likelihood",
    "Prior",
    "Trace",
    "bits_per_dim",
    "clean_data",
    "cleanest_time",
    "decode",
    "encode",
    "fitted_dequantisation",
    "log_prob",
    "no_dequantisation",
    "noised_data",
    "normal",
    "uniform_dequantisation",
]
