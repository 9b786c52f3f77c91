"""Flux: packing, the equations again, independence of samples, preparation, masks, guidance and published sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.flux import Flux, flux_dev, flux_schnell
from core.nn.patchify import patchify, unpatchify
from core.nn.rope import rotate, rotations
from tests.support.parameters import randomise
from tests.support.prepared import agrees_when_prepared


def tiny(guided: bool = True, vector_width: int = 6, concat_channels: int = 0) -> Flux:
    return randomise(Flux(3, 2, 2, 2, 5, vector_width, (2, 4, 6), 2, guided, concat_channels))


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Cond]:
    cond = Cond(vector=torch.randn(count, 6), tokens=torch.randn(count, 7, 5), guidance=torch.linspace(1, 6, count))
    return torch.randn(count, 3, 4, 6), torch.linspace(1, 999, count), cond


def row(cond: Cond, i: int) -> Cond:
    slots = {name: value[i : i + 1] for name, value in vars(cond).items() if value is not None}
    return Cond(**slots)


@pytest.mark.parametrize("sizes", [(8,), (4, 6), (2, 4, 6)])
def test_unpacking_undoes_packing(sizes: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *sizes)
    assert torch.equal(unpatchify(patchify(x, 2), 2, sizes), x)
    assert torch.equal(unpatchify(patchify(x, 1), 1, sizes), x)


def test_channels_of_a_patch_come_as_channel_row_column() -> None:
    x = torch.randn(2, 3, 4, 6)
    tokens = patchify(x, 2)
    for y, column, c, i, j in [(0, 0, 0, 0, 1), (1, 2, 2, 1, 0), (0, 1, 1, 1, 1)]:
        assert torch.equal(tokens[:, 3 * y + column, 4 * c + 2 * i + j], x[:, c, 2 * y + i, 2 * column + j])


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet() -> None:
    net, (x, time, cond) = tiny(), inputs()
    together = net(x, time, cond)
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], row(cond, i))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_network_is_the_published_equations() -> None:
    """The forward pass again, one matrix and one head at a time, in float64."""
    net, (x, time, cond) = tiny().double(), inputs()
    tokens, vector, guidance = cond.tokens, cond.vector, cond.guidance
    assert tokens is not None and vector is not None and guidance is not None
    x, tokens, vector = x.double(), tokens.double(), vector.double()

    def sinusoids(value: Tensor) -> Tensor:
        angles = value.double()[:, None] * 10000 ** (-torch.arange(128).double() / 128)
        return torch.cat([angles.cos(), angles.sin()], -1)

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def gelu(g: Tensor) -> Tensor:
        return 0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3)))

    grid = [[0.0, y, z] for y in range(2) for z in range(3)]
    turns = rotations(torch.tensor([[0.0, 0, 0]] * 7 + grid), (2, 4, 6))

    def heads(layer: nn.Module, h: Tensor) -> list[Tensor]:
        qkv = layer.get_submodule("qkv")(h).chunk(3, -1)
        split = [part.reshape(3, -1, 2, 12) for part in qkv]
        scale = layer.get_parameter("scale")
        normed = [
            part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale[i] for i, part in enumerate(split[:2])
        ]
        return [*normed, split[2]]

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = (rotate(part, turns).double() for part in (query, key))
        weights = torch.einsum("bihd,bjhd->bhij", query, key).div(12**0.5).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", weights, value).reshape(3, -1, 24)

    def embed(layer: nn.Module, features: Tensor) -> Tensor:
        return layer.get_submodule("second")(F.silu(layer.get_submodule("first")(features)))

    assert net.guidance is not None and net.vector is not None
    c = embed(net.time, sinusoids(time)) + embed(net.guidance, sinusoids(1000 * guidance)) + embed(net.vector, vector)
    c = F.silu(c)[:, None]
    streams = [net.text(tokens), net.proj_in(patchify(x, 2))]
    for block in net.doubles:
        both = [block.text, block.image]
        modulations = [stream.modulator(c).chunk(6, -1) for stream in both]
        parts = [heads(s.attention, norm(h) * (1 + t[1]) + t[0]) for s, h, t in zip(both, streams, modulations)]
        mixed = attention(*[torch.cat(pair, 1) for pair in zip(*parts)]).split([7, 6], 1)
        for i, (stream, t) in enumerate(zip(both, modulations)):
            h = streams[i] + t[2] * stream.project(mixed[i])
            streams[i] = h + t[5] * stream.contract(gelu(stream.expand(norm(h) * (1 + t[4]) + t[3])))
    h = torch.cat(streams, 1)
    for single in net.singles:
        shift, scale, gate = single.modulator(c).chunk(3, -1)
        g = norm(h) * (1 + scale) + shift
        h = h + gate * single.proj_out(torch.cat([attention(*heads(single.attention, g)), gelu(single.expand(g))], -1))
    shift, scale = net.last_modulator(c).chunk(2, -1)
    expected = unpatchify(net.readout(norm(h[:, 7:]) * (1 + scale) + shift), 2, (4, 6))
    answer = net(x, time, Cond(vector=vector, tokens=tokens, guidance=guidance))
    assert answer.std() > 0.05
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_prepared_it_says_the_same_and_works_once() -> None:
    agrees_when_prepared(tiny(), *inputs(), wide=torch.randn(3, 3, 4, 10))


@torch.no_grad()
def test_masked_text_is_as_good_as_absent() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    mask = torch.tensor([[True] * 4 + [False] * 3] * 3)
    noisy = torch.where(mask[..., None], cond.tokens, 100.0)
    masked = Cond(vector=cond.vector, tokens=noisy, mask=mask, guidance=cond.guidance)
    short = Cond(vector=cond.vector, tokens=cond.tokens[:, :4], guidance=cond.guidance)
    torch.testing.assert_close(net(x, time, masked), net(x, time, short), rtol=0, atol=1e-6)


@torch.no_grad()
def test_text_has_no_order_and_the_image_has() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    plain = net(x, time, cond)
    reversed_text = Cond(vector=cond.vector, tokens=cond.tokens.flip(1), guidance=cond.guidance)
    torch.testing.assert_close(net(x, time, reversed_text), plain, rtol=0, atol=1e-6)
    moved = x.roll((2, 2), dims=(2, 3))
    assert (net(moved, time, cond).roll((-2, -2), dims=(2, 3)) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_every_condition_counts() -> None:
    net, (x, time, cond) = tiny(concat_channels=2), inputs()
    full = {**{key: value for key, value in vars(cond).items() if value is not None}, "concat": torch.randn(3, 2, 4, 6)}
    plain = net(x, time, Cond(**full))
    for slot, value in full.items():
        assert (net(x, time, Cond(**{**full, slot: value + 1.0})) - plain).abs().max() > 1e-4, slot


def test_a_new_network_says_nothing_and_does_not_hear_guidance() -> None:
    net = Flux(3, 2, 1, 1, 5, 6, (2, 4, 6), guided=True)
    x, time, cond = inputs()
    assert torch.equal(net(x, time, cond), torch.zeros_like(x))
    other = Cond(vector=cond.vector, tokens=cond.tokens, guidance=torch.full((3,), 9.0))
    assert torch.equal(net.encode(cond).embedded, net.encode(other).embedded)


def test_every_parameter_is_trained() -> None:
    net, (x, time, cond) = tiny(), inputs()
    net(x, time, cond).square().sum().backward()
    # The last double block's text goes on into the single blocks, so nothing is without a gradient.
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)] == []


@pytest.mark.parametrize("guided", [True, False])
def test_published_sizes(guided: bool) -> None:
    with torch.device("meta"):
        net = flux_dev() if guided else flux_schnell()
    assert sum(p.numel() for p in net.parameters()) == (11_901_408_320 if guided else 11_891_178_560)


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    net, (x, time, cond) = tiny(), inputs()
    with pytest.raises(ValueError, match="patches of 2"):
        net(x[..., :5], time, cond)
    with pytest.raises(ValueError, match="which"):
        net(x, time, Cond(vector=cond.vector, tokens=cond.tokens))
    with pytest.raises(ValueError, match="pooled text"):
        net(x, time, Cond(tokens=cond.tokens, guidance=cond.guidance))
    with pytest.raises(ValueError, match="reads text"):
        net(x, time, Cond(vector=cond.vector, guidance=cond.guidance))
    with pytest.raises(ValueError, match="2 channels"):
        tiny(concat_channels=2)(x, time, cond)
    with pytest.raises(ValueError, match="1 axes"):
        net(x[..., 0], time, cond)
