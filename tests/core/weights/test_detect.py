"""What files are, by the names and shapes of the full-size networks, none of which is in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.autoencoder import KLAutoencoder, VQAutoencoder
from core.autoencoder.net import Plan as CodePlan
from core.autoencoder.net import sd3_vae, sd_vae
from core.nn.controlnet import ControlNet
from core.nn.flux import Flux, flux_dev, flux_schnell
from core.nn.mmdit import sd3_medium, sd35_large, sd35_medium
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import lcm_sd1, sd1, sd1_inpainting, sd2, sd2_depth, sdxl, sdxl_refiner, upscaler
from core.weights import autoencoder, autoencoder_original, controlnet, flux, flux_original, mmdit, mmdit_original
from core.weights import text_unet as unet
from core.weights import text_unet_original as unet_original
from core.weights.detect import detect, parameters, precision, split
from core.weights.pairs import to_theirs
from core.weights.text_encoder import open_clip_pairs

UNETS = {
    "Stable Diffusion 1": (sd1, 859_520_964, "epsilon"),
    "Stable Diffusion 1, inpainting": (sd1_inpainting, 859_535_364, "epsilon"),
    "Stable Diffusion 2": (sd2, 865_910_724, "epsilon or v"),
    "Stable Diffusion 2, with a depth map": (sd2_depth, 865_913_604, "epsilon or v"),
    "SDXL base": (sdxl, 2_567_463_684, "epsilon"),
    "SDXL refiner": (sdxl_refiner, 2_259_526_660, "epsilon"),
}
TRANSFORMERS = {
    "Stable Diffusion 3 medium": (sd3_medium, 2_028_328_000),
    "Stable Diffusion 3.5 large": (sd35_large, 8_056_627_520),
    "Stable Diffusion 3.5 medium": (sd35_medium, 2_243_171_520),
}
FLUX = {"FLUX.1 dev": (flux_dev, 11_901_408_320), "FLUX.1 schnell": (flux_schnell, 11_891_178_560)}


def both(name: str) -> dict[str, dict[str, Tensor]]:
    """A full-size network in diffusers' layout and in the original, as shapes."""
    with torch.device("meta"):
        if name in UNETS:
            net = TextUNet(UNETS[name][0]())
            return {
                "diffusers": to_theirs(unet.pairs(net), net.state_dict()),
                "original": to_theirs(unet_original.pairs(net), net.state_dict()),
            }
        if name in FLUX:
            transformer = FLUX[name][0]()
            sizes, guided = (19, 38), transformer.guidance is not None
            return {
                "diffusers": to_theirs(flux.diffusers_pairs(*sizes, True, guided), transformer.state_dict()),
                "original": flux_original.to_original(transformer),
            }
        joint = TRANSFORMERS[name][0]()
        return {
            "diffusers": to_theirs(mmdit.diffusers_pairs(joint), joint.state_dict()),
            "original": to_theirs(mmdit_original.original_pairs(joint), joint.state_dict()),
        }


@pytest.mark.parametrize("name", [*UNETS, *TRANSFORMERS, *FLUX])
def test_published_networks_are_known_by_their_shapes_and_counted(name: str) -> None:
    count = (UNETS | TRANSFORMERS | FLUX)[name][1]
    for layout, tensors in both(name).items():
        found = detect(tensors)
        assert (found.model, found.layout) == (name, layout)
        assert parameters(tensors) == count
        assert found.prediction.startswith(UNETS[name][2] if name in UNETS else "flow velocity")
        assert found.schedule


def test_kin_of_the_published_networks() -> None:
    with torch.device("meta"):
        lcm, large, small = TextUNet(lcm_sd1()), TextUNet(upscaler()), Flux(doubles=2, singles=3)
        control = ControlNet(sd1())
        fill = Flux(concat_channels=80, guided=True)
        table = {"class_embedding.weight": torch.empty(1000, 1024)}
    assert "LCM" in detect(to_theirs(unet.pairs(lcm), lcm.state_dict())).model
    found = detect(to_theirs(unet.pairs(large), large.state_dict()) | table)
    assert (found.model, found.prediction) == ("Stable Diffusion x4 upscaler", "v")
    assert detect(flux_original.to_original(small)).model.startswith("Flux of 2 double and 3 single blocks")
    assert detect(flux_original.to_original(fill)).model == "FLUX.1 Fill"
    found = detect(to_theirs(controlnet.pairs(control), control.state_dict()))
    assert (found.kind, found.model) == ("controlnet", "ControlNet of Stable Diffusion 1")


@pytest.mark.parametrize(("plan", "words"), [(sd_vae(), "f8, 4 channels"), (sd3_vae(), "f8, 16 channels")])
def test_autoencoders(plan: CodePlan, words: str) -> None:
    with torch.device("meta"):
        net = KLAutoencoder(plan)
        vq = VQAutoencoder(CodePlan(latent=3, widths=(128, 256, 512)), 8192)
    for rules in (autoencoder, autoencoder_original):
        found = detect(to_theirs(rules.pairs(net), net.state_dict()))
        assert found.kind == "vae" and words in found.model
        found = detect(to_theirs(rules.pairs(vq), vq.state_dict()))
        assert found.kind == "vq" and found.model == "VQ autoencoder, f4, 8192 codes of 3 channels"


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (
            {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 768)},
            "Diffusion 1, rank 4",
        ),
        ({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048)}, "SDXL, rank 8"),
        ({"lora_unet_single_blocks_3_linear1.lora_down.weight": (16, 3072)}, "Flux, rank 16"),
        ({"transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight": (2, 1536)}, "Diffusion 3, rank 2"),
        (
            {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 768)},
            "not recognised by its names, rank 2, text encoders too",
        ),
        ({"lora_unet_conv_in.hada_w1_a": (4, 4)}, "not recognised by its names"),
    ],
)
def test_loras(names: dict[str, tuple[int, ...]], model: str) -> None:
    found = detect({name: torch.empty(shape, device="meta") for name, shape in names.items()})
    assert found.kind == "lora" and found.model.endswith(model)


def test_parts_of_whole_files_and_what_belongs_to_none() -> None:
    with torch.device("meta"):
        clip = {pair.ours: torch.empty(8, 1024) for pair in open_clip_pairs(24, True)}
        names = [
            "model.diffusion_model.conv_in.weight",
            "first_stage_model.encoder.conv_in.weight",
            "first_stage_model.loss.logvar",
            "model_ema.decay",
            "alphas_cumprod",
            "cond_stage_model.transformer.text_model.embeddings.position_ids",
            "somebody.else",
        ]
        tensors = {name: torch.empty(2, dtype=torch.float16) for name in names}
    parts, strange = split(tensors)
    assert list(parts) == ["model.diffusion_model.", "first_stage_model."] and strange == ["somebody.else"]
    assert list(parts["first_stage_model."]) == ["encoder.conv_in.weight"]
    assert split({"conv_in.weight": torch.empty(2)})[0].keys() == {""}
    assert precision(tensors) == "float16"
    assert (detect(clip).kind, detect(clip).layout) == ("clip", "OpenCLIP")
    assert detect({"strange": torch.empty(2)}).kind == ""
