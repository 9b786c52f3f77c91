"""LoRA files at work while a model draws: ``style.safetensors`` or, with a weight, ``style.safetensors:0.8``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from core.nn.lora import AttachedLoRAs
from core.systems.diffusion import Diffusion
from core.weights.lora import load


@contextmanager
def worn(system: Diffusion, words: Sequence[str]) -> Iterator[Diffusion]:
    """The system with these LoRAs fused into its network inside the with block; afterwards it is as it was.

    Raises ValueError for a weight that is no number, and CheckpointError for a file that is no LoRA of this network.
    """
    net = system.denoiser.net
    if not words or not isinstance(net, nn.Module):
        yield system
        return
    named = [weighed(word) for word in words]
    attached = AttachedLoRAs(net, [load(path, net) for path, _ in named], [weight for _, weight in named])
    attached.fuse()
    try:
        yield system
    finally:
        attached.unfuse()
        attached.detach()


def weighed(word: str) -> tuple[Path, float]:
    """A path and its weight, 1 unless one is said."""
    name, colon, weight = word.rpartition(":")
    if not colon or Path(word).exists() or weight.endswith(".safetensors"):
        return Path(word), 1.0
    try:
        return Path(name), float(weight)
    except ValueError as error:
        raise ValueError(f"'{weight}' is no weight for {name}: write {name}:0.8") from error
