"""Compiled networks say what the same networks say eagerly, and steps of a sampler do not compile them again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.autoencoder import KLAutoencoder
from core.autoencoder.net import Plan as AutoencoderPlan
from core.codec import Latents
from core.cond import Cond
from core.denoiser import Denoiser
from core.nn.dit import DiT, Patches
from core.nn.flux import Flux as FluxNet
from core.nn.mmdit import MMDiT
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from core.prediction import FlowVelocity
from core.random import SamplingRNG
from core.sample import SAMPLERS
from core.schedule import Flow
from core.systems.compiled import compile_for_sampling, compile_network
from core.systems.diffusion import Diffusion
from tests.support.parameters import randomise


def unet() -> nn.Module:
    return TextUNet(Plan(4, 4, (16, 32), (1, 1), 12, blocks=1, heads=2, groups=8))


def mmdit() -> nn.Module:
    return MMDiT(4, 2, 2, 12, 8, 16, 2, 8, 8, normed=True, dual=1)


def flux() -> nn.Module:
    return FluxNet(4, 2, 1, 1, 12, 8, (4, 6, 6))


def dit() -> nn.Module:
    return DiT(Patches((8, 8), 4, 32, 2), 2, 2)


def make_cond(kind: Callable[[], nn.Module]) -> Cond:
    if kind is dit:
        return Cond(vector=torch.randn(2, 32))
    tokens = torch.randn(2, 5, 12)
    if kind is unet:
        return Cond(tokens=tokens)
    return Cond(tokens=tokens, vector=torch.randn(2, 8), guidance=torch.full((2,), 3.5) if kind is flux else None)


def sampled(denoiser: Denoiser, cond: Cond, start: Tensor, steps: int) -> Tensor:
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return [step.x for step in SAMPLERS["euler"].sampler(denoiser.bind(cond), start, times, SamplingRNG(0, range(2)))][
        -1
    ]


def compilations() -> tuple[int, int]:
    """How many graphs were made since the counters were cleared, and how often tracing had to break off."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [unet, mmdit, flux, dit])
@torch.no_grad()
def test_a_compiled_sampler_walks_as_the_eager_one_and_compiles_one_graph(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = randomise(kind())
    cond, start = make_cond(kind), torch.randn(2, 4, 8, 8)
    eager = Denoiser(net, Flow(), FlowVelocity(), lambda t: 1000 * t)
    system = Diffusion(copy.deepcopy(eager))
    compile_for_sampling(system)
    torch._dynamo.utils.counters.clear()
    for steps in (3, 5):  # other times, another prompt bound: the same graph
        found, wanted = sampled(system.denoiser, cond, start, steps), sampled(eager, cond, start, steps)
        assert (found - wanted).abs().max() <= 1e-5
    assert compilations() == (1, 0)


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_decoder_decodes_as_the_eager_one() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    autoencoder = KLAutoencoder(AutoencoderPlan(widths=(16, 32), blocks=1, groups=8))
    randomise(autoencoder)
    codec = Latents(autoencoder, scale=0.5)
    code = torch.randn(1, 4, 8, 8)
    wanted = codec.decode(code)
    torch._dynamo.utils.counters.clear()
    compile_for_sampling(codec)
    for _ in range(2):
        assert (codec.decode(code) - wanted).abs().max() <= 1e-5
    assert compilations() == (1, 0)


@pytest.mark.slow
@torch.no_grad()
def test_weights_keep_their_names_and_values() -> None:
    torch.manual_seed(0)
    net = randomise(unet())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compile_network(net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
