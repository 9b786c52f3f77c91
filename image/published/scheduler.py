"""Published schedulers as our schedules, predictions, samplers and grids.

A ``scheduler_config.json`` mixes four things that are apart here: the table of betas or the path, what the network
predicts, which times are visited, and by which method. Each scheduler's class has its own habits:

    PNDM, DDIM         end at the first entry of the table, not at clean data, unless ``set_alpha_to_one``
    DPM-Solver, UniPC  divide the table as if there were one step more, whose end they leave out
    all but Euler      begin with noise of deviation 1, where the table's is a little less
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.denoiser import Bound
from core.grid import (
    Grid,
    between,
    exponential,
    karras,
    leading,
    linspace,
    sgm_uniform,
    shifted,
    stretched,
    trailing,
    whole,
)
from core.prediction import X0, Epsilon, Prediction, V
from core.sample.ancestral import euler_ancestral
from core.sample.dpm import dpmpp_2m
from core.sample.euler import euler
from core.sample.solvers.dpm import dpmpp_3m
from core.sample.solvers.plms import plms, pndm
from core.sample.solvers.sde import dpmpp_2m_sde
from core.sample.solvers.unipc import unipc
from core.sample.step import NoiseSource, Sampler, Step
from core.schedule import (
    Discrete,
    Schedule,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    shift_from_mu,
    zero_terminal_snr,
)

Config = Mapping[str, Any]
PREDICTIONS: dict[str, Prediction] = {"epsilon": Epsilon(), "v_prediction": V(), "sample": X0()}
UNREAD = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
UNREAD_FLOW = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling")


class Scheduled(NamedTuple):
    """A scheduler's configuration, read."""

    schedule: Discrete
    prediction: Prediction
    sampler: Sampler
    grid: Grid


@dataclass(frozen=True)
class FromUnitNoise:
    """A sampler that begins with noise of deviation 1, whatever the schedule's deviation at the first time."""

    sampler: Sampler

    def __call__(self, denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
        sigma = denoise.schedule(times[:1])[1]
        return self.sampler(denoise, x / sigma.to(x), times, noise)


def without_unit_noise(sampler: Sampler) -> Sampler:
    """The sampler itself, for an x that is not noise but comes from elsewhere."""
    return sampler.sampler if isinstance(sampler, FromUnitNoise) else sampler


def read_diffusion(config: Config, what: str) -> Scheduled:
    """A scheduler on a table of betas. Raises ValueError for a class or an option that has no counterpart here."""
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise ValueError(f"{what} is scheduled by {name}, which is not read: {', '.join(SCHEDULERS)} are")
    _refuse(config, UNREAD, f"{what}'s {name}")
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise ValueError(f"{what} predicts {predicted}: {', '.join(PREDICTIONS)} are read")
    sampler, grid = SCHEDULERS[name](config)
    return Scheduled(Discrete(betas_of(config, what)), PREDICTIONS[predicted], sampler, grid)


def betas_of(config: Config, what: str) -> Tensor:
    """The table of betas (T,). Raises ValueError for a name that is not read."""
    steps, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif kind in TABLES:
        betas = TABLES[kind](steps, *ends)
    else:
        raise ValueError(f"{what} has betas called {kind}: {', '.join(TABLES)} are read")
    return zero_terminal_snr(betas) if config.get("rescale_betas_zero_snr") else betas


TABLES: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": lambda steps, first, last: cosine_betas(steps),
}


def read_flow(config: Config, what: str, tokens: int, sigmas: bool = False) -> Grid:
    """The times of a ``FlowMatchEulerDiscreteScheduler`` for a picture of so many tokens; sigma is the time itself.

    sigmas: whether the pipeline gives its own, 1 to 1 / steps, as Flux's does. Raises ValueError for another class, or
    an option that has no counterpart here.
    """
    name = config.get("_class_name")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(f"{what} is scheduled by {name}: a flow's FlowMatchEulerDiscreteScheduler is read")
    _refuse(config, UNREAD_FLOW, f"{what}'s {name}")
    total, shift = config.get("num_train_timesteps", 1000), float(config.get("shift", 1.0))
    if config.get("use_dynamic_shifting"):
        if config.get("time_shift_type", "exponential") != "exponential":
            raise ValueError(f"{what} shifts its times not exponentially, which is not read")
        low = config.get("base_image_seq_len", 256), config.get("base_shift", 0.5)
        high = config.get("max_image_seq_len", 4096), config.get("max_shift", 1.15)
        shift, last = shift_from_mu(tokens, low, high), 1 / total
    else:
        last = shift / (total + shift - 1)
    # What the pipeline does not give runs down to the last of training's times, which are shifted already.
    grid = shifted(trailing if sigmas else between(linspace, 1.0, last), shift)
    return stretched(grid, config["shift_terminal"]) if config.get("shift_terminal") else grid


