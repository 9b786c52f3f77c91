"""Likelihood: encoding data into noise and back, log p(x) with an error bar, and bits per dimension."""

from core.likelihood.bits import Bits, Dequantisation, bits_per_dim, no_dequantisation, uniform_dequantisation
from core.likelihood.density import Likelihood, Prior, Trace, exact_trace, hutchinson, log_prob, noised_data, normal
from core.likelihood.path import decode, encode

__all__ = [
    "Bits",
    "Dequantisation",
    "Likelihood",
    "Prior",
    "Trace",
    "bits_per_dim",
    "decode",
    "encode",
    "exact_trace",
    "hutchinson",
    "log_prob",
    "no_dequantisation",
    "noised_data",
    "normal",
    "uniform_dequantisation",
]
