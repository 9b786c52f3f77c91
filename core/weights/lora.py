"""LoRA files, both ways: PEFT's and diffusers' names (``unet.`` or ``transformer.``, lora_A, lora_B) and kohya's
(``lora_unet_``, lora_down, lora_up, alpha).

A LoRA names the layers of a foreign network, so its names follow from the network's own key rules: each rule of
``core.weights`` is asked where the rows and columns of a foreign matrix lie in ours. Queries, keys and values of a file
become blocks of our fused layers; a fused layer of a file, or of ours, is cut in the same way. A file may use the names
of either layout of its network.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from core.autoencoder import KLAutoencoder
from core.nn.controlnet import ControlNet
from core.nn.flux import Flux
from core.nn.lora import Addition, LoRA, layers_of
from core.nn.mmdit import MMDiT
from core.nn.text_unet import TextUNet
from core.weights import autoencoder, controlnet, flux, flux_original, mmdit, mmdit_original, text_unet
from core.weights import text_unet_original as unet_original
from core.weights.checkpoint import CheckpointError, read, write_tensors
from core.weights.pairs import Pair

DESCRIPTION = "lora_adapter_metadata"  # where diffusers keeps rank and alpha
NETWORK, TEXTS = "network", ("text_encoder", "text_encoder_2", "text_encoder_3")
PREFIXES = {  # how the names of a part begin
    "unet.": NETWORK,
    "transformer.": NETWORK,
    "model.diffusion_model.": NETWORK,
    "diffusion_model.": NETWORK,
    "lora_unet_": NETWORK,
    "lora_transformer_": NETWORK,
    "text_encoder.": TEXTS[0],
    "text_encoder_2.": TEXTS[1],
    "text_encoder_3.": TEXTS[2],
    "lora_te_": TEXTS[0],
    "lora_te1_": TEXTS[0],
    "lora_te2_": TEXTS[1],
    "lora_te3_": TEXTS[2],
}
ROLE = re.compile(
    r"(?P<stem>.+?)(?:\.lora_(?P<letter>[AB])(?:\.\w+)?|\.lora(?:_linear_layer)?[._](?P<role>down|up|mid))\.weight"
    r"|(?P<scaled>.+)\.alpha"
)
PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.")  # diffusers' names of its first months


class Place(NamedTuple):
    """Rows of a foreign layer and where they lie in a layer of ours."""

    layer: str
    rows: Tensor  # (rows,) of ours, in the foreign order
    columns: Tensor  # (in * kernel,) of ours, in the foreign order
    shape: tuple[int, ...]  # of the foreign weight


@dataclass
class Factors:
    """One layer's LoRA as a file has it: the file's shapes, and alpha where the file says one."""

    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    alpha: float | None = None


Parts = dict[str, dict[str, Factors]]  # "network" or a text encoder -> the foreign layer's name -> its factors


def load(path: Path, net: nn.Module) -> LoRA:
    """The LoRA of a file for a network. Raises CheckpointError where it is none, or is of another network."""
    found = read_file(path).get(NETWORK)
    if not found:
        raise CheckpointError(f"{path} has no LoRA of a diffusion network, only of text encoders")
    return _resolved(found, names_of(net), net, path)


def load_text(path: Path, encoder: nn.Module, part: str = TEXTS[0]) -> LoRA | None:
    """The LoRA of a file for one of its text encoders, a module of ``transformers``; None where it has none."""
    names = _own(encoder)
    for name, places in list(names.items()):
        bare = name.removeprefix("text_model.")
        names |= {bare: places, f"text_model.{bare}": places}
    found = read_file(path).get(part)
    return None if not found else _resolved(found, names, encoder, path)


def save_diffusers(path: Path, net: nn.Module, lora: LoRA) -> None:
    """Write a file that diffusers and PEFT read. Its B holds the scale, because not every reader asks for alpha."""
    prefix = "unet" if isinstance(net, TextUNet) else "transformer"
    tensors: dict[str, Tensor] = {}
    for name, factors in _foreign(lora, names_of(net, original=False)):
        down, up, scale = factors
        tensors[f"{prefix}.{name}.lora_A.weight"] = down
        tensors[f"{prefix}.{name}.lora_B.weight"] = up * scale
    write_tensors(path, tensors, {"format": "pt"})


def save_kohya(path: Path, net: nn.Module, lora: LoRA) -> None:
    """Write a file with kohya's names: diffusers' layers for Stable Diffusion 1 and 2, the original's for the rest."""
    original = not isinstance(net, TextUNet) or net.plan.vector_width is not None
    tensors: dict[str, Tensor] = {}
    for name, (down, up, scale) in _foreign(lora, names_of(net, diffusers=not original, original=original)):
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = down, up
        tensors[f"{stem}.alpha"] = torch.tensor(scale * len(down))
    write_tensors(path, tensors, {"ss_network_module": "networks.lora"})


