"""Whole pipelines of diffusers with random weights, small enough for a test: each is saved as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.support.parameters import randomise

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz!,."
MERGES = ("c a", "d o", "ca t</w>", "do g</w>", "r e", "re d</w>", "a n", "an d</w>")
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}


def stable_diffusion(folder: Path) -> Path:
    """Stable Diffusion 1: CLIP, a U-Net that predicts noise, PNDM."""
    scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **SCALED)
    tokenizer = clip_tokenizer(folder / "words")
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(4, 0.18215),
        text_encoder=clip(tokenizer, 32, seed=1),
        tokenizer=tokenizer,
        unet=randomise(UNet2DConditionModel(**UNET), 2),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipeline, folder)


def sdxl(folder: Path) -> Path:
    """SDXL: two CLIPs of which the second pads with "!", size and crop, Euler."""
    tokenizer, second = clip_tokenizer(folder / "words"), clip_tokenizer(folder / "words", pad="!")
    net = UNet2DConditionModel(
        **UNET | XL | {"cross_attention_dim": 56, "projection_class_embeddings_input_dim": 8 * 6 + 32}
    )
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(4, 0.13025, force_upcast=True),
        text_encoder=clip(tokenizer, 24, seed=3),
        text_encoder_2=clip(second, 32, projected=32, seed=4),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=randomise(net, 5),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **SCALED),
        add_watermarker=False,
    )
    return saved(pipeline, folder)


def refiner(folder: Path) -> Path:
    """SDXL's refiner: the second CLIP only, and an aesthetic score in place of the target size."""
    second = clip_tokenizer(folder / "words", pad="!")
    net = UNet2DConditionModel(
        **UNET | XL | {"cross_attention_dim": 32, "projection_class_embeddings_input_dim": 8 * 5 + 32}
    )
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder(4, 0.13025, force_upcast=True),
        text_encoder=None,
        text_encoder_2=clip(second, 32, projected=32, seed=4),
        tokenizer=None,
        tokenizer_2=second,
        unet=randomise(net, 14),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **SCALED),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    return saved(pipeline, folder)


def controlnet(pipeline: Path, folder: Path) -> Path:
    """A ControlNet of a pipeline's U-Net, for pictures twice as large as its latents."""
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    randomise(net, 15).save_pretrained(folder)
    return folder


def sd3(folder: Path) -> Path:
    """Stable Diffusion 3: two CLIPs side by side, narrower than the T5 after them, on a flow shifted by 3."""
    tokenizer, second = clip_tokenizer(folder / "words"), clip_tokenizer(folder / "words", pad="!")
    third = t5_tokenizer()
    net = SD3Transformer2DModel(
        sample_size=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=12,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=randomise(net, 6),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, 1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(tokenizer, 12, projected=16, seed=7),
        tokenizer=tokenizer,
        text_encoder_2=clip(second, 16, projected=24, seed=8),
        tokenizer_2=second,
        text_encoder_3=t5(third, seed=9),
        tokenizer_3=third,
    )
    return saved(pipeline, folder)


def flux(folder: Path, guided: bool = True) -> Path:
    """Flux dev, or schnell if not ``guided``: T5 to read, a pooled CLIP to hear, its shift that of the resolution."""
    tokenizer, second = clip_tokenizer(folder / "words"), t5_tokenizer()
    net = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guided,
    )
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guided
        else FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    pipeline = FluxPipeline(
        scheduler=scheduler,
        vae=autoencoder(4, 0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(tokenizer, 24, seed=10),
        tokenizer=tokenizer,
        text_encoder_2=t5(second, seed=11),
        tokenizer_2=second,
        transformer=randomise(net, 12),
    )
    return saved(pipeline, folder)


def schnell(folder: Path) -> Path:
    """Flux schnell: no guidance embedding, and its times are not shifted."""
    return flux(folder, guided=False)


def saved(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def autoencoder(channels: int, scale: float, **options: Any) -> AutoencoderKL:
    """A KL autoencoder that shrinks pictures by two."""
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=channels,
        scaling_factor=scale,
        sample_size=32,
        **options,
    )
    return randomise(net, 13)


def clip_tokenizer(folder: Path, pad: str = END) -> CLIPTokenizer:
    """Letters, a few words, and 77 tokens at most."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(merge.replace(" ", "") for merge in MERGES)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: place for place, word in enumerate(["!", *(w for w in words if w != "!"), BEGIN, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token=pad, unk_token=END)
    tokenizer.model_max_length = 77
    return tokenizer


def clip(tokenizer: CLIPTokenizer, width: int, projected: int | None = None, seed: int = 0) -> Any:
    """CLIP's text encoder; with ``projected``, as the second of SDXL: exact GELU and a projection."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu" if projected is None else "gelu",
        projection_dim=projected or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomise((CLIPTextModel if projected is None else CLIPTextModelWithProjection)(config), seed)


def t5_tokenizer() -> T5Tokenizer:
    """Pieces of one letter, and a few words."""
    pieces = ["▁", *(f"▁{word}" for word in ("cat", "dog", "red", "and", "a")), *LETTERS]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -float(len(piece) < 3)) for piece in pieces)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    tokenizer.model_max_length = 512
    return tokenizer


def t5(tokenizer: T5Tokenizer, seed: int = 0) -> Any:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return randomise(T5EncoderModel(config), seed)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": stable_diffusion,
    "sdxl": sdxl,
    "refiner": refiner,
    "sd3": sd3,
    "flux": flux,
    "schnell": schnell,
}


class Folders(dict[str, Path]):
    """The folder of each family, made when it is first asked for."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def __missing__(self, family: str) -> Path:
        self[family] = MAKERS[family](self.place / family)
        return self[family]
