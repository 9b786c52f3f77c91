"""From one published layout to another, tensor by tensor, so that no more than one layer has to be in memory.

Both layouts of a network are key rules onto the same network of ours. So a foreign tensor is read by the rules of its
own layout and written by those of the other, while our network exists as shapes only. Tensors are mapped from their
files: the system may drop what was read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.autoencoder import KLAutoencoder, VQAutoencoder
from core.nn.text_unet import TextUNet
from core.weights import (
    autoencoder,
    autoencoder_original,
    controlnet,
    dit,
    flux,
    flux_original,
    mmdit,
    mmdit_original,
    text_encoder,
)
from core.weights import text_unet as unet
from core.weights import text_unet_original as unet_original
from core.weights import unet as pixels
from core.weights.checkpoint import CheckpointError, fill
from core.weights.detect import Found
from core.weights.flux_original import ATTENTION, MLP
from core.weights.layouts import of_domains
from core.weights.pairs import Pair, to_ours, to_theirs

DIFFUSERS, ORIGINAL = "diffusers", "original"
Tensors = dict[str, Tensor]
LATENTS = {  # of each family's autoencoder: scale, shift, the sides of its pictures, whether decoding needs float32
    "sd": autoencoder.LatentConfig(0.18215, 0.0, 512),
    "sdxl": autoencoder.LatentConfig(0.13025, 0.0, 1024, upcast=True),
    "sd3": autoencoder.LatentConfig(1.5305, 0.0609, 1024, upcast=True),
    "flux": autoencoder.LatentConfig(0.3611, 0.1159, 1024, upcast=True),
}


ALONE: dict[str, Callable[[Path], object]] = {  # networks whose layouts are not the same function, or are alone
    "controlnet": controlnet.load_diffusers,
    "dit": dit.load_diffusers,
    "pixels": pixels.load_diffusers,
}


class Source(NamedTuple):
    """A network as it lies in files."""

    found: Found
    tensors: Tensors  # mapped from the files, not read
    config: Mapping[str, Any] | None  # of a folder
    where: str
    act: str = ""  # of a CLIP encoder, where no configuration says it
    shortened: bool = False  # an OpenCLIP encoder whose last layer is never asked (Stable Diffusion 2)
    plain: bool = False  # a CLIP encoder of a system whose single files keep the names of transformers (SD3, Flux)


class Target(NamedTuple):
    """A network in another layout, not yet read."""

    outline: Tensors  # on the meta device
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    config: dict[str, Any]  # of diffusers' folder; empty for the original layout


class Rules(NamedTuple):
    """The two layouts of one network."""

    diffusers: Callable[[], Iterable[Pair]]
    original: Callable[[], Iterable[Pair]]
    config: Callable[[], dict[str, Any]]


def convert(source: Source, to: str, latents: autoencoder.LatentConfig | None = None) -> Target:
    """A source in the layout ``to``; ``latents`` is what an autoencoder's original file does not say of its latents.

    Raises CheckpointError for tensors that are missing, unknown or misshapen, and for networks of one layout only.
    """
    tensors = _cleaned(source)
    shapes = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
    rules = _rules(source, shapes, latents)
    own = DIFFUSERS if source.found.layout in (DIFFUSERS, "transformers") else ORIGINAL
    reading = list(rules.diffusers() if own == DIFFUSERS else rules.original())
    writing = list(rules.diffusers() if to == DIFFUSERS else rules.original())
    ours = to_ours(reading, shapes, source.where)
    outline = dict(_joined(to_theirs(writing, ours).items()))

    def stream() -> Iterator[tuple[str, Tensor]]:
        return _joined(_passed(reading, writing, tensors))

    config = {} if to != DIFFUSERS else dict(source.config or rules.config())
    return Target(outline, stream, config)


def cast(target: Target, dtype: torch.dtype | None) -> Target:
    """The same in another precision; None keeps each tensor's own, and numbers of places keep it always."""
    if dtype is None:
        return target
    outline = {name: value.to(dtype) if value.is_floating_point() else value for name, value in target.outline.items()}

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name, value in target.tensors():
            yield name, value.to(outline[name].dtype)

    return Target(outline, stream, target.config)


