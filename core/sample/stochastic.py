"""The stochastic samplers and what is claimed of each; ``core.verify.weak_orders`` measures it.

The order is weak: at which power of the number of steps the mean and covariance of the samples approach the data's.
Order 0 is claimed of the two that do not approach them: the Langevin corrector has the bias of its normalised step, and
consistency sampling forgets everything but the last estimate. EDM's published noise inflation of 1.003 would be a bias
too; here it is 1.
"""

from __future__ import annotations

from functools import partial

from core.sample.ancestral import euler_ancestral
from core.sample.ddim import ddim
from core.sample.ddpm import ddpm, large
from core.sample.info import SamplerInfo
from core.sample.solvers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral
from core.sample.solvers.consistency import consistency
from core.sample.solvers.edm import edm
from core.sample.solvers.er_sde import er_sde
from core.sample.solvers.predictor_corrector import euler_maruyama, predictor_corrector, reverse_diffusion
from core.sample.solvers.restart import restart
from core.sample.solvers.sa_solver import sa_solver
from core.sample.solvers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde

STOCHASTIC: dict[str, SamplerInfo] = {
    "ddpm": SamplerInfo(ddpm, order=1, evaluations=1, stochastic=True),
    "ddpm_large": SamplerInfo(partial(ddpm, deviation=large), order=1, evaluations=1, stochastic=True),
    "ddim_half": SamplerInfo(partial(ddim, eta=0.5), order=1, evaluations=1, stochastic=True),
    "euler_ancestral": SamplerInfo(euler_ancestral, order=1, evaluations=1, stochastic=True),
    "dpm2_ancestral": SamplerInfo(dpm2_ancestral, order=2, evaluations=2, stochastic=True),
    "dpmpp_2s_ancestral": SamplerInfo(dpmpp_2s_ancestral, order=2, evaluations=2, stochastic=True),
    "edm": SamplerInfo(partial(edm, s_noise=1.0), order=2, evaluations=2, stochastic=True),
    "dpmpp_sde": SamplerInfo(dpmpp_sde, order=2, evaluations=2, stochastic=True),
    "dpmpp_2m_sde": SamplerInfo(dpmpp_2m_sde, order=2, evaluations=1, stochastic=True),
    "dpmpp_3m_sde": SamplerInfo(dpmpp_3m_sde, order=2, evaluations=1, stochastic=True),
    "sa_solver": SamplerInfo(sa_solver, order=2, evaluations=1, stochastic=True),
    "er_sde": SamplerInfo(er_sde, order=2, evaluations=1, stochastic=True),
    "restart": SamplerInfo(restart, order=2, evaluations=2, stochastic=True),
    "predictor_corrector": SamplerInfo(predictor_corrector, order=0, evaluations=2, stochastic=True),
    "reverse_diffusion": SamplerInfo(reverse_diffusion, order=1, evaluations=1, stochastic=True),
    "euler_maruyama": SamplerInfo(euler_maruyama, order=1, evaluations=1, stochastic=True),
    "consistency": SamplerInfo(consistency, order=0, evaluations=1, stochastic=True),
}
