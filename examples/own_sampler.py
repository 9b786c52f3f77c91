"""A sampler of your own, Ralston's method: written, certified against closed forms, and used."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

import langevin
from core.denoiser import Bound
from core.sample.heun import slope_correction
from core.sample.info import SamplerInfo
from core.sample.step import Level, NoiseSource, Step, level_at, toward
from core.sample.walk import Evaluation, evaluate, one_step
from core.schedule import EDM
from core.verify.orders import interior, measure

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/edm")  # of a trained model: `langevin train edm --out ...`


def ralston(denoise: Bound, x: Tensor, times: Tensor, noise: NoiseSource) -> Iterator[Step]:
    """Order 2: the slope at the start and, three times as heavy, the slope at two thirds of the step."""
    return one_step(denoise, x, times, step)


def step(denoise: Bound, seen: Evaluation, there: Level) -> Tensor:
    """From what was seen to the level ``there``: d(x / alpha) / dr is the noise, r = sigma / alpha."""
    ratio = seen.level.ratio + 2 / 3 * (there.ratio - seen.level.ratio)
    between = level_at(denoise.schedule, -math.log(ratio))
    slope = evaluate(denoise, toward(seen.x, seen.clean, seen.level, between), between).noise
    return slope_correction(
        toward(seen.x, seen.clean, seen.level, there), seen.level, there, 3 / 4 * (slope - seen.noise)
    )


row = measure("ralston", SamplerInfo(ralston, order=2, evaluations=2), "EDM", EDM(), interior())
print(f"order {row.measured:.2f}, claimed {row.claimed}")
langevin.open(FOLDER).sample(count=16, sampler=ralston, steps=12).save(FOLDER / "ralston.png")
