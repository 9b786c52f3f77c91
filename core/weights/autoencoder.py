"""diffusers' ``AutoencoderKL`` and ``VQModel`` folders, both ways.

The names of the two differ by the table only. Older files name attention's parts otherwise and keep its matrices as
convolutions of size 1; both are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.autoencoder import KLAutoencoder, Plan, VQAutoencoder
from core.weights.checkpoint import CheckpointError, fill
from core.weights.pairs import ROWS, Pair, both, read_folder, to_ours, to_theirs, write_folder
from core.weights.unet import modern

KL, VQ = "AutoencoderKL", "VQModel"
KINDS = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}


@dataclass(frozen=True)
class LatentConfig:
    """What a folder says of latents besides the network: ``z = (encode(x) - shift) * scale``.

    size: of the pictures it was trained on; upcast: whether decoding needs float32; mean and deviation replace shift
    and scale where each channel has its own.
    """

    scale: float = 0.18215
    shift: float = 0.0
    size: int | None = None
    upcast: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


def load_diffusers(folder: Path) -> tuple[KLAutoencoder, LatentConfig]:
    """Read an ``AutoencoderKL`` folder. Raises CheckpointError for what ours cannot express."""
    config, tensors = read_folder(folder, KL)
    with torch.device("meta"):
        net = KLAutoencoder(kl_plan(config, str(folder)))
    fill(net, to_ours(pairs(net), flat(tensors), str(folder)), folder)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    latents = LatentConfig(
        config.get("scaling_factor", 0.18215),
        config.get("shift_factor") or 0.0,
        config.get("sample_size"),
        bool(config.get("force_upcast", True)),
        None if mean is None else tuple(mean),
        None if deviation is None else tuple(deviation),
    )
    return net.eval(), latents


def kl_plan(config: Mapping[str, Any], what: str) -> Plan:
    """The sizes that an ``AutoencoderKL``'s configuration says. Raises CheckpointError for what ours cannot express."""
    plan = _plan(config, what, quant=config.get("use_quant_conv", True))
    if config.get("use_post_quant_conv", plan.quant) != plan.quant:
        raise CheckpointError(f"{what} has a convolution on one side of its code only: ours has both or none")
    return plan


def save_diffusers(folder: Path, net: KLAutoencoder, latents: LatentConfig = LatentConfig()) -> None:
    """Write a folder that diffusers loads. Raises CheckpointError for a network that its class cannot express."""
    write_folder(folder, KL, kl_config(net, latents), to_theirs(pairs(net), net.state_dict()))


def kl_config(net: KLAutoencoder, latents: LatentConfig) -> dict[str, Any]:
    """diffusers' configuration of a network. Raises CheckpointError for one that its class cannot express."""
    return _config(net.plan) | {
        "use_quant_conv": net.plan.quant,
        "use_post_quant_conv": net.plan.quant,
        "scaling_factor": latents.scale,
        "shift_factor": latents.shift or None,
        "sample_size": latents.size or 32,
        "force_upcast": latents.upcast,
        "latents_mean": latents.mean,
        "latents_std": latents.deviation,
        "mid_block_add_attention": net.plan.middle_attention,
    }


def load_vq_diffusers(folder: Path) -> tuple[VQAutoencoder, float]:
    """Read a ``VQModel`` folder: the network and its scaling factor."""
    config, tensors = read_folder(folder, VQ)
    net = make_vq(config, str(folder))
    fill(net, to_ours(pairs(net), flat(tensors), str(folder)), folder)
    return net.eval(), config.get("scaling_factor", 0.18215)


def make_vq(config: Mapping[str, Any], what: str) -> VQAutoencoder:
    """The network that a ``VQModel``'s configuration describes, without weights."""
    if config.get("norm_type", "group") != "group" or config.get("lookup_from_codebook"):
        raise CheckpointError(f"{what} is a VQ model of another kind than that of latent diffusion")
    plan = _plan(config, what, quant=True, embedded=config.get("vq_embed_dim"))
    with torch.device("meta"):
        return VQAutoencoder(plan, config.get("num_vq_embeddings", 256))


def save_vq_diffusers(folder: Path, net: VQAutoencoder, scale: float = 1.0) -> None:
    """Write a ``VQModel`` folder that diffusers loads."""
    write_folder(folder, VQ, vq_config(net, scale), to_theirs(pairs(net), net.state_dict()))


