"""Exact integrals of polynomials along the probability-flow ODE: the coefficients of all higher-order samplers.

With lambda = log(alpha / sigma) and a step of h = lambda_t - lambda_s, variation of constants gives (2211.01095,
proposition 4.1; 2206.00927, proposition 3.1)

    data form    x_t = sigma_t / sigma_s x_s + alpha_t h int_0^1 exp(-(1 - u) h) x0(u) du
    noise form   x_t = alpha_t / alpha_s x_s - sigma_t h int_0^1 exp( (1 - u) h) eps(u) du

where u runs from 0 at s to 1 at t. A polynomial through known values of x0 (or eps) makes the integral a weighted sum.
Its moments are phi functions, ``int_0^1 exp((1 - u) z) u^k du = k! phi_{k+1}(z)``. All of it is float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def phi(order: int, z: float) -> float:
    """``phi_k(z) = sum_j z^j / (j + k)!`` for k >= 1: (e^z - 1) / z, (e^z - 1 - z) / z^2, ...

    The recurrence ``phi_{k+1} = (phi_k - 1 / k!) / z`` cancels near 0, where the series is used instead.
    """
    if abs(z) < 1:
        return math.fsum(z**j / math.factorial(j + order) for j in range(24))
    value = math.expm1(z) / z
    for k in range(1, order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def exponential_moments(z: float, count: int) -> list[float]:
    """``int_0^1 exp((1 - u) z) u^k du`` for k = 0 .. count - 1."""
    return [math.factorial(k) * phi(k + 1, z) for k in range(count)]


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weight of the value at each place, exact for every polynomial with as many coefficients as places.

    places: where the polynomial is known, in units of the step (0 is the present, negative is the past).
    moments: the integrals of 1, u, u^2, ... that the weights must reproduce.
    """
    powers = np.vander(np.array(nodes), increasing=True).T  # (power, place)
    solved: list[float] = np.linalg.solve(powers, np.array(moments[: len(nodes)])).tolist()
    return solved