def _refuse(config: Config, options: tuple[str, ...], what: str) -> None:
    for option in options:
        if config.get(option):
            raise ValueError(f"{what} asks for {option}, which is not read: set it to false, or choose a grid here")


def _spaced(config: Config, usual: str, linear: Grid, lead: Grid) -> Grid:
    """The grid of a ``timestep_spacing``, and Karras' over the same span where that is asked for."""
    grids = {"linspace": linear, "leading": lead, "trailing": trailing}
    name = config.get("timestep_spacing", usual)
    if name not in grids:
        raise ValueError(f"times spaced '{name}' are not read: {', '.join(grids)} are")
    return _over(grids[name]) if config.get("use_karras_sigmas") else grids[name]


def _over(grid: Grid) -> Grid:
    """Karras' grid over the span of another."""

    def spanned(schedule: Schedule, steps: int) -> Tensor:
        found = grid(schedule, steps)
        return between(karras if steps > 1 else exponential, float(found[0]), float(found[-2]))(schedule, steps)

    return spanned


def _leading(config: Config) -> Grid:
    offset = int(config.get("steps_offset", 0))
    return lambda schedule, steps: leading(schedule, steps, offset)


def _one_more(config: Config) -> Grid:
    """``leading`` with one step more, of which the cleanest is left out."""
    offset = int(config.get("steps_offset", 0))

    def spaced(schedule: Schedule, steps: int) -> Tensor:
        found = leading(schedule, steps + 1, offset)
        return torch.cat([found[:-2], found[-1:]])

    return spaced


def _ending(grid: Grid, config: Config, key: str, clean: object, usual: object) -> Grid:
    """The grid, ended at the table's first entry where the configuration does not ask for clean data."""
    if config.get(key, usual) == clean:
        return grid

    def ended(schedule: Schedule, steps: int) -> Tensor:
        return torch.cat([grid(schedule, steps)[:-1], torch.tensor([schedule.cleanest], dtype=torch.float64)])

    return ended


def _pndm(config: Config) -> tuple[Sampler, Grid]:
    sampler: Sampler = plms if config.get("skip_prk_steps", False) else pndm
    grid = _spaced(config, "leading", whole(linspace), _leading(config))
    return FromUnitNoise(sampler), _ending(grid, config, "set_alpha_to_one", True, False)


def _ddim(config: Config) -> tuple[Sampler, Grid]:
    grid = _spaced(config, "leading", whole(linspace), _leading(config))
    return FromUnitNoise(euler), _ending(grid, config, "set_alpha_to_one", True, True)


def _euler(config: Config) -> tuple[Sampler, Grid]:
    if config.get("timestep_type", "discrete") != "discrete" or config.get("interpolation_type", "linear") != "linear":
        raise ValueError("an Euler scheduler between other times than its table's is not read: use a discrete one")
    grid = _spaced(config, "linspace", linspace, _leading(config))
    # Only times that never reach the table's end are given more noise than the table has.
    sampler: Sampler = FromUnitNoise(euler) if config.get("timestep_spacing") == "leading" else euler
    return sampler, _ending(grid, config, "final_sigmas_type", "zero", "zero")


def _ancestral(config: Config) -> tuple[Sampler, Grid]:
    grid = _spaced(config, "linspace", linspace, _leading(config))
    return FromUnitNoise(euler_ancestral) if config.get("timestep_spacing") == "leading" else euler_ancestral, grid


def _dpm(config: Config) -> tuple[Sampler, Grid]:
    kind = config.get("algorithm_type", "dpmsolver++"), config.get("solver_order", 2)
    if kind not in SOLVERS or config.get("solver_type", "midpoint") != "midpoint":
        raise ValueError(f"a DPM-Solver of the kind {kind[0]}, order {kind[1]}, is not read: use dpmsolver++, midpoint")
    grid = _spaced(config, "linspace", whole(sgm_uniform), _one_more(config))
    return FromUnitNoise(SOLVERS[kind]), _ending(grid, config, "final_sigmas_type", "zero", "zero")


SOLVERS: dict[tuple[str, int], Sampler] = {
    ("dpmsolver++", 1): euler,
    ("dpmsolver++", 2): dpmpp_2m,
    ("dpmsolver++", 3): dpmpp_3m,
    ("sde-dpmsolver++", 2): dpmpp_2m_sde,
}


def _unipc(config: Config) -> tuple[Sampler, Grid]:
    if (config.get("solver_order", 2), config.get("solver_type", "bh2")) != (2, "bh2") or config.get(
        "disable_corrector"
    ):
        raise ValueError("a UniPC of another order than 2, or another kind than bh2 with its corrector, is not read")
    grid = _spaced(config, "linspace", whole(sgm_uniform), _one_more(config))
    return FromUnitNoise(unipc), _ending(grid, config, "final_sigmas_type", "zero", "zero")


SCHEDULERS: dict[str, Callable[[Config], tuple[Sampler, Grid]]] = {
    "PNDMScheduler": _pndm,
    "DDIMScheduler": _ddim,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _ancestral,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
}
