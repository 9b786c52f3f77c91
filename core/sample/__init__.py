"""Samplers: every one by name, with what is claimed of it, and the names under which other libraries know them."""

from core.names import look_up
from core.sample.deterministic import DETERMINISTIC
from core.sample.info import SamplerInfo
from core.sample.step import Level, NoiseSource, Sampler, Step, run, toward
from core.sample.stochastic import STOCHASTIC

SAMPLERS: dict[str, SamplerInfo] = DETERMINISTIC | STOCHASTIC

# Foreign name -> our sampler, and the grid that the name implies, if any.
ALIASES: dict[str, tuple[str, str | None]] = {
    # diffusers' classes
    "DDPMScheduler": ("ddpm", "leading"),
    "DDIMScheduler": ("euler", "leading"),
    "DDPMParallelScheduler": ("ddpm", "leading"),
    "DDIMParallelScheduler": ("euler", "leading"),
    "PNDMScheduler": ("plms", "leading"),
    "LMSDiscreteScheduler": ("lms", "linspace"),
    "EulerDiscreteScheduler": ("euler", "linspace"),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", "linspace"),
    "HeunDiscreteScheduler": ("heun", "linspace"),
    "KDPM2DiscreteScheduler": ("dpm2", "linspace"),
    "KDPM2AncestralDiscreteScheduler": ("dpm2_ancestral", "linspace"),
    "DPMSolverSinglestepScheduler": ("dpmpp_2s", "linspace"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace"),
    "DPMSolverSDEScheduler": ("dpmpp_sde", "linspace"),
    "DEISMultistepScheduler": ("deis_2", "linspace"),
    "UniPCMultistepScheduler": ("unipc", "linspace"),
    "SASolverScheduler": ("sa_solver", "linspace"),
    "EDMEulerScheduler": ("euler", "karras"),
    "EDMDPMSolverMultistepScheduler": ("dpmpp_2m", "karras"),
    "FlowMatchEulerDiscreteScheduler": ("euler", "shifted"),
    "FlowMatchHeunDiscreteScheduler": ("heun", "shifted"),
    "CosineDPMSolverMultistepScheduler": ("dpmpp_2m_sde", "exponential"),
    "FlowMatchLCMScheduler": ("consistency", "shifted"),
    "LCMScheduler": ("consistency", "trailing"),
    "CMStochasticIterativeScheduler": ("consistency", "karras"),
    "ScoreSdeVeScheduler": ("predictor_corrector", "linspace"),
    # ComfyUI's and k-diffusion's
    "ddim": ("euler", None),  # with eta = 0, its default everywhere
    "dpm_2": ("dpm2", None),
    "dpm_2_ancestral": ("dpm2_ancestral", None),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", None),
    "dpmpp_3m_sde_gpu": ("dpmpp_3m_sde", None),
    "dpmpp_sde_gpu": ("dpmpp_sde", None),
    "uni_pc": ("unipc_bh1", None),
    "uni_pc_bh2": ("unipc", None),
    "ipndm": ("plms", None),
    "lcm": ("consistency", None),
    "res_multistep": ("res_2m", None),
    "sample_euler": ("euler", None),
    "sample_heun": ("heun", None),
    "sample_dpmpp_2m": ("dpmpp_2m", None),
    "k_euler": ("euler", None),
    "k_euler_a": ("euler_ancestral", None),
    "euler_a": ("euler_ancestral", None),
    # the names that web interfaces show
    "Euler": ("euler", None),
    "Euler a": ("euler_ancestral", None),
    "Heun": ("heun", None),
    "LMS": ("lms", None),
    "DDIM": ("euler", None),
    "PLMS": ("plms", None),
    "UniPC": ("unipc_bh1", None),
    "Restart": ("restart", "karras"),
    "LCM": ("consistency", None),
    "DPM2": ("dpm2", None),
    "DPM2 a": ("dpm2_ancestral", None),
    "DPM++ 2S a": ("dpmpp_2s_ancestral", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE": ("dpmpp_sde", None),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", None),
    "DPM++ 2M SDE Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", None),
    "DPM++ 3M SDE Exponential": ("dpmpp_3m_sde", "exponential"),
}


def find_sampler(name: str) -> tuple[str, str | None]:
    """Our name of a sampler, and the grid that a foreign name implies. Raises UnknownNameError with the nearest."""
    table = {own: (own, None) for own in SAMPLERS} | {k: v for k, v in ALIASES.items() if k not in SAMPLERS}
    return look_up("sampler", name, table, "langevin solvers --list")


__all__ = [
    "ALIASES",
    "DETERMINISTIC",
    "SAMPLERS",
    "STOCHASTIC",
    "Level",
    "NoiseSource",
    "Sampler",
    "SamplerInfo",
    "Step",
    "find_sampler",
    "run",
    "toward",
]
