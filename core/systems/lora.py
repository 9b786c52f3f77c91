"""LoRADiffusion: a frozen diffusion model with a LoRA that is trained.

What such a system saves, averages and loads is the LoRA alone, so its checkpoints are small; they name in their recipe
where the model lies that they belong to.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from core.nn.lora import ATTENTION, AttachedLoRAs, LoRA
from core.systems.diffusion import Diffusion
from core.systems.system import System
from core.weights.lora import load, path_and_weight

OWN = "lora."  # how the names of what is saved begin


class LoRADiffusion(Diffusion):
    """A model and a LoRA on its network."""

    def __init__(
        self, base: Diffusion, rank: int, alpha: float | None = None, targets: Sequence[str] = ATTENTION
    ) -> None:
        """rank, alpha, targets: of the LoRA, see ``LoRA.of``; nothing else of the model is trained any more."""
        super().__init__(base.denoiser, base.conditioner, base.codec, base.objective)
        self.requires_grad_(False)
        net = self.denoiser.net
        if not isinstance(net, nn.Module):
            raise ValueError("a LoRA is on the layers of a network, and this model has none")
        self.lora = LoRA.of(net, rank, alpha, targets)
        self.attached = AttachedLoRAs(net, [self.lora])
        save_only(self, OWN)

    def names_layers(self) -> tuple[str, nn.Module]:
        """A LoRA's tensors carry the names of the network's layers."""
        assert isinstance(self.denoiser.net, nn.Module)
        return f"{OWN}layers", self.denoiser.net


def save_only(system: nn.Module, own: str) -> None:
    """Leave everything but the tensors whose names begin with ``own`` out of a system's state, where none misses it."""
    system.register_state_dict_post_hook(functools.partial(_keep_own, own))
    system.register_load_state_dict_post_hook(functools.partial(_miss_own, own))


def _keep_own(own: str, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(prefix + own)]:
        del state[name]


def _miss_own(own: str, module: nn.Module, wrong: Any) -> None:
    wrong.missing_keys[:] = [name for name in wrong.missing_keys if f".{own}" in f".{name}"]


@contextmanager
def with_loras(system: System, files: Sequence[str]) -> Iterator[System]:
    """The system with LoRA files fused into its network inside the with block; afterwards it is as it was.

    files: paths, each with a weight if wanted, ``style.safetensors:0.8``. Raises ValueError for a weight that is no
    number, and CheckpointError for a file that is no LoRA of this network.
    """
    if not files:
        yield system
        return
    net = system.denoiser.net if isinstance(system, Diffusion) else None
    if not isinstance(net, nn.Module):
        raise ValueError("LoRA files are applied to the network of a diffusion model, and this model has none")
    named = [path_and_weight(file) for file in files]
    attached = AttachedLoRAs(net, [load(path, net) for path, _ in named], [weight for _, weight in named])
    attached.fuse()
    try:
        yield system
    finally:
        attached.unfuse()
        attached.detach()
