"""Tiny configurations of diffusers' cross-attention U-Nets, their inputs, and the same inputs as ours takes them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from torch import Tensor, nn

from core.cond import Cond
from core.nn.embeddings import sinusoid
from tests.support.parameters import randomise

SD1: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SD2: dict[str, Any] = {
    **SD1,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "upcast_attention": True,
}
XL: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "norm_num_groups": 32,
}
SDXL: dict[str, Any] = {
    **XL,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "cross_attention_dim": 64,
    "attention_head_dim": (2, 4, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "projection_class_embeddings_input_dim": 8 * 6 + 32,
}
REFINER: dict[str, Any] = {
    **XL,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64, 64),
    "cross_attention_dim": 32,
    "attention_head_dim": (2, 4, 4, 4),
    "transformer_layers_per_block": 2,
    "projection_class_embeddings_input_dim": 8 * 5 + 32,
}
UPSCALER: dict[str, Any] = {
    **SD1,
    "in_channels": 7,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 96),
    "cross_attention_dim": 48,
    "only_cross_attention": (True, True, False),
    "num_class_embeds": 10,
    "use_linear_projection": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": SD1,
    "sd1 inpaint": {**SD1, "in_channels": 9},
    # A group of one channel forgets every bias and every time before it; wider groups keep them.
    "wide groups": {**SD1, "norm_num_groups": 8},
    "sd2": SD2,
    "depth": {**SD2, "in_channels": 5},
    "lcm": {**SD1, "time_cond_proj_dim": 32},
    "sdxl": SDXL,
    "sdxl refiner": REFINER,
    "upscaler": UPSCALER,
}
TIME, LABELS, GUIDANCE = torch.tensor([7, 421]), torch.tensor([1, 3]), torch.tensor([6.5, 2.0])


def reference(config: dict[str, Any]) -> UNet2DConditionModel:
    """diffusers' network, randomised."""
    net = UNet2DConditionModel(**config)
    randomise(net)
    return net


class Inputs:
    """What a network of a configuration is asked: as diffusers takes it, and as ours does."""

    def __init__(self, config: dict[str, Any], size: tuple[int, int] = (16, 16)) -> None:
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(2, config["in_channels"], *size, generator=draw)
        self.tokens = torch.randn(2, 11, config["cross_attention_dim"], generator=draw)
        self.scalars = self.pooled = None
        if "addition_embed_type" in config:
            count = (config["projection_class_embeddings_input_dim"] - 32) // 8
            self.scalars = torch.randint(0, 1024, (2, count), generator=draw).float()
            self.pooled = torch.randn(2, 32, generator=draw)
        self.labels = LABELS if "num_class_embeds" in config else None
        self.guided = "time_cond_proj_dim" in config

    @torch.no_grad()
    def ask(self, net: UNet2DConditionModel) -> Tensor:
        """What diffusers' network says."""
        added = None if self.scalars is None else {"text_embeds": self.pooled, "time_ids": self.scalars}
        waves = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, GUIDANCE, 32) if self.guided else None
        output: Tensor = net(
            self.x, TIME, self.tokens, class_labels=self.labels, timestep_cond=waves, added_cond_kwargs=added
        ).sample
        return output

    def cond(self, table: Tensor | None = None) -> Cond:
        """The same as a condition: all channels of x after the fourth are joined to it."""
        vector = None if table is None or self.labels is None else table[self.labels]
        if self.scalars is not None and self.pooled is not None:
            waves = sinusoid(self.scalars.flatten(), 8).view(2, -1)
            vector = torch.cat([self.pooled, waves], dim=1)
        concat = self.x[:, 4:] if self.x.shape[1] > 4 else None
        return Cond(vector=vector, tokens=self.tokens, concat=concat, guidance=GUIDANCE if self.guided else None)

    @torch.no_grad()
    def ours(self, net: nn.Module, table: Tensor | None = None) -> Tensor:
        """What our network says."""
        output: Tensor = net(self.x[:, :4], TIME.float(), self.cond(table))
        return output