def vq_config(net: VQAutoencoder, scale: float = 1.0) -> dict[str, Any]:
    """diffusers' configuration of a network. Raises CheckpointError for one that its class cannot express."""
    return _config(net.plan) | {
        "num_vq_embeddings": net.codebook.table.num_embeddings,
        "vq_embed_dim": net.plan.code,
        "scaling_factor": scale,
        "mid_block_add_attention": net.plan.middle_attention,
    }


def pairs(net: KLAutoencoder | VQAutoencoder) -> Iterator[Pair]:
    """Our tensors and diffusers'."""
    names = set(net.state_dict())

    def residual(ours: str, theirs: str) -> Iterator[Pair]:
        for part in ("norm1", "conv1", "norm2", "conv2"):
            yield from both(f"{ours}.{part}", f"{theirs}.{part}")
        if f"{ours}.skip.weight" in names:
            yield from both(f"{ours}.skip", f"{theirs}.conv_shortcut")

    for half, direction, theirs, sampler in (
        ("encoder", "down", "down_blocks", "downsamplers"),
        ("decoder", "up", "up_blocks", "upsamplers"),
    ):
        yield from both(f"{half}.conv_in", f"{half}.conv_in")
        yield from both(f"{half}.norm_out", f"{half}.conv_norm_out")
        yield from both(f"{half}.conv_out", f"{half}.conv_out")
        yield from residual(f"{half}.middle.first", f"{half}.mid_block.resnets.0")
        yield from residual(f"{half}.middle.second", f"{half}.mid_block.resnets.1")
        if net.plan.middle_attention:
            ours, place = f"{half}.middle.attention", f"{half}.mid_block.attentions.0"
            yield from both(f"{ours}.norm", f"{place}.group_norm")
            yield from both(f"{ours}.qkv", *[f"{place}.to_{letter}" for letter in "qkv"], form=ROWS)
            yield from both(f"{ours}.project", f"{place}.to_out.0")
        for level in range(len(net.plan.widths)):
            for block in range(net.plan.blocks + (direction == "up")):
                yield from residual(
                    f"{half}.{direction}.{level}.blocks.{block}", f"{half}.{theirs}.{level}.resnets.{block}"
                )
            if level < len(net.plan.widths) - 1:
                yield from both(
                    f"{half}.{direction}.{level}.resample.conv", f"{half}.{theirs}.{level}.{sampler}.0.conv"
                )
    if "quant.weight" in names:
        yield from both("quant", "quant_conv")
        yield from both("post_quant", "post_quant_conv")
    if isinstance(net, VQAutoencoder):
        yield Pair("codebook.table.weight", ("quantize.embedding.weight",))


def flat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Modern names, and attention's convolutions of size 1 as the matrices that they are."""
    named = {modern(name): value for name, value in tensors.items()}
    return {
        name: value.flatten(1) if ".attentions." in name and value.ndim > 2 else value for name, value in named.items()
    }


def _plan(config: Mapping[str, Any], what: str, quant: bool, embedded: int | None = None) -> Plan:
    widths = tuple(config["block_out_channels"])
    for direction, kind in KINDS.items():
        if set(config.get(f"{direction}_block_types", [kind])) != {kind}:
            raise CheckpointError(f"{what} has blocks {config[f'{direction}_block_types']}: this layout reads {kind}")
    for key, wanted in (("act_fn", "silu"), ("out_channels", config.get("in_channels", 3))):
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{what} has {key} = {config[key]!r}: an autoencoder of this layout has {wanted!r}")
    return Plan(
        config.get("in_channels", 3),
        config.get("latent_channels", 4),
        widths,
        config.get("layers_per_block", 1),
        groups=config.get("norm_num_groups", 32),
        middle_attention=config.get("mid_block_add_attention", True),
        quant=quant,
        embedded=embedded,
    )


def _config(plan: Plan) -> dict[str, Any]:
    if plan.dims != 2:
        raise CheckpointError(f"diffusers' autoencoders are 2-d, this one has {plan.dims} axes: keep our own format")
    if plan.fold > 1:
        raise CheckpointError("diffusers' autoencoders do not fold pixels into channels: keep our own format")
    return {
        "in_channels": plan.channels,
        "out_channels": plan.channels,
        "latent_channels": plan.latent,
        "block_out_channels": list(plan.widths),
        "layers_per_block": plan.blocks,
        "norm_num_groups": plan.groups,
        "act_fn": "silu",
        "down_block_types": [KINDS["down"]] * len(plan.widths),
        "up_block_types": [KINDS["up"]] * len(plan.widths),
    }
