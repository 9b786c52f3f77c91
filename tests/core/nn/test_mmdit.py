"""MMDiT: the equations again, positions, independence of samples, preparation, masks, concat and published sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.embeddings import sincos_positions
from core.nn.mmdit import MMDiT, Source, Stream, sd3_medium, sd35_large, sd35_medium


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(net: MMDiT) -> MMDiT:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.1 * noise if name.endswith("scale") else 0.08 * noise)
        net.positions.copy_(0.3 * torch.randn(net.positions.shape))
    return net.eval()


def tiny(normed: bool = True, dual: int = 1, vector_width: int = 6, told_channels: int = 0) -> MMDiT:
    """Three blocks of 2 heads of 12 over 3 channels, positions for up to 8 x 8 patches."""
    net = MMDiT(3, 2, 3, 5, vector_width, 12, 2, 12, 8, normed, dual, told_channels)
    return randomise(net)


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Cond]:
    cond = Cond(vector=torch.randn(count, 6), tokens=torch.randn(count, 7, 5))
    return torch.randn(count, 3, 4, 6), torch.linspace(1, 999, count), cond


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet() -> None:
    net, (x, time, cond) = tiny(), inputs()
    together = net(x, time, cond)
    assert cond.tokens is not None and cond.vector is not None
    for i in range(3):
        one = slice(i, i + 1)
        alone = net(x[one], time[one], Cond(vector=cond.vector[one], tokens=cond.tokens[one]))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-6)


def norm(h: Tensor) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu(g: Tensor) -> Tensor:
    return 0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3)))


def heads(layer: nn.Module, h: Tensor, normed: bool) -> list[Tensor]:
    """Queries, keys and values of two heads of 12."""
    split = [part.reshape(len(h), -1, 2, 12) for part in layer.get_submodule("qkv")(h).chunk(3, -1)]
    if normed:
        scale = layer.get_parameter("scale")
        for i in range(2):
            split[i] = split[i] / (split[i].square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale[i]
    return split


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.einsum("bihd,bjhd->bhij", query, key).div(12**0.5).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2)


@torch.no_grad()
@pytest.mark.parametrize(("normed", "dual"), [(False, 0), (True, 0), (True, 2), (False, 3)])
def test_the_network_is_the_published_equations(normed: bool, dual: int) -> None:
    """The forward pass again, one matrix and one head at a time, in float64."""
    net, (x, time, cond) = tiny(normed, dual).double(), inputs()
    tokens, vector, x = cond.tokens, cond.vector, x.double()
    assert tokens is not None and vector is not None and net.vector is not None
    tokens, vector = tokens.double(), vector.double()
    angles = time.double()[:, None] * 10000 ** (-torch.arange(128).double() / 128)
    c = net.time.second(F.silu(net.time.first(torch.cat([angles.cos(), angles.sin()], -1))))
    c = F.silu(c + net.vector.second(F.silu(net.vector.first(vector))))[:, None]

    # 2 x 3 patches, numbered from the middle of the 8 x 8 table; channels within a patch (channel, row, column).
    cells = [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1) for i in range(2) for j in range(3)]
    places = net.positions[3:5, 2:5].reshape(6, 24)
    text, image = net.text(tokens), net.enter(torch.stack(cells, 1)) + places
    for i, block in enumerate([*net.blocks, net.last]):
        told_text = block.text.modulator(c).chunk(6 if i < 2 else 2, -1)
        told = block.image.modulator(c).chunk(9 if i < dual else 6, -1)
        asked = heads(block.text.attention, norm(text) * (1 + told_text[1]) + told_text[0], normed)
        told_image = heads(block.image.attention, norm(image) * (1 + told[1]) + told[0], normed)
        seen = attention(*[torch.cat(pair, 1) for pair in zip(told_image, asked)])  # the other order
        second = 0
        if i < dual:
            again = heads(block.image.own.attention, norm(image) * (1 + told[7]) + told[6], normed)
            second = told[8] * block.image.own.project(attention(*again))
        image = image + told[2] * block.image.project(seen[:, :6]) + second
        image = image + told[5] * block.image.contract(gelu(block.image.expand(norm(image) * (1 + told[4]) + told[3])))
        if i < 2:
            text, t = text + told_text[2] * block.text.project(seen[:, 6:]), told_text
            text = text + t[5] * block.text.contract(gelu(block.text.expand(norm(text) * (1 + t[4]) + t[3])))
    shift, scale = net.last_modulator(c).chunk(2, -1)
    said = net.readout(norm(image) * (1 + scale) + shift)
    expected = torch.zeros_like(x)
    for n, cell in enumerate(said.unbind(1)):
        i, j = divmod(n, 3)
        expected[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = cell.reshape(3, 3, 2, 2)
    answer = net(x, time, Cond(vector=vector, tokens=tokens))
    assert answer.std() > 0.05
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)  # times are embedded in float32


@torch.no_grad()
def test_prepared_it_says_the_same_and_works_once() -> None:
    net, (x, time, cond) = tiny(), inputs()
    moments = [400.0, 30.0, 400.0]
    expected = [net(x, torch.full((3,), moment), cond) for moment in moments]
    calls = []
    for name in ("text", "vector", "time"):
        net.get_submodule(name).register_forward_hook(lambda layer, given, said, name=name: calls.append(name))
    answer = net.prepare(cond)
    for moment, wanted in zip(moments, expected):
        torch.testing.assert_close(answer(x, torch.tensor(moment)), wanted, rtol=0, atol=1e-6)
    assert sorted(calls) == ["text", "time", "time", "vector"]
    torch.testing.assert_close(answer(x, time), net(x, time, cond), rtol=0, atol=1e-6)
    wide = torch.randn(3, 3, 4, 10)
    torch.testing.assert_close(answer(wide, time), net(wide, time, cond), rtol=0, atol=1e-6)


@torch.no_grad()
def test_masked_text_is_as_good_as_absent() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    mask = torch.tensor([[True] * 4 + [False] * 3] * 3)
    noisy = torch.where(mask[..., None], cond.tokens, 100.0)
    short = net(x, time, Cond(vector=cond.vector, tokens=cond.tokens[:, :4]))
    masked = Cond(vector=cond.vector, tokens=noisy, mask=mask)
    torch.testing.assert_close(net(x, time, masked), short, rtol=0, atol=1e-6)
    torch.testing.assert_close(net.prepare(masked)(x, time), short, rtol=0, atol=1e-6)
    assert (net(x, time, Cond(vector=cond.vector, tokens=noisy)) - short).abs().max() > 1e-3


@torch.no_grad()
def test_text_has_no_order_and_the_image_has() -> None:
    net, (x, time, cond) = tiny(), inputs()
    assert cond.tokens is not None
    plain = net(x, time, cond)
    reversed_text = Cond(vector=cond.vector, tokens=cond.tokens.flip(1))
    torch.testing.assert_close(net(x, time, reversed_text), plain, rtol=0, atol=1e-6)
    moved = x.roll((2, 2), dims=(2, 3))
    assert (net(moved, time, cond).roll((-2, -2), dims=(2, 3)) - plain).abs().max() > 1e-3
    net.positions.zero_()
    plain, turned = net(x, time, cond), net(moved, time, cond)
    torch.testing.assert_close(turned.roll((-2, -2), dims=(2, 3)), plain, rtol=0, atol=1e-6)


@torch.no_grad()
def test_positions_are_the_middle_of_the_table() -> None:
    """Any grid has its middle where the table has its own, and a whole table is itself."""
    net = tiny()
    whole = net.places(torch.zeros(1, 3, 16, 16))
    assert torch.equal(whole, net.positions.flatten(0, 1))
    for rows, columns in ((2, 3), (8, 1), (5, 8)):
        places = net.places(torch.zeros(1, 3, 2 * rows, 2 * columns)).unflatten(0, (rows, columns))
        for i, j in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)):
            assert torch.equal(places[i, j], net.positions[(8 - rows) // 2 + i, (8 - columns) // 2 + j])


def test_a_new_table_spans_the_usual_size_in_finer_steps() -> None:
    """Where the steps meet, a table of 3 n places is that of n places."""
    fine = MMDiT(3, 2, 1, 5, 6, 12, 2, size=8, table=12).positions
    torch.testing.assert_close(fine[::3, ::3].reshape(16, 24), sincos_positions((4, 4), 24), rtol=0, atol=1e-6)


@torch.no_grad()
def test_everything_it_is_told_counts() -> None:
    net, (x, time, cond) = tiny(told_channels=2), inputs()
    full = {"vector": cond.vector, "tokens": cond.tokens, "concat": torch.randn(3, 2, 4, 6)}
    plain = net(x, time, Cond(**full))
    for slot, value in full.items():
        assert value is not None
        assert (net(x, time, Cond(**{**full, slot: value + 1.0})) - plain).abs().max() > 1e-4, slot
    assert (net(x, time + 100, Cond(**full)) - plain).abs().max() > 1e-4


@torch.no_grad()
def test_a_network_without_pooled_text_needs_none() -> None:
    net, (x, time, cond) = tiny(vector_width=0), inputs()
    alone = net(x, time, Cond(tokens=cond.tokens))
    assert alone.std() > 0.05 and torch.equal(net(x, time, cond), alone)


def test_a_new_network_is_the_identity_and_says_nothing() -> None:
    net = MMDiT(3, 2, 3, 5, 6, 12, 2, 12, 8, True, 1)
    x, time, cond = inputs()
    assert torch.equal(net(x, time, cond), torch.zeros_like(x))
    told = net.hear(cond)
    modulations = net.modulations(time, told.embedded)
    image = torch.randn(3, 6, 24)
    text, same = net.blocks[0](told.text, image, modulations.blocks[0], None)
    assert torch.equal(text, told.text) and torch.equal(same, image)


def test_every_parameter_is_trained() -> None:
    net, (x, time, cond) = tiny(), inputs()
    net(x, time, cond).square().sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert idle == []
    # Nobody reads what the text of the last block would ask: those rows alone rest.
    grad = net.last.text.attention.qkv.weight.grad
    assert grad is not None and not bool(grad[:24].any()) and bool(grad[24:].any(dim=1).all())
    assert isinstance(net.last.text, Source) and not isinstance(net.last.text, Stream)


@pytest.mark.parametrize(
    ("make", "count"), [(sd3_medium, 2_028_328_000), (sd35_large, 8_056_627_520), (sd35_medium, 2_243_171_520)]
)
def test_published_sizes(make: type[MMDiT], count: int) -> None:
    with torch.device("meta"):
        net = make()
    assert sum(p.numel() for p in net.parameters()) == count


def test_what_cannot_be_is_said_in_a_sentence() -> None:
    net, (x, time, cond) = tiny(), inputs()
    for wrong, given, words in (
        (x[..., :5], cond, "patches of 2"),
        (torch.zeros(3, 3, 4, 18), cond, "2 x 9 patches are more than the 8 x 8"),
        (x[:, :2], cond, "3 channels"),
        (x, Cond(vector=cond.vector), "reads text"),
        (x, Cond(tokens=cond.tokens), "pooled text"),
    ):
        with pytest.raises(ValueError, match=words):
            net(wrong, time, given)
        with pytest.raises(ValueError, match=words):
            net.prepare(given)(wrong, time)
    with pytest.raises(ValueError, match="2 channels"):
        tiny(told_channels=2)(x, time, cond)
