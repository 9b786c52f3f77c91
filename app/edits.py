"""The edits that `langevin edit` makes: what they need, and each of them as a function of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from app.options import option
from app.sampling import conditions
from app.way import Way
from core.codec import Latents
from core.cond import Cond
from core.denoiser import DenoiserLike
from core.edit import (
    DPS,
    Blur,
    Downsample,
    LinearOperator,
    Mask,
    MeasurementPosterior,
    image_to_image,
    inpaint,
    invert,
    partial_grid,
    repaint,
    scalar_variance,
)
from core.edit.operator import Operator, gaussian_kernel
from core.random import SamplingRNG
from core.recipe import Loaded, Sampling
from core.sample.step import Step


@dataclass(frozen=True)
class Options(Way):
    """What `langevin edit` takes."""

    prompt: str | None = option(None, "what to make of it: a class or a caption; nothing is asked for without it")
    avoid: str | None = option(None, "a negative prompt: what guidance moves away from")
    strength: float | None = option(None, "from 0, nothing changes, to 1, all is new; 0.6 if left out")
    mask: Path | None = option(None, "inpaint: a picture of the same size, white where it is made anew")
    repaint: int = option(1, "walk each step of inpainting so many times, noising anew in between")
    invert: bool = option(False, "walk back to the noise that the picture comes from, and down again")
    shows: str | None = option(None, "what the picture shows, in which --invert walks back")
    restore: str | None = option(None, "what was done to the picture: blur, downsample, or mask (with --mask)")
    method: str = option("pigdm", "how to restore: pigdm, dps, or covariance, which asks the model for its own")
    blur: float = option(1.0, "deviation of the blur, in pixels")
    factor: int = option(2, "how many pixels were averaged to one, along each side")
    noise: float = option(0.02, "deviation of the noise on what was measured, whose values go from -1 to 1")
    pull: float = option(10.0, "how hard dps pulls towards the picture")
    keep: str | None = option(None, "of a recording: the frames that stay, such as 0:20,60: for all but 20 to 59")
    part: str | None = option(None, "of a recording: what moves anew, such as upper; the recipe knows the names")
    seconds: float | None = option(None, "of a recording: how long the result is, beyond its own end if need be")
    count: int = option(1, "how many results")
    first: int = option(0, "the number of the first result")
    average: str | None = option(None, "which average of the weights; 'model' for the weights themselves")
    out: Path = option(Path("edited.png"), "the file to write")
    size: tuple[int, ...] | None = option(None, "of a published pipeline's pictures: a side, or height and width")


@dataclass(frozen=True)
class Job:
    """An edit, and all that it needs."""

    loaded: Loaded
    options: Options
    way: Sampling
    noise: SamplingRNG
    shape: tuple[int, int, int]  # of the pictures that the model makes
    picture: Path

    def encode(self, data: Tensor) -> Tensor:
        """A picture (1, C, H, W) -> what is diffused, once for each result."""
        like = self.loaded.system.like
        return self.loaded.system.codec.encode(data.to(like)).repeat(self.options.count, 1, 1, 1)

    def decode(self, steps: Iterator[Step]) -> Tensor:
        """The pictures (B, C, H, W) at the end of a walk. Raises ValueError where it diverged."""
        x = None
        for step in steps:
            x = step.x
        if x is None or not bool(x.isfinite().all()):
            raise ValueError("editing diverged (NaN or infinity): take more steps, less guidance or another sampler")
        return self.loaded.system.decode(x).cpu()

    def asked(self, prompt: str | None) -> Cond:
        """What the network is told of a prompt; nothing asked for, without one."""
        system = self.loaded.system
        if prompt is None:
            return system.conditioner.null(self.options.count).to(system.like.device)
        said = conditions(self.loaded.recipe, self.options.seed, self.noise.samples, prompt)
        return system.conditioner(said).to(system.like.device)

    def guided(self) -> DenoiserLike:
        """The denoiser under guidance; plain where nothing is asked for."""
        prompt, avoid = self.options.prompt, self.options.avoid
        scale = 1.0 if prompt is None and avoid is None else self.way.guidance
        wrong = None if avoid is None else conditions(self.loaded.recipe, 0, self.noise.samples, avoid)
        return self.loaded.system.guided(scale, self.way.guide, wrong)

    def known(self, size: tuple[int, int] | None = None) -> Tensor:
        """The picture (1, C, H, W) in [-1, 1] at a height and width, or the model's."""
        return pixels(opened(self.picture, self.shape[0]), size or self.shape[1:])

    def mask(self) -> Tensor:
        """1 where the picture is made anew and 0 where it is kept: (1, 1, H, W)."""
        assert self.options.mask is not None
        mask, picture = opened(self.options.mask, 1), opened(self.picture, 1)
        if mask.size != picture.size:
            sizes = [f"{image.width} x {image.height}" for image in (mask, picture)]
            raise ValueError(f"the mask is {sizes[0]}, the picture {sizes[1]}: give a mask of the picture's size")
        return (pixels(mask, self.shape[1:]) > 0).float()


def changed(job: Job) -> Tensor:
    """Image to image."""
    way = job.way
    walk = image_to_image(
        job.guided().bind(job.asked(job.options.prompt)),
        job.encode(job.known()),
        job.noise,
        sampler=way.sampler,
        grid=way.grid,
        steps=way.steps,
        strength=strength_of(job.options),
    )
    return job.decode(walk)