def read_file(path: Path) -> Parts:
    """What a LoRA file holds, by part and foreign layer. Raises CheckpointError for anything else than plain LoRA."""
    tensors, alphas = read(path), _alphas(path)
    parts: Parts = {}
    for key, value in tensors.items():
        match = ROLE.fullmatch(PROCESSOR.sub(r".\1.lora.", key.removeprefix("base_model.model.")))
        if match is None:
            raise CheckpointError(
                f"{path} holds {key}, which is no plain LoRA (DoRA, LoHa, LoKr and biases are not read): merge it into "
                "its model with the program that made it"
            )
        stem = match["stem"] or match["scaled"]
        prefix = next((prefix for prefix in PREFIXES if stem.startswith(prefix)), "")
        layers = parts.setdefault(PREFIXES.get(prefix, NETWORK), {})
        factors = layers.setdefault(stem.removeprefix(prefix), Factors())
        if match["scaled"]:
            factors.alpha = float(value)
            continue
        setattr(factors, match["role"] or {"A": "down", "B": "up"}[match["letter"]], value)
        if factors.alpha is None and factors.down is not None:
            factors.alpha = _alpha_of(alphas, prefix, stem.removeprefix(prefix), len(factors.down))
    return parts


def names_of(net: nn.Module, diffusers: bool = True, original: bool = True) -> dict[str, list[Place]]:
    """The layers of a network as published layouts call them; by our own names where it has no such layout."""
    layers = {name: layer.weight.shape for name, layer in layers_of(net).items()}
    found: dict[str, list[Place]] = {}
    for pairs, wanted in zip(_layouts(net), (diffusers, original)):
        if wanted:
            for name, places in _places(pairs, layers).items():
                found.setdefault(name, places)
    return found or _own(net)


def _layouts(net: nn.Module) -> tuple[Iterable[Pair], Iterable[Pair]]:
    """The key rules of diffusers' layout and of the original."""
    match net:
        case TextUNet():
            return text_unet.pairs(net), () if net.guidance is not None else unet_original.pairs(net)
        case MMDiT(vector=vector) if vector is not None:
            return mmdit.diffusers_pairs(net), mmdit_original.original_pairs(net)
        case Flux(vector=vector, guidance=guidance) if vector is not None:
            sizes, guided = (len(net.doubles), len(net.singles)), guidance is not None
            return flux.diffusers_pairs(*sizes, True, guided), flux_original.original_pairs(*sizes, guided)
        case ControlNet():
            return controlnet.pairs(net), ()
        case KLAutoencoder():
            return autoencoder.pairs(net), ()
    return (), ()


def _places(pairs: Iterable[Pair], layers: Mapping[str, torch.Size]) -> dict[str, list[Place]]:
    """Where every foreign layer lies, found by sending the numbers of our rows and columns through the rules."""
    found: dict[str, list[Place]] = {}
    for pair in pairs:
        ours = pair.ours.removesuffix(".weight")
        if ours == pair.ours or ours not in layers:
            continue
        shape, count = layers[ours], len(pair.theirs)
        rows = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        columns = torch.arange(shape[1:].numel()).view(1, *shape[1:]).expand(shape)
        for name, row, column in zip(pair.theirs, pair.form.write(rows, count), pair.form.write(columns, count)):
            first = row
            while first.ndim > 1:
                first = first.select(-1, 0)  # without a copy of what `expand` only pretends to hold
            # A layer of theirs that is two of ours has one name (Flux's linear1).
            stem = re.sub(r"\[\w+\]", "", name.removesuffix(".weight"))
            found.setdefault(stem, []).append(Place(ours, first, column[0].flatten(), tuple(row.shape)))
    return found


def _own(net: nn.Module) -> dict[str, list[Place]]:
    """Layers by the names that the module itself has."""
    shapes = {name: layer.weight.shape for name, layer in layers_of(net).items()}
    return {
        name: [Place(name, torch.arange(shape[0]), torch.arange(shape[1:].numel()), tuple(shape))]
        for name, shape in shapes.items()
    }


