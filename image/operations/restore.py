"""Restoration: samples of the posterior of pictures whose measurement was given (2209.14687, 2310.06721)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.flags import option
from core.names import look_up
from image.operations.base import Job, PictureOperation

if TYPE_CHECKING:
    from torch import Tensor

    from core.denoiser import DenoiserLike
    from core.inverse.operator import Operator

    Measured = tuple[Operator, Tensor]  # the measurement operator, and what it gave


@dataclass(frozen=True)
class Restore(PictureOperation):
    """Take the picture for a blurred, small or incomplete measurement, and sample what it was."""

    measurement: str = option("blur", "what was done to the picture: blur, downsample, or mask (with --mask)")
    method: str = option("pigdm", "pigdm, dps, or covariance, which asks the model for the covariance of its x0")
    mask: Path | None = option(None, "for --measurement mask: a picture, white where nothing is known", "FILE")
    blur: float = option(1.0, "standard deviation of the blur, in pixels")
    factor: int = option(2, "how many pixels were averaged to one, along each side")
    noise: float = option(0.02, "standard deviation of the noise on the measurement, whose values go from -1 to 1")
    pull: float = option(10.0, "step size of dps towards the measurement")

    def __post_init__(self) -> None:
        super().__post_init__()
        look_up("measurement", self.measurement, OPERATORS, "langevin edit restore --help")
        look_up("method", self.method, METHODS, "langevin edit restore --help")
        if (self.measurement == MASK) != (self.mask is not None):
            raise ValueError("--measurement mask and --mask go together: a picture, white where nothing is known")
        if self.factor < 1 or not 0 < self.blur < math.inf or not 0 <= self.pull < math.inf:
            raise ValueError("--factor must be at least 1, --blur above 0, and --pull finite and not negative")

    def edited(self, job: Job) -> Tensor:
        import torch

        from core.codec import Latents
        from core.inverse import LinearOperator
        from core.sample.step import noise_at

        system, shape = job.system, job.model.shape
        if any(isinstance(part, Latents) for part in system.codec.modules()):
            raise ValueError("this model diffuses a code, in which no measurement is linear: use a model of pixels")
        operator, measured = OPERATORS[self.measurement](self, job)
        # The codec is affine: what it adds to a measurement by itself goes to the other side.
        nothing = operator.apply(system.decode(torch.zeros(1, *shape).to(system.like)))
        inner = LinearOperator(lambda x: operator.apply(system.codec.decode(x)) - nothing, shape)
        wanted = (measured.to(nothing) - nothing).repeat(self.count, 1, 1, 1)
        posterior = METHODS[self.method](self, job.guided(), inner, wanted)
        times = job.sampling.grid(posterior.schedule, job.sampling.steps)
        start = noise_at(posterior.schedule, times[:1], job.noise, shape).to(system.like)
        return job.decode(job.sampling.sampler(posterior.bind(job.condition(self.prompt)), start, times, job.noise))

    def files(self) -> list[Path]:
        """The mask, where it lies in a file."""
        return [self.mask] if isinstance(self.mask, Path) else []


def blurred(operation: Restore, job: Job) -> Measured:
    """The picture is blurred."""
    from core.inverse import Blur
    from core.inverse.operator import gaussian_kernel

    side = min(job.shape[1:])
    reach = min(math.ceil(3 * operation.blur), (side - 1) // 2)
    return Blur(gaussian_kernel(2 * reach + 1, operation.blur)), job.known()


def downsampled(operation: Restore, job: Job) -> Measured:
    """The picture is smaller by a factor."""
    from core.inverse import Downsample

    _, height, width = job.shape
    factor = operation.factor
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} does not divide by a --factor of {factor}: give one that divides it")
    return Downsample(factor), job.known((height // factor, width // factor))


def masked(operation: Restore, job: Job) -> Measured:
    """The picture is known outside of the mask."""
    from core.inverse import Mask

    assert operation.mask is not None
    known = 1 - job.mask(operation.mask)
    return Mask(known), job.known() * known


MASK = "mask"
OPERATORS: dict[str, Callable[[Restore, Job], Measured]] = {"blur": blurred, "downsample": downsampled, MASK: masked}


def pigdm(operation: Restore, denoiser: DenoiserLike, operator: Operator, measured: Tensor) -> DenoiserLike:
    """With the variance of the picture itself for that of the data."""
    from core.inverse import MeasurementPosterior, scalar_variance

    return MeasurementPosterior(
        denoiser, operator, measured, operation.noise, scalar_variance(max(float(measured.var()), 1e-3))
    )


def covariance(operation: Restore, denoiser: DenoiserLike, operator: Operator, measured: Tensor) -> DenoiserLike:
    """With the model's own covariance."""
    from core.inverse import MeasurementPosterior

    return MeasurementPosterior(denoiser, operator, measured, operation.noise)


def dps(operation: Restore, denoiser: DenoiserLike, operator: Operator, measured: Tensor) -> DenoiserLike:
    """Which knows nothing of the noise."""
    from core.inverse import DPS

    return DPS(denoiser, operator, measured, operation.pull)


METHODS: dict[str, Callable[[Restore, DenoiserLike, Operator, Tensor], DenoiserLike]] = {
    "pigdm": pigdm,
    "covariance": covariance,
    "dps": dps,
}
