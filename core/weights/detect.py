"""Detection of a file of weights by its names and shapes alone; only the header is read.

Names tell the kind of a network and whose layout it is in; shapes tell which of the published ones it is. What a file
cannot say (whether Stable Diffusion 2 predicts noise or v) is reported as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from core.weights.layouts import of_domains

TABLE = "scaled-linear table of 1000"
IN_SCHEDULER = "not in the file: see the folder's scheduler"
SIGNS = (  # kind, layout, a name that only it has
    ("lora", "PEFT", r".*\.lora_[AB](\.\w+)?\.weight"),
    ("lora", "kohya", r".*\.lora_(down|up)\.weight"),
    ("lora", "diffusers before PEFT", r".*(\.lora|_lora|\.lora_linear_layer)\.(down|up)\.weight"),
    ("lora", "LyCORIS (LoHa, LoKr)", r".*\.(hada_w1_a|lokr_w1|lokr_w1_a)"),
    ("controlnet", "diffusers", r"controlnet_cond_embedding\.conv_in\.weight"),
    ("controlnet", "original", r"input_hint_block\.0\.weight"),
    ("flux", "diffusers", r"single_transformer_blocks\.0\.attn\.to_q\.weight"),
    ("flux", "original", r"double_blocks\.0\.img_attn\.qkv\.weight"),
    ("mmdit", "diffusers", r"transformer_blocks\.0\.attn\.add_q_proj\.weight"),
    ("mmdit", "original", r"joint_blocks\.0\.x_block\.attn\.qkv\.weight"),
    ("dit", "diffusers", r"transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table\.weight"),
    ("dit", "original", r"y_embedder\.embedding_table\.weight"),
    ("vae", "diffusers", r"encoder\.down_blocks\.0\.resnets\.0\.norm1\.weight"),
    ("vae", "original", r"encoder\.down\.0\.block\.0\.norm1\.weight"),
    ("unet", "diffusers", r"down_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.0\.attn2\.to_k\.weight"),
    ("unet", "original", r"middle_block\.1\.transformer_blocks\.0\.attn2\.to_k\.weight"),
    ("pixels", "diffusers", r"down_blocks\.0\.resnets\.0\.conv1\.weight"),
    ("pixels", "original", r"input_blocks\.0\.0\.weight"),
    ("clip", "transformers", r"(text_model\.)?embeddings\.token_embedding\.weight"),
    ("clip", "OpenCLIP", r"transformer\.resblocks\.0\.attn\.in_proj_weight"),
    ("t5", "transformers", r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight"),
)
WHOLE = {  # how names begin in a file of a whole system -> the folder of that part
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.0.model.": "text_encoder_2",
    "conditioner.embedders.1.model.": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
    "control_model.": "controlnet",
}
ASIDE = re.compile(  # what files of whole systems hold besides their networks: averages, tables, counters, marks
    r"model_ema\..*|(model\.)?(betas|alphas_.*|sqrt_.*|log_one_.*|posterior_.*|lvlb_weights|logvar|scale_factor)"
    r"|denoiser\.sigmas|first_stage_model\.loss\..*|.*position_ids|.*\.logit_scale|.*\.attn_mask"
    r"|v_pred|ztsnr|edm_(mean|std)|global_step|epoch"
)
NOT_TRAINED = ("pos_embed", "pos_embed.pos_embed")  # tables that files keep


@dataclass(frozen=True)
class Found:
    """What a part of a file is."""

    kind: str  # "unet", "mmdit", "flux", "vae", ...; "" for something unknown
    layout: str
    model: str
    prediction: str = ""
    schedule: str = ""
    family: str = ""  # of latents: "sd", "sdxl", "sd3", "flux"; "" where the part does not tell


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """A file as its parts, by the prefix that they had, and the names that belong to none of them.

    A file of one network, without prefixes, is the part "".
    """
    if not any(name.startswith(tuple(WHOLE)) for name in tensors):
        return {"": dict(tensors)}, []
    parts: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, value in tensors.items():
        prefix = next((prefix for prefix in WHOLE if name.startswith(prefix)), None)
        if ASIDE.fullmatch(name):
            continue
        if prefix is None:
            strange.append(name)
        else:
            parts.setdefault(prefix, {})[name.removeprefix(prefix)] = value
    return parts, strange


def detect(tensors: Mapping[str, Tensor]) -> Found:
    """What the tensors of one part are. The layouts of domains come first, for their signs are theirs alone."""
    for own in of_domains():
        if own.fits(tensors):
            return Found(own.kind, own.layout, own.model, own.prediction, own.schedule)
    for kind, layout, sign in SIGNS:
        pattern = re.compile(sign)
        if any(pattern.fullmatch(name) for name in tensors):
            describe = {"unet": _unet, "controlnet": _controlnet, "mmdit": _mmdit, "flux": _flux, "vae": _vae}.get(kind)
            if describe is not None:
                return describe(tensors, layout)
            return Found(kind, layout, *_OTHERS[kind](tensors))
    return Found("", "", "weights of a network that is not known here")


def parameters(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for name, value in tensors.items() if name not in NOT_TRAINED)


def precision(tensors: Mapping[str, Tensor]) -> str:
    """The precisions of the tensors, the most common first."""
    counts: dict[str, int] = {}
    for value in tensors.values():
        name = str(value.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + value.numel()
    return ", ".join(sorted(counts, key=lambda name: -counts[name]))


def _shape(tensors: Mapping[str, Tensor], *names: str) -> tuple[int, ...]:
    """The shape of the first of these tensors that there is, or of the first whose name ends so."""
    for name in names:
        for key, value in tensors.items():
            if key == name or (name.startswith("*") and key.endswith(name[1:])):
                return tuple(value.shape)
    return (0, 0)


def _unet(tensors: Mapping[str, Tensor], layout: str) -> Found:
    channels = _shape(tensors, "conv_in.weight", "input_blocks.0.0.weight")[1]
    width = _shape(tensors, "*attn2.to_k.weight")[1]
    has_vector = any(name.startswith(("add_embedding.", "label_emb.0.")) for name in tensors)
    table = "class_embedding.weight" in tensors or "label_emb.weight" in tensors
    names = {
        (768, False): ("Stable Diffusion 1", "epsilon", "sd"),
        (1024, False): ("Stable Diffusion 2", f"epsilon or v ({IN_SCHEDULER})", "sd"),
        (2048, True): ("SDXL base", "epsilon", "sdxl"),
        (1280, True): ("SDXL refiner", "epsilon", "sdxl"),
        (1280, False): ("latent diffusion, text to image", "epsilon", "sd"),
    }
    other = f"cross-attention U-Net that reads a text of width {width}", IN_SCHEDULER, ""
    model, prediction, family = names.get((width, has_vector), other)
    if table and channels == 7:
        model, prediction = "Stable Diffusion x4 upscaler", "v"
    variants = {4: "", 9: ", inpainting", 5: ", with a depth map", 8: ", with a picture to edit", 7: ""}
    model += variants.get(channels, f", {channels} channels in")
    if "time_embedding.cond_proj.weight" in tensors:
        model += ", with a guidance embedding (LCM)"
    return Found("unet", layout, model, prediction, TABLE if family else IN_SCHEDULER, family)


def _controlnet(tensors: Mapping[str, Tensor], layout: str) -> Found:
    width = _shape(tensors, "*attn2.to_k.weight")[1]
    of = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}.get(width, f"a text of width {width}")
    return Found("controlnet", layout, f"ControlNet of {of}", "what its U-Net predicts", "its U-Net's")


def _mmdit(tensors: Mapping[str, Tensor], layout: str) -> Found:
    blocks = {m[1] for name in tensors if (m := re.match(r"(?:joint|transformer)_blocks\.(\d+)\.", name))}
    normed = any(name.endswith((".ln_q.weight", ".attn.norm_q.weight")) for name in tensors)
    dual = any(".attn2." in name for name in tensors)
    names = {
        (24, False, False): "Stable Diffusion 3 medium",
        (38, True, False): "Stable Diffusion 3.5 large",
        (24, True, True): "Stable Diffusion 3.5 medium",
    }
    model = names.get((len(blocks), normed, dual), f"MMDiT of {len(blocks)} blocks")
    return Found("mmdit", layout, model, "flow velocity", "straight path, shifted by 3", "sd3")


def _flux(tensors: Mapping[str, Tensor], layout: str) -> Found:
    doubles = {m[1] for name in tensors if (m := re.match(r"(?:double|transformer)_blocks\.(\d+)\.", name))}
    singles = {m[1] for name in tensors if (m := re.match(r"single_(?:transformer_)?blocks\.(\d+)\.", name))}
    guided = any("guidance" in name for name in tensors)
    channels = _shape(tensors, "x_embedder.weight", "img_in.weight")[1]
    variant = {384: "Fill", 128: "with a control picture (Canny, Depth)"}.get(channels, "dev" if guided else "schnell")
    model = f"FLUX.1 {variant}"
    if (len(doubles), len(singles)) != (19, 38):
        guidance = "with guidance embedding" if guided else "without guidance embedding"
        model = f"Flux of {len(doubles)} double and {len(singles)} single blocks, {guidance}"
    schedule = "straight path, shifted by the resolution" if guided else "straight path"
    return Found("flux", layout, model, "flow velocity", schedule, "flux")


def _vae(tensors: Mapping[str, Tensor], layout: str) -> Found:
    levels = {m[1] for name in tensors if (m := re.match(r"encoder\.down(?:_blocks)?\.(\d+)\.", name))}
    latent = _shape(tensors, "decoder.conv_in.weight")[1]
    if "quantize.embedding.weight" in tensors:
        rows, width = _shape(tensors, "quantize.embedding.weight")
        return Found("vq", layout, f"VQ autoencoder, f{2 ** (len(levels) - 1)}, {rows} codes of {width} channels")
    use = {4: " (Stable Diffusion 1, 2, XL)", 16: " (Stable Diffusion 3, Flux)"}.get(latent, "")
    use = use if len(levels) == 4 else ""
    return Found("vae", layout, f"KL autoencoder, f{2 ** (len(levels) - 1)}, {latent} channels{use}")


def _lora(tensors: Mapping[str, Tensor]) -> tuple[str]:
    ranks = {len(value) for name, value in tensors.items() if re.search(r"lora_A|lora_down|lora.*\.down\.", name)}
    texts = any(name.startswith(("text_encoder", "lora_te")) for name in tensors)
    flux = any(re.search(r"single_(transformer_)?blocks", name) for name in tensors)
    mmdit = any(re.search(r"joint_blocks|add_[qkv]_proj", name) for name in tensors)
    widths = {value.shape[1] for name, value in tensors.items() if re.search(r"attn2[._]to_k.*(_A|down)", name)}
    named = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL", 1280: "SDXL refiner"}
    known = [name for width, name in named.items() if width in widths]
    of = (
        "Flux"
        if flux
        else "Stable Diffusion 3"
        if mmdit
        else known[0]
        if known
        else "a network not recognised by its names"
    )
    rank = f", rank {', '.join(map(str, sorted(ranks)))}" if ranks else ""
    return (f"LoRA for {of}{rank}{', text encoders too' if texts else ''}",)


def _dit(tensors: Mapping[str, Tensor]) -> tuple[str, str, str]:
    return "DiT, class-conditional", "epsilon, variances learned too", "linear table of 1000"


def _pixels(tensors: Mapping[str, Tensor]) -> tuple[str, str, str]:
    channels = _shape(tensors, "conv_in.weight", "input_blocks.0.0.weight")[1]
    return f"U-Net without text (DDPM, ADM), {channels} channels", IN_SCHEDULER, IN_SCHEDULER


def _clip(tensors: Mapping[str, Tensor]) -> tuple[str]:
    width = _shape(tensors, "*token_embedding.weight")[1]
    names = {768: "CLIP-L text encoder", 1024: "OpenCLIP-H text encoder", 1280: "OpenCLIP-bigG text encoder"}
    return (names.get(width, f"CLIP text encoder of width {width}"),)


def _t5(tensors: Mapping[str, Tensor]) -> tuple[str]:
    return (f"T5 encoder of width {_shape(tensors, '*SelfAttention.q.weight')[1]}",)


_OTHERS = {"lora": _lora, "dit": _dit, "pixels": _pixels, "clip": _clip, "t5": _t5}
