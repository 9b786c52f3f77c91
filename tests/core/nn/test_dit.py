"""DiT: the adaLN-Zero equations, its front ends, padding, permutations and published sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cond import Cond
from core.nn.dit import DiT, Patches, Points, Sequence, dit_b, dit_l, dit_s, dit_xl
from tests.support.parameters import randomise


def image_net(embedders: int = 1) -> DiT:
    net = DiT(Patches((8, 8), 3, 32, 2, 6), depth=2, heads=4, embedders=embedders)
    randomise(net, seed=0)
    return net


FRONTS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: Patches((12,), 2, 24, 3), (2, 12)),
    (lambda: Patches((8, 4), 3, 24, 2), (3, 8, 4)),
    (lambda: Patches((4, 4, 2), 1, 24, 2), (1, 4, 4, 2)),
    (lambda: Sequence(5, 24), (7, 5)),
    (lambda: Sequence(5, 24, patch=3), (7, 5)),
    (lambda: Points(3, 24), (6, 3)),
]


@pytest.mark.parametrize(("front", "shape"), FRONTS)
def test_samples_of_a_batch_do_not_meet(front: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    net = randomise(DiT(front(), depth=2, heads=3), seed=0)
    x, time, vector = torch.randn(3, *shape), torch.tensor([1.0, 500.0, 999.0]), torch.randn(3, 24)
    together = net(x, time, Cond(vector=vector))
    assert together.shape == x.shape
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], Cond(vector=vector[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("front", "shape"), FRONTS)
def test_a_new_network_says_nothing_and_its_blocks_are_the_identity(
    front: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    net = DiT(front(), depth=2, heads=3)
    x, time = torch.randn(2, *shape), torch.tensor([3.0, 700.0])
    assert torch.equal(net(x, time), torch.zeros_like(x))
    tokens = net.front(x)
    for block, modulation in zip(net.blocks, net.modulations(time).blocks):
        assert torch.equal(block(tokens, modulation, None), tokens)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_folding_undoes_patching(axes: int) -> None:
    """With a projection that only copies, the tokens of x fold back into x, each pixel in its own place."""
    size, patch, channels = (6, 4, 2)[:axes], 2, 2
    features = channels * patch**axes
    width = 12 * features
    front = Patches(size, channels, width, patch)
    with torch.no_grad():
        front.project.weight.zero_()
        # The readout's order is (patch..., channel), the projection's (channel, patch...).
        order = torch.arange(features).reshape(channels, *[patch] * axes).movedim(0, -1).flatten()
        front.project.weight.flatten(1)[torch.arange(features), order] = 1.0
    x = torch.randn(2, channels, *size)
    tokens = front(x) - front.positions
    assert torch.equal(tokens[..., features:], torch.zeros_like(tokens[..., features:]))
    torch.testing.assert_close(front.fold(tokens[..., :features], x), x, rtol=0, atol=1e-6)


def test_the_network_is_the_papers_equations() -> None:
    """The forward pass again, written from 2212.09748, figure 3, in float64."""
    net = DiT(Sequence(5, 24), depth=2, heads=3)
    randomise(net, seed=0).double()
    x, time, vector = torch.randn(2, 7, 5).double(), torch.tensor([4.0, 900.0]), torch.randn(2, 24).double()

    def norm(h: Tensor) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    angles = time[:, None] * torch.exp(-torch.arange(128) / 128 * torch.log(torch.tensor(10000.0)))
    first, second = net.times[0].first, net.times[0].second
    condition = F.silu(second(F.silu(first(torch.cat([angles.cos(), angles.sin()], -1).double()))) + vector)
    frequencies = 10000 ** (-torch.arange(12).double() / 12)
    places = torch.arange(7).double()[:, None] * frequencies
    h = net.front.project(x) + torch.cat([places.sin(), places.cos()], -1)
    for block, modulator in zip(net.blocks, net.modulators):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulator(condition)[:, None].chunk(6, -1)
        heads = block.qkv(norm(h) * (1 + scale1) + shift1).reshape(2, 7, 3, 3, 8)
        query, key, value = heads.unbind(2)
        weights = torch.einsum("bihd,bjhd->bhij", query, key).div(8**0.5).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", weights, value).reshape(2, 7, 24)
        h = h + gate1 * block.project(mixed)
        g = block.expand(norm(h) * (1 + scale2) + shift2)
        gelu = 0.5 * g * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3)))
        h = h + gate2 * block.contract(gelu)
    shift, scale = net.last_modulator(condition)[:, None].chunk(2, -1)
    expected = net.readout(norm(h) * (1 + scale) + shift)
    torch.testing.assert_close(net(x, time, Cond(vector=vector)), expected, rtol=0, atol=1e-6)


def test_padding_touches_nothing() -> None:
    net = randomise(DiT(Sequence(5, 24), depth=2, heads=3), seed=0)
    lengths, time = [7, 4, 1], torch.tensor([10.0, 400.0, 900.0])
    x = torch.randn(3, 7, 5)
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    padded = net(x, time, Cond(valid=valid))
    assert torch.equal(padded[~valid], torch.zeros_like(padded[~valid]))
    polluted = torch.where(valid[..., None], x, 1e3 * torch.randn(x.shape))
    torch.testing.assert_close(net(polluted, time, Cond(valid=valid)), padded, rtol=0, atol=1e-6)
    for i, length in enumerate(lengths):
        alone = net(x[i : i + 1, :length], time[i : i + 1])
        torch.testing.assert_close(padded[i : i + 1, :length], alone, rtol=0, atol=1e-6)


def test_neighbours_become_one_token_and_come_back() -> None:
    net = randomise(DiT(Sequence(5, 24, patch=3), depth=2, heads=3), seed=0)
    x, time, valid = torch.randn(2, 8, 5), torch.tensor([10.0, 400.0]), torch.arange(8) < torch.tensor([[8], [5]])
    front = net.front
    assert isinstance(front, Sequence)
    whole = torch.cat([x, torch.zeros(2, 1, 5)], dim=1).view(2, 3, 15)
    torch.testing.assert_close(front(x), Sequence.forward(_like(front, 24, 15), whole))
    assert torch.equal(front.fold(whole, x), x)
    assert front.token_mask(valid).tolist() == [[True, True, True], [True, True, False]]
    # A token that does not exist touches nothing, and comes out 0.
    output, polluted = net(x, time, Cond(valid=valid)), torch.where(torch.arange(8)[:, None] < 6, x, 9.0)
    torch.testing.assert_close(net(polluted, time, Cond(valid=valid))[1], output[1], rtol=0, atol=1e-6)
    assert not output[1, 6:].any() and output[1, :6].any() and output[0, 6:].any()


def _like(front: Sequence, width: int, features: int) -> Sequence:
    """The front that takes the neighbours as features of one place, with the same weights."""
    other = Sequence(features, width)
    other.load_state_dict(front.state_dict())
    return other


def test_points_have_no_order_and_sequences_have() -> None:
    x, time, order = torch.randn(2, 9, 3), torch.tensor([5.0, 800.0]), torch.randperm(9)
    points = randomise(DiT(Points(3, 24), depth=2, heads=3), seed=0)
    torch.testing.assert_close(points(x[:, order], time), points(x, time)[:, order], rtol=0, atol=1e-6)
    sequence = randomise(DiT(Sequence(3, 24), depth=2, heads=3), seed=0)
    assert (sequence(x[:, order], time) - sequence(x, time)[:, order]).abs().max() > 1e-2


def test_kept_modulations_give_the_same_answer() -> None:
    net = image_net()
    time, vector = torch.tensor([7.0, 421.0]), torch.randn(2, 32)
    kept = net.modulations(time, Cond(vector=vector))
    for x in torch.randn(2, 2, 3, 8, 8):
        assert torch.equal(net.denoise(x, kept), net(x, time, Cond(vector=vector)))


def test_equal_embedders_of_every_block_are_one() -> None:
    one, many = image_net(), image_net(embedders=2)
    shared = {key: value for key, value in one.state_dict().items() if not key.startswith("times.")}
    copies = {f"times.{i}.{key}": value for i in range(2) for key, value in one.times[0].state_dict().items()}
    many.load_state_dict(shared | copies)
    x, time, vector = torch.randn(2, 3, 8, 8), torch.tensor([7.0, 421.0]), torch.randn(2, 32)
    expected = one(x, time, Cond(vector=vector))
    assert torch.equal(many(x, time, Cond(vector=vector.repeat(1, 2))), expected)


def test_an_image_of_another_size_is_read_at_its_own_coordinates() -> None:
    small, large = image_net(), DiT(Patches((12, 8), 3, 32, 2, 6), depth=2, heads=4)
    weights = {key: value for key, value in small.state_dict().items() if key != "front.positions"}
    large.load_state_dict(weights | {"front.positions": large.front.positions})
    x, time = torch.randn(2, 3, 12, 8), torch.tensor([7.0, 421.0])
    assert torch.equal(small(x, time), large(x, time))


@pytest.mark.parametrize(("preset", "millions"), [(dit_s, 33), (dit_b, 130), (dit_l, 458), (dit_xl, 675)])
def test_published_sizes(preset: Callable[[], DiT], millions: int) -> None:
    """Together with the table of 1,001 classes, which is the conditioner's (2212.09748, table 1 and figure 8)."""
    with torch.device("meta"):
        net = preset()
    assert round((sum(p.numel() for p in net.parameters()) + 1001 * net.front.width) / 1e6) == millions


def test_xl_2_has_the_published_675_13_million() -> None:
    """The published count includes the table of classes and the fixed table of positions (2212.09748, table 4)."""
    with torch.device("meta"):
        net = dit_xl()
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters + 1001 * 1152 + net.front.positions.numel() == 675_129_632


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    net = image_net()
    x, time = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="does not divide into patches"):
        net(x[..., :7], time)
    with pytest.raises(ValueError, match="patches of 3"):
        Patches((8, 8), 3, 32, 3)
    with pytest.raises(ValueError, match="condition vector of width 31"):
        net(x, time, Cond(vector=torch.zeros(1, 31)))
    with pytest.raises(ValueError, match="valid mask"):
        net(x, time, Cond(valid=torch.ones(1, 64, dtype=torch.bool)))
    with pytest.raises(ValueError, match="heads"):
        DiT(Points(3, 24), depth=1, heads=5)
    with pytest.raises(ValueError, match="embedders"):
        DiT(Points(3, 24), depth=3, heads=4, embedders=2)
