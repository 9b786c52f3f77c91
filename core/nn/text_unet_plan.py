"""The plan of a cross-attention U-Net: its sizes and conditions; and the published ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The sizes and conditions of a U-Net.

    widths, depths: channels, and transformer layers after each residual block (0: none), of each level, finest first
    heads:          of each level's attention, or one number for all; ``head_width`` sets them by their width instead
    middle_depth:   transformer layers of the middle, whose heads are the last level's
    cross_only:     levels whose transformers attend to the text twice, without self-attention (x4-upscaler)
    vector_width:   of a ``cond.vector`` that passes through an MLP (SDXL: pooled text, sinusoids of sizes and
                    crop); None where ``cond.vector`` (B, 4 widths[0]), if given, is added to the time embedding
    guidance_width: number of sinusoids of 1000 ``cond.guidance``, or None (LCM: 256; it calls no guidance 0, not 1)
    linear:         whether published files keep the transformers' first and last layers as matrices (SD2, SDXL) or as
                    convolutions of size 1 (SD1); the network is the same
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    text_width: int
    middle_depth: int = 1
    blocks: int = 2
    heads: int | tuple[int, ...] = 8
    head_width: int | None = None
    cross_only: tuple[int, ...] = ()
    vector_width: int | None = None
    guidance_width: int | None = None
    linear: bool = False
    dims: int = 2
    groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    cos_first: bool = True
    shift: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where the levels' lists differ in length, or a width does not divide into its heads."""
        lengths = {len(self.widths), len(self.depths)} | ({len(self.heads)} if isinstance(self.heads, tuple) else set())
        if len(lengths) > 1:
            raise ValueError(
                f"widths {self.widths}, depths {self.depths}, heads {self.heads}: give one of each a level"
            )
        for level, depth in enumerate((*self.depths[:-1], self.depths[-1] or self.middle_depth)):
            width, divisor = self.widths[level], self.head_width or self.heads_at(level)
            if depth and width % divisor:
                words = f"{divisor} heads" if self.head_width is None else f"heads of {divisor}"
                raise ValueError(f"{width} channels do not divide into {words}: change widths or heads")

    @property
    def embedded(self) -> int:
        """The width of the time embedding."""
        return 4 * self.widths[0]

    def heads_at(self, level: int) -> int:
        """How many heads the attention of a level has."""
        if self.head_width is not None:
            return max(1, self.widths[level] // self.head_width)
        return self.heads[level] if isinstance(self.heads, tuple) else self.heads


SD_WIDTHS = (320, 640, 1280, 1280)
SD_DEPTHS = (1, 1, 1, 0)


def sd1() -> Plan:
    """Stable Diffusion 1: 859,520,964 parameters (2112.10752)."""
    return Plan(4, 4, SD_WIDTHS, SD_DEPTHS, text_width=768)


def sd1_inpainting() -> Plan:
    """Stable Diffusion 1 with a mask and the latents of the masked image as inputs: 859,535,364 parameters."""
    return dataclasses.replace(sd1(), in_channels=9)


def lcm_sd1() -> Plan:
    """Stable Diffusion 1 distilled for any guidance in a few steps: 859,602,884 parameters (2310.04378)."""
    return dataclasses.replace(sd1(), guidance_width=256)


def sd2() -> Plan:
    """Stable Diffusion 2 and 2.1: 865,910,724 parameters."""
    return Plan(4, 4, SD_WIDTHS, SD_DEPTHS, text_width=1024, head_width=64, linear=True)


def sd2_depth() -> Plan:
    """Stable Diffusion 2 with a depth map as input: 865,913,604 parameters."""
    return dataclasses.replace(sd2(), in_channels=5)


def upscaler() -> Plan:
    """Stable Diffusion's x4 upscaler without its table of noise levels: 472,374,020 parameters, 473,398,020 with it."""
    return Plan(7, 4, (256, 512, 512, 1024), (0, 1, 1, 1), text_width=1024, cross_only=(1, 2), linear=True)


def sdxl() -> Plan:
    """SDXL base: 2,567,463,684 parameters (2307.01952, table 1)."""
    return Plan(
        4, 4, (320, 640, 1280), (0, 2, 10), 2048, middle_depth=10, head_width=64, vector_width=2816, linear=True
    )


def sdxl_refiner() -> Plan:
    """SDXL's refiner: 2,259,526,660 parameters (2307.01952)."""
    widths, depths = (384, 768, 1536, 1536), (0, 4, 4, 0)
    return Plan(4, 4, widths, depths, 1280, middle_depth=4, head_width=64, vector_width=2560, linear=True)