def _passed(reading: Iterable[Pair], writing: Iterable[Pair], tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Foreign tensors of one layout -> those of another, one tensor of ours at a time."""
    sources = {pair.ours: pair for pair in reading}
    for pair in writing:
        source = sources[pair.ours]
        whole = source.form.read([tensors[name] for name in source.theirs])
        yield from zip(pair.theirs, pair.form.write(whole, len(pair.theirs)), strict=True)


def _joined(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """With the two parts of Flux's ``linear1`` as one."""
    waiting: Tensors = {}
    for name, value in stream:
        if ATTENTION in name:
            waiting[name.replace(ATTENTION, MLP)] = value
        elif MLP in name:
            yield name.replace(MLP, "linear1"), torch.cat([waiting.pop(name), value])
        else:
            yield name, value


def _cleaned(source: Source) -> Tensors:
    """The network's own tensors, by the names that the rules know."""
    kind, layout = source.found.kind, source.found.layout
    if kind in ("vae", "vq"):
        named = autoencoder.flat if layout == DIFFUSERS else autoencoder_original.network_part
        return named(source.tensors)
    if kind == "flux" and layout == ORIGINAL:
        return flux_original.split(source.tensors)
    if kind == "clip":
        kept = text_encoder.cleaned(source.tensors)
        return text_encoder.penultimate(kept) if source.shortened else kept
    if kind == "t5":
        # Both names are of one tensor, and transformers writes the first.
        return {name: value for name, value in source.tensors.items() if name != "encoder.embed_tokens.weight"}
    return source.tensors


def _rules(source: Source, shapes: Tensors, latents: autoencoder.LatentConfig | None) -> Rules:
    """The rules of a network whose tensors have these shapes, checked against them."""
    makers = {"unet": _unet, "mmdit": _mmdit, "flux": _flux, "clip": _clip, "t5": _t5}
    if source.found.kind in ("vae", "vq"):
        return _autoencoder(source, shapes, latents or autoencoder.LatentConfig())
    maker = makers.get(source.found.kind)
    return _of_one_layout(source, shapes) if maker is None else maker(source, shapes)


def _of_one_layout(source: Source, shapes: Tensors) -> Rules:
    """The rules of a network that is read from a folder of diffusers, and written as one in another precision."""
    domains = {own.kind: own.load for own in of_domains() if own.load is not None}
    loader = (ALONE | domains).get(source.found.kind)
    if loader is None or source.config is None:
        raise CheckpointError(f"{source.where} is {source.found.model}, which no other layout is known of here")
    loader(Path(source.where))  # raises where its tensors are not those of the network

    def crossed() -> Iterable[Pair]:
        raise CheckpointError(f"{source.where} is {source.found.model}, which stays in diffusers' layout")

    return Rules(lambda: [Pair(name, (name,)) for name in shapes], crossed, dict)


def _config(source: Source) -> Mapping[str, Any]:
    if source.config is None:
        raise CheckpointError(f"{source.where} has diffusers' names, but no config.json: give its folder")
    return source.config


def _unet(source: Source, shapes: Tensors) -> Rules:
    table = shapes.get(unet.TABLE, shapes.get(unet_original.TABLE))
    if source.found.layout == DIFFUSERS:
        with torch.device("meta"):
            net = TextUNet(unet.plan_of(_config(source), source.where))
        unet.extras_of(_config(source), table, net, source.where)
        body = {name: value for name, value in shapes.items() if name != unet.TABLE}
        _check(net, unet.pairs(net), body, source.where)
    else:
        net, _ = unet_original.from_original(shapes, source.where)
    width, has_vector = net.plan.text_width, net.plan.vector_width is not None
    size = 128 if has_vector else 96 if width == 1024 else 64
    upcast = width == 1024 and not has_vector

    def with_table(pairs: Iterable[Pair], name: str) -> Iterator[Pair]:
        yield from pairs
        if table is not None:
            yield Pair("table", (name,))

    return Rules(
        lambda: with_table(unet.pairs(net), unet.TABLE),
        lambda: with_table(unet_original.pairs(net), unet_original.TABLE),
        lambda: {
            "_class_name": unet.CLASS,
            **unet.config_of(net.plan, unet.UNetExtras(table, size, 256 if has_vector else None, upcast)),
        },
    )


def _autoencoder(source: Source, shapes: Tensors, latents: autoencoder.LatentConfig) -> Rules:
    vq, where = source.found.kind == "vq", source.where
    if source.found.layout == DIFFUSERS:
        net: KLAutoencoder | VQAutoencoder
        if vq:
            net = autoencoder.make_vq(_config(source), where)
        else:
            with torch.device("meta"):
                net = KLAutoencoder(autoencoder.kl_plan(_config(source), where))
        _check(net, autoencoder.pairs(net), shapes, where)
    else:
        original = autoencoder_original
        net = original.vq_from_original(shapes, where) if vq else original.from_original(shapes, where)

    def config() -> dict[str, Any]:
        if isinstance(net, KLAutoencoder):
            return {"_class_name": autoencoder.KL, **autoencoder.kl_config(net, latents)}
        return {"_class_name": autoencoder.VQ, **autoencoder.vq_config(net)}

    return Rules(lambda: autoencoder.pairs(net), lambda: autoencoder_original.pairs(net), config)


def _mmdit(source: Source, shapes: Tensors) -> Rules:
    if source.found.layout == DIFFUSERS:
        net = mmdit.make(_config(source), source.where)
        mmdit.assemble(net, mmdit.diffusers_pairs(net), shapes, source.where, "pos_embed.pos_embed")
    else:
        net = mmdit_original.from_original(shapes, what=source.where)
    return Rules(
        lambda: mmdit.diffusers_pairs(net),
        lambda: mmdit_original.original_pairs(net),
        lambda: {"_class_name": mmdit.CLASS, **mmdit.config_of(net)},
    )


def _flux(source: Source, shapes: Tensors) -> Rules:
    if source.found.layout == DIFFUSERS:
        net = flux.make(_config(source), source.where)
    else:
        net = flux_original.from_original(dict(_joined(shapes.items())), what=source.where)
    sizes, guided = (len(net.doubles), len(net.singles)), net.guidance is not None
    if source.found.layout == DIFFUSERS:
        _check(net, flux.diffusers_pairs(*sizes, True, guided), shapes, source.where)
    return Rules(
        lambda: flux.diffusers_pairs(*sizes, True, guided),
        lambda: flux_original.original_pairs(*sizes, guided),
        lambda: {"_class_name": flux.CLASS, **flux.config_of(net)},
    )


def _clip(source: Source, shapes: Tensors) -> Rules:
    """An encoder with "gelu" is OpenCLIP's, whose original fuses its projections; CLIP's own is as in transformers.

    Stable Diffusion 3 and Flux keep the names of transformers for both.
    """
    act = str((source.config or {}).get("hidden_act", source.act or "quick_gelu"))
    depth = text_encoder.depth(shapes)
    projected = "text_projection.weight" in shapes or "text_projection" in shapes
    open_clip = list(text_encoder.open_clip_pairs(depth, projected))
    if source.found.layout == "OpenCLIP":
        ours = shapes
    elif act == "gelu" and not source.plain:
        ours = to_ours(open_clip, shapes, source.where)
    else:
        ours = {}
        open_clip = [Pair(name, (name,)) for name in shapes]
    own = [Pair(name, (name,)) for name in ours] or open_clip

    def config() -> dict[str, Any]:
        return text_encoder.clip_config(to_theirs(open_clip, ours or shapes), act, source.where)

    return Rules(lambda: open_clip, lambda: own, config)


def _t5(source: Source, shapes: Tensors) -> Rules:
    def same() -> Iterator[Pair]:
        return (Pair(name, (name,)) for name in shapes)

    return Rules(same, same, lambda: text_encoder.t5_config(shapes, source.where))


def _check(net: nn.Module, pairs: Iterable[Pair], shapes: Tensors, where: str) -> None:
    """Raises CheckpointError where tensors of these shapes do not fill the network."""
    fill(net, to_ours(pairs, shapes, where), Path(where))


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's configuration."""
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} has no readable config.json: give the folder of a diffusers model") from error
    return found
