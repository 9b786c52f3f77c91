"""The deterministic samplers and what is claimed of each; ``core.verify.orders`` measures it."""

from __future__ import annotations

from functools import partial

from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.sample.heun import dpm2, heun
from core.sample.info import SamplerInfo
from core.sample.solvers.adams import deis, lms
from core.sample.solvers.dpm import dpmpp_2s, dpmpp_3m, dpmpp_3s
from core.sample.solvers.exponential import exponential_multistep, third_order
from core.sample.solvers.plms import plms, pndm
from core.sample.solvers.rungekutta import adaptive, at_tolerance, rk4
from core.sample.solvers.unipc import bh1, unipc

DETERMINISTIC: dict[str, SamplerInfo] = {
    "euler": SamplerInfo(euler, order=1, evaluations=1),
    "heun": SamplerInfo(heun, order=2, evaluations=2),
    "dpm2": SamplerInfo(dpm2, order=2, evaluations=2),
    "plms": SamplerInfo(plms, order=2, evaluations=1, start=1),
    "pndm": SamplerInfo(pndm, order=2, evaluations=1, start=9),
    "lms": SamplerInfo(lms, order=4, evaluations=1, start=4),
    "deis_2": SamplerInfo(partial(deis, order=2), order=2, evaluations=1),
    "deis": SamplerInfo(deis, order=3, evaluations=1, start=1),
    "dpmpp_2s": SamplerInfo(dpmpp_2s, order=2, evaluations=2),
    "dpmpp_3s": SamplerInfo(dpmpp_3s, order=3, evaluations=3),
    "dpmpp_2m": SamplerInfo(dpmpp_2m, order=2, evaluations=1),
    "dpmpp_3m": SamplerInfo(dpmpp_3m, order=2, evaluations=1),
    "dpmpp_3m_exact": SamplerInfo(exponential_multistep, order=3, evaluations=1, start=1),
    "res_2m": SamplerInfo(partial(exponential_multistep, order=2), order=2, evaluations=1),
    "res_3m": SamplerInfo(exponential_multistep, order=3, evaluations=1, start=1),
    "res_4m": SamplerInfo(partial(exponential_multistep, order=4, start=third_order), order=4, evaluations=1, start=4),
    "unip": SamplerInfo(partial(unipc, correct=False), order=2, evaluations=1),
    "unipc": SamplerInfo(unipc, order=3, evaluations=1),
    "unipc_bh1": SamplerInfo(partial(unipc, size=bh1), order=3, evaluations=1),
    "unipc_3": SamplerInfo(partial(unipc, order=3), order=4, evaluations=1, start=2),
    "unipc_3_bh1": SamplerInfo(partial(unipc, order=3, size=bh1), order=4, evaluations=1, start=2),
    "rk4": SamplerInfo(rk4, order=4, evaluations=4),
    "adaptive": SamplerInfo(adaptive, order=5, evaluations=6, at_tolerance=at_tolerance),
}