def _resolved(found: Mapping[str, Factors], names: Mapping[str, list[Place]], net: nn.Module, path: Path) -> LoRA:
    """A file's layers as additions to ours."""
    flat = {name.replace(".", "_"): places for name, places in names.items()}
    layers, additions = layers_of(net), dict[str, list[Addition]]()
    for name, factors in found.items():
        key = name.replace(".", "_")
        places = flat.get(key) or flat.get(f"{key}_0")  # "to_out", which is a list of one layer
        if places is None:
            raise CheckpointError(f"{path} has a LoRA on {name}, which the network has not: it is of another network")
        down, up = _matrices(factors, name, path)
        if len(up) != sum(len(place.rows) for place in places) or down.shape[1] != len(places[0].columns):
            raise CheckpointError(
                f"{path} has a LoRA of {len(up)} x {down.shape[1]} on {name}, which is {places[0].shape}: it is of "
                "another network"
            )
        for place, part in zip(places, up.split([len(place.rows) for place in places])):
            weight = layers[place.layer].weight
            ours = torch.empty_like(down)
            ours[:, place.columns] = down
            order = place.rows.argsort()
            addition = Addition(
                ours.view(-1, *weight.shape[1:]), part[order].clone(), factors.alpha, int(place.rows[order[0]])
            )
            additions.setdefault(place.layer, []).append(addition)
    return LoRA(additions)


def _matrices(factors: Factors, name: str, path: Path) -> tuple[Tensor, Tensor]:
    """down (rank, in * kernel) and up (rows, rank), a convolution between them folded into the first."""
    down, up = factors.down, factors.up
    if down is None or up is None:
        raise CheckpointError(f"{path} has only a half of the LoRA on {name}: the file is damaged")
    if factors.mid is not None:
        down = torch.einsum("or...,ri->oi...", factors.mid, down.flatten(1))
    return down.flatten(1), up.flatten(1)


def _foreign(lora: LoRA, names: Mapping[str, list[Place]]) -> Iterator[tuple[str, tuple[Tensor, Tensor, float]]]:
    """Foreign layers with their down, up and scale. Raises CheckpointError for a layer that the layout has not."""
    additions = dict(lora.items())
    homeless = additions.keys() - {place.layer for places in names.values() for place in places}
    if homeless:
        raise CheckpointError(f"this layout has no place for a LoRA on {min(homeless)}: choose other targets")
    for name, places in names.items():
        downs, ups, scales = [], [], []
        total, first = sum(len(place.rows) for place in places), 0
        for place in places:
            for part in additions.get(place.layer, []):
                inside = (place.rows >= part.start) & (place.rows < part.stop)
                if inside.any():
                    up = part.up.new_zeros(total, part.rank)
                    up[first : first + len(place.rows)][inside] = part.up.detach()[place.rows[inside] - part.start]
                    downs.append(part.down.detach().flatten(1)[:, place.columns])
                    ups.append(up)
                    scales.append(float(part.alpha) / part.rank)
            first += len(place.rows)
        if downs:
            scale = scales[0] if len(scales) == 1 else 1.0
            joined = ups[0] if len(ups) == 1 else torch.cat([up * s for up, s in zip(ups, scales)], dim=1)
            kernel = places[0].shape[1:]
            yield (
                name,
                (
                    torch.cat(downs).view(-1, *kernel),
                    joined.view(*joined.shape, *[1] * (len(kernel) - 1)),
                    scale,
                ),
            )


def _alphas(path: Path) -> dict[str, Any]:
    """Rank and alpha as a file, or PEFT's ``adapter_config.json`` next to it, gives them."""
    with safe_open(path, framework="pt") as file:
        words = (file.metadata() or {}).get(DESCRIPTION)
    config = path.parent / "adapter_config.json"
    if words is None and config.exists():
        words = config.read_text()
    try:
        found: dict[str, Any] = json.loads(words or "{}")
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} describes its LoRA in words that cannot be read: the file is damaged") from error
    return found


def _alpha_of(words: Mapping[str, Any], prefix: str, stem: str, rank: int) -> float | None:
    """The alpha that a description gives a layer, or None."""

    def entry(key: str) -> Any:
        return words.get(f"{prefix}{key}", words.get(key))

    patterns = entry("alpha_pattern") or {}
    alpha = next((value for name, value in patterns.items() if re.fullmatch(rf"(?:.*\.)?{name}", stem)), None)
    alpha = entry("lora_alpha") if alpha is None else alpha
    if alpha is None:
        return None
    return float(alpha) * (math.sqrt(rank) if entry("use_rslora") else 1.0)


def path_and_weight(word: str) -> tuple[Path, float]:
    """The path and the weight in ``style.safetensors:0.8``; the weight is 1 where none is given."""
    name, colon, weight = word.rpartition(":")
    if not colon or Path(word).exists() or weight.endswith(".safetensors"):
        return Path(word), 1.0
    try:
        return Path(name), float(weight)
    except ValueError as error:
        raise ValueError(f"'{weight}' is no weight for {name}: write {name}:0.8") from error
