"""MMDiT: the equations again, positions, independence of samples, preparation, masks and published sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.mmdit import MMDiT, sd3_medium, sd35_large, sd35_medium
from core.nn.patchify import patchify, unpatchify
from tests.support.parameters import randomise
from tests.support.prepared import agrees_when_prepared

KINDS = [(False, 0), (True, 0), (True, 2), (True, 3)]  # queries and keys normed, blocks with a second attention


def tiny(normed: bool = True, dual: int = 2, vector_width: int = 6, concat_channels: int = 0) -> MMDiT:
    """Width 24, three blocks, for pictures of up to 10 x 10 places."""
    net = MMDiT(3, 2, 3, 5, vector_width, 12, 2, 8, 5, normed=normed, dual=dual, concat_channels=concat_channels)
    return randomise(net, buffers=True)


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Cond]:
    cond = Cond(vector=torch.randn(count, 6), tokens=torch.randn(count, 7, 5))
    return torch.randn(count, 3, 4, 6), torch.linspace(1, 999, count), cond


@pytest.mark.parametrize(("normed", "dual"), KINDS)
@torch.no_grad()
def test_the_network_is_the_published_equations(normed: bool, dual: int) -> None:
    """The forward pass again, one matrix and one head at a time, in float64."""
    net, (x, time, cond) = tiny(normed, dual).double(), inputs()
    assert cond.tokens is not None and cond.vector is not None and net.vector is not None
    x, tokens, vector = x.double(), cond.tokens.double(), cond.vector.double()

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def gelu(g: Tensor) -> Tensor:
        return 0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3)))

    def heads(layer: nn.Module, h: Tensor) -> list[Tensor]:
        split = [part.reshape(3, -1, 2, 12) for part in layer.get_submodule("qkv")(h).chunk(3, -1)]
        if normed:
            for i, scale in enumerate(layer.get_parameter("scale")):
                split[i] = split[i] / (split[i].square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale
        return split

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.einsum("bihd,bjhd->bhij", query, key).div(12**0.5).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", weights, value).reshape(3, -1, 24)

    def embed(layer: nn.Module, features: Tensor) -> Tensor:
        return layer.get_submodule("second")(F.silu(layer.get_submodule("first")(features)))

    angles = time.double()[:, None] * 10000 ** (-torch.arange(128).double() / 128)
    c = embed(net.time, torch.cat([angles.cos(), angles.sin()], -1)) + embed(net.vector, vector)
    c = F.silu(c)[:, None]
    text, image = net.text(tokens), net.proj_in(patchify(x, 2)) + net.positions[1:3, 1:4].reshape(6, 24)
    for i, block in enumerate([*net.blocks, net.last]):
        encoded = [stream.modulator(c).chunk(stream.parts, -1) for stream in (block.text, block.image)]
        parts = [
            heads(stream.attention, norm(h) * (1 + t[1]) + t[0])
            for stream, h, t in zip((block.text, block.image), (text, image), encoded)
        ]
        seen = attention(*[torch.cat(pair, 1) for pair in zip(*parts)]).split([7, 6], 1)
        t, normal = encoded[1], norm(image)
        image = image + t[2] * block.image.project(seen[1])
        if i < dual:
            own = block.image.own
            assert own is not None
            image = image + t[8] * own.project(attention(*heads(own.attention, normal * (1 + t[7]) + t[6])))
        stream = block.image
        image = image + t[5] * stream.contract(gelu(stream.expand(norm(image) * (1 + t[4]) + t[3])))
        if i < 2:
            stream, t = net.blocks[i].text, encoded[0]
            text = text + t[2] * stream.project(seen[0])
            text = text + t[5] * stream.contract(gelu(stream.expand(norm(text) * (1 + t[4]) + t[3])))
    shift, scale = net.last_modulator(c).chunk(2, -1)
    expected = unpatchify(net.readout(norm(image) * (1 + scale) + shift), 2, (4, 6))
    answer = net(x, time, Cond(vector=vector, tokens=tokens))
    assert answer.std() > 0.02
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)  # the network's sinusoids are float32


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None and cond.vector is not None
    together = net(x, time, cond)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = net(x[rows], time[rows], Cond(vector=cond.vector[rows], tokens=cond.tokens[rows]))
        torch.testing.assert_close(together[rows], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_prepared_it_says_the_same_and_works_once(masked: bool) -> None:
    net, (x, time, cond) = tiny(), inputs()
    if masked:
        cond = Cond(vector=cond.vector, tokens=cond.tokens, mask=torch.arange(7) < torch.tensor([[2], [7], [4]]))
    agrees_when_prepared(net, x, time, cond, wide=torch.randn(3, 3, 2, 10))


@torch.no_grad()
def test_masked_text_is_as_good_as_absent() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    mask = torch.tensor([[True] * 4 + [False] * 3] * 3)
    noisy = torch.where(mask[..., None], cond.tokens, 100.0)
    masked = net(x, time, Cond(vector=cond.vector, tokens=noisy, mask=mask))
    short = net(x, time, Cond(vector=cond.vector, tokens=cond.tokens[:, :4]))
    torch.testing.assert_close(masked, short, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_small_picture_lies_in_the_middle_of_the_table() -> None:
    net, (_, time, cond) = tiny(), inputs()
    outside = net.positions.clone()
    outside[1:4, 2:3] = 0
    x = torch.randn(3, 3, 6, 2)
    output = net(x, time, cond)
    net.positions -= outside
    assert torch.equal(net(x, time, cond), output)  # what lies outside of it does not count
    net.positions[1, 2] += torch.randn(24)
    assert (net(x, time, cond) - output).abs().max() > 1e-3


@torch.no_grad()
def test_text_has_no_order_and_the_image_has() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    plain = net(x, time, cond)
    reversed_text = Cond(vector=cond.vector, tokens=cond.tokens.flip(1))
    torch.testing.assert_close(net(x, time, reversed_text), plain, rtol=0, atol=1e-6)
    moved = x.roll((2, 2), dims=(2, 3))
    assert (net(moved, time, cond).roll((-2, -2), dims=(2, 3)) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_every_condition_counts() -> None:
    net, (x, time, cond) = tiny(concat_channels=2), inputs()
    full = {"vector": cond.vector, "tokens": cond.tokens, "concat": torch.randn(3, 2, 4, 6)}
    plain = net(x, time, Cond(**full))
    for slot, value in full.items():
        assert value is not None
        assert (net(x, time, Cond(**{**full, slot: value + 1.0})) - plain).abs().max() > 1e-4, slot
    assert (net(x, time + 100, Cond(**full)) - plain).abs().max() > 1e-4
    deaf = tiny(vector_width=0)
    assert torch.equal(deaf(x, time, Cond(tokens=cond.tokens)), deaf(x, time, cond))


def test_a_new_network_says_nothing_and_its_blocks_change_nothing() -> None:
    net = MMDiT(3, 2, 3, 5, 6, 12, 2, 8, 5, normed=True, dual=1)
    x, time, cond = inputs()
    assert torch.equal(net(x, time, cond), torch.zeros_like(x))
    encoded = net.encode(cond)
    modulations = net.modulations(time, encoded.embedded)
    image = torch.randn(3, 6, 24)
    for i, block in enumerate(net.blocks):
        text, same = block(encoded.text, image, modulations.blocks[i], None)
        assert torch.equal(text, encoded.text) and torch.equal(same, image)
    assert torch.equal(net.last(encoded.text, image, modulations.blocks[2], None), image)


@pytest.mark.parametrize(("normed", "dual"), KINDS)
def test_every_parameter_is_trained(normed: bool, dual: int) -> None:
    net, (x, time, cond) = tiny(normed, dual), inputs()
    net(x, time, cond).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)] == []


def test_published_sizes() -> None:
    with torch.device("meta"):
        nets = [sd3_medium(), sd35_large(), sd35_medium()]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [2_028_328_000, 8_056_627_520, 2_243_171_520]
    assert [tuple(net.positions.shape) for net in nets] == [(192, 192, 1536), (192, 192, 2432), (384, 384, 1536)]


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    net, (x, time, cond) = tiny(), inputs()
    with pytest.raises(ValueError, match="patches of 2"):
        net(x[..., :5], time, cond)
    with pytest.raises(ValueError, match="6 x 2 patches do not fit the 5 x 5 positions"):
        net(torch.randn(3, 3, 12, 4), time, cond)
    with pytest.raises(ValueError, match="pooled text"):
        net(x, time, Cond(tokens=cond.tokens))
    with pytest.raises(ValueError, match="reads text"):
        net(x, time, Cond(vector=cond.vector))
    with pytest.raises(ValueError, match="2 channels"):
        tiny(concat_channels=2)(x, time, cond)
