"""A model with a LoRA beside it: what is saved is the LoRA, and it comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.cond import Cond
from core.denoiser import Denoiser
from core.nn.dit import DiT, Patches
from core.nn.lora import layers_of
from core.prediction import FlowVelocity
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.systems.lora import LoRADiffusion
from core.weights.checkpoint import CheckpointError, fill


def base() -> Diffusion:
    torch.manual_seed(0)
    net = DiT(Patches((4, 4), 2, 16, 2), 2, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1)
    return Diffusion(Denoiser(net, Flow(), FlowVelocity()))


def test_only_the_lora_is_saved_and_trained() -> None:
    plain = base()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    system = LoRADiffusion(plain, 2, 4.0)
    names = list(system.state_dict())
    assert names and all(name.startswith("lora.layers.") for name in names)
    trained = [name for name, value in system.named_parameters() if value.requires_grad]
    assert trained and set(trained) <= set(names)
    x, t, cond = torch.randn(3, 2, 4, 4), torch.full((3,), 0.5), Cond(vector=torch.randn(3, 16))
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=0.01)
    first = system.denoiser.output(x, t, cond).detach()
    for _ in range(5):
        optimizer.zero_grad()
        system.denoiser.output(x, t, cond).square().mean().backward()
        optimizer.step()
    assert (system.denoiser.output(x, t, cond) - first).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())

    again = LoRADiffusion(base(), 2, 4.0)
    fill(again, system.state_dict(), Path("it"))
    assert torch.equal(again.denoiser.output(x, t, cond), system.denoiser.output(x, t, cond))
    wrapped = nn.Sequential(again)
    assert all(name.startswith("0.lora.") for name in wrapped.state_dict())
    wrapped.load_state_dict({f"0.{name}": value for name, value in system.state_dict().items()})


def test_another_lora_does_not_fit() -> None:
    with pytest.raises(CheckpointError, match="instead of"):
        fill(LoRADiffusion(base(), 3), LoRADiffusion(base(), 2).state_dict(), Path("it"))
    with pytest.raises(CheckpointError, match="missing"):
        fill(LoRADiffusion(base(), 2, targets=("*",)), LoRADiffusion(base(), 2).state_dict(), Path("it"))
    system = LoRADiffusion(base(), 2, targets=("*",))
    assert len(list(system.lora.items())) == len(layers_of(system.denoiser.net))