def inpainted(job: Job) -> Tensor:
    """What is kept is kept to the pixel, also where the model diffuses a code."""
    way, known, mask = job.way, job.known(), job.mask()
    code = job.encode(known)
    # A place of the code is made anew if any of its pixels is.
    small = F.adaptive_max_pool2d(mask, (code.shape[2], code.shape[3])).to(code)
    sampler = way.sampler if job.options.repaint == 1 else repaint(way.sampler, 1, job.options.repaint)
    walk = inpaint(
        job.guided(),
        job.asked(job.options.prompt),
        code,
        small,
        job.noise,
        sampler=sampler,
        grid=way.grid,
        steps=way.steps,
    )
    return torch.where(mask == 0, known, job.decode(walk))


def inverted(job: Job) -> Tensor:
    """To the noise of the picture, under what it shows, and down: as it was, or under a prompt."""
    denoiser, asked = job.loaded.system.guided(1.0, job.way.guide), job.asked(job.options.shows)
    times = partial_grid(job.way.grid, strength_of(job.options))(denoiser.schedule, job.way.steps)
    plain = denoiser.bind(asked)
    noisy = invert(plain, job.encode(job.known()), times)
    down = plain if job.options.prompt is None else job.guided().bind(job.asked(job.options.prompt))
    return job.decode(job.way.sampler(down, noisy, times, job.noise))


def restored(job: Job) -> Tensor:
    """A sample of the posterior of pictures that are measured so."""
    system, options = job.loaded.system, job.options
    if any(isinstance(part, Latents) for part in system.codec.modules()):
        raise ValueError("this model diffuses a code, in which no measurement is linear: restore with one of pixels")
    operator, measured = OPERATORS[options.restore or ""](job)
    # The codec is affine: what it adds to a measurement by itself goes to the other side.
    nothing = operator.apply(system.decode(torch.zeros(1, *job.loaded.recipe.shape).to(system.like)))
    inner = LinearOperator(lambda x: operator.apply(system.codec.decode(x)) - nothing, job.loaded.recipe.shape)
    wanted = (measured.to(nothing) - nothing).repeat(options.count, 1, 1, 1)
    seen = METHODS[options.method](job.guided(), inner, wanted, options)
    times = job.way.grid(seen.schedule, job.way.steps)
    start = (job.noise.start(job.loaded.recipe.shape) * seen.schedule(times[:1])[1]).to(system.like)
    return job.decode(job.way.sampler(seen.bind(job.asked(options.prompt)), start, times, job.noise))


Measured = tuple[Operator, Tensor]  # what was done to the picture that is wanted, and the picture that came of it


def blurred(job: Job) -> Measured:
    """The picture is blurred."""
    side = min(job.shape[1:])
    reach = min(math.ceil(3 * job.options.blur), (side - 1) // 2)
    return Blur(gaussian_kernel(2 * reach + 1, job.options.blur)), job.known()


def shrunk(job: Job) -> Measured:
    """The picture is smaller by a factor."""
    _, height, width = job.shape
    factor = job.options.factor
    if height % factor or width % factor:
        raise ValueError(f"{height} x {width} does not divide by a --factor of {factor}: give one that divides it")
    return Downsample(factor), job.known((height // factor, width // factor))


def masked(job: Job) -> Measured:
    """The picture is known outside of the mask."""
    seen = 1 - job.mask()
    return Mask(seen), job.known() * seen


OPERATORS: dict[str, Callable[[Job], Measured]] = {"blur": blurred, "downsample": shrunk, "mask": masked}


def pigdm(denoiser: DenoiserLike, operator: Operator, measured: Tensor, options: Options) -> DenoiserLike:
    """With the spread of the picture itself for that of the data."""
    return MeasurementPosterior(
        denoiser, operator, measured, options.noise, scalar_variance(max(float(measured.var()), 1e-3))
    )


def covariance(denoiser: DenoiserLike, operator: Operator, measured: Tensor, options: Options) -> DenoiserLike:
    """With the model's own."""
    return MeasurementPosterior(denoiser, operator, measured, options.noise)


def dps(denoiser: DenoiserLike, operator: Operator, measured: Tensor, options: Options) -> DenoiserLike:
    """Which knows nothing of the noise."""
    return DPS(denoiser, operator, measured, options.pull)


METHODS: dict[str, Callable[[DenoiserLike, Operator, Tensor, Options], DenoiserLike]] = {
    "pigdm": pigdm,
    "covariance": covariance,
    "dps": dps,
}


def strength_of(options: Options) -> float:
    """How much of the picture is made anew."""
    return 0.6 if options.strength is None else options.strength


def shape_of(loaded: Loaded) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that a model makes. Raises ValueError for one that makes something else."""
    shape = loaded.recipe.shape
    made = loaded.system.decode(torch.zeros(1, *shape).to(loaded.system.like)).shape[1:]
    if len(made) != 3 or made[0] not in (1, 3):
        raise ValueError(f"{loaded.recipe.name} makes no pictures: give a checkpoint of one that does")
    return made[0], made[1], made[2]


def opened(path: Path, channels: int) -> Any:
    """A picture of a file, upright, grey or in colour. Raises ValueError where there is none."""
    from image.folder import Folder
    from image.source import decode

    if not path.is_file():
        raise ValueError(f"{path} is no file: give a picture")
    return decode(Folder((path,), ("",)), 0, channels)


def pixels(picture: Any, size: Sequence[int]) -> Tensor:
    """A picture, scaled to cover a height and width and cropped in the middle: (1, C, H, W) in [-1, 1]."""
    from image.source import frame

    cut, _ = frame(picture, (size[0], size[1]))
    values = torch.from_numpy(np.array(cut, dtype=np.float32)).view(1, *size, -1)
    return values.permute(0, 3, 1, 2).contiguous() / 127.5 - 1
