"""The cross-attention U-Net: what is prepared, grids of other dimensions, gradients, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from core.cond import Cond
from core.nn.blocks import Style
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from core.nn.transformer2d import SpatialTransformer, TransformerLayer
from tests.support.parameters import randomise

PLAN = Plan(6, 4, (16, 32), (1, 2), 12, heads=(2, 4), groups=8, vector_width=10, guidance_width=8, cross_only=(0,))
TIME = torch.tensor([7.0, 421.0])


def made(plan: Plan = PLAN) -> TextUNet:
    net = TextUNet(plan)
    randomise(net)
    return net.eval()


def make_cond(grid: tuple[int, ...] = (8, 8)) -> Cond:
    return Cond(
        vector=torch.randn(2, 10),
        tokens=torch.randn(2, 5, 12),
        mask=torch.arange(5)[None] < torch.tensor([[5], [3]]),
        concat=torch.randn(2, 2, *grid),
        guidance=torch.tensor([7.5, 1.0]),
    )


@torch.no_grad()
def test_prepared_equals_plain_and_reads_the_text_once() -> None:
    net, cond, x = made(), make_cond(), torch.randn(2, 4, 8, 8)
    calls = []
    for name, module in net.named_modules():
        if name.endswith((".text", ".residual.time")) or name == "vector":
            module.register_forward_hook(lambda module, args, out, name=name: calls.append(name))
    answer = net.prepare(cond)
    texts = [name for name in calls if name.endswith(".text")]
    assert len(texts) == len(set(texts)) > 6 and calls.count("vector") == 1
    calls.clear()
    first = answer(x, torch.tensor(7.0))
    assert calls and not any(name.endswith(".text") or name == "vector" for name in calls)
    calls.clear()
    assert torch.equal(answer(x, torch.tensor(7.0)), first) and not calls
    torch.testing.assert_close(first, net(x, torch.full((2,), 7.0), cond), rtol=0, atol=1e-6)
    torch.testing.assert_close(answer(x, TIME), net(x, TIME, cond), rtol=0, atol=1e-6)


@torch.no_grad()
def test_samples_and_slots_are_independent() -> None:
    """Sample i depends on its own condition only, on every slot of it, and not on masked tokens."""
    net, cond, x = made(), make_cond(), torch.randn(2, 4, 8, 8)
    base = net(x, TIME, cond)
    filled = {f.name: getattr(cond, f.name) for f in dataclasses.fields(cond)}
    alone = dataclasses.replace(cond, **{name: value[1:] for name, value in filled.items() if value is not None})
    torch.testing.assert_close(net(x[1:], TIME[1:], alone), base[1:], rtol=0, atol=1e-5)
    for slot in ("vector", "tokens", "concat", "guidance"):
        moved = getattr(cond, slot).clone()
        moved[0] += 1
        output = net(x, TIME, dataclasses.replace(cond, **{slot: moved}))
        assert (output[0] - base[0]).abs().max() > 1e-4, slot
        torch.testing.assert_close(output[1], base[1], rtol=0, atol=1e-5)
    assert cond.tokens is not None
    tokens = cond.tokens.clone()
    tokens[1, 3:] = 100.0
    torch.testing.assert_close(net(x, TIME, dataclasses.replace(cond, tokens=tokens)), base, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions_are_the_same_network(dims: int) -> None:
    """On a grid one value thin, a convolution is the middle slice of one with more dimensions."""
    wide, narrow = (2, 1) if dims == 1 else (3, 2)
    plan = dataclasses.replace(PLAN, in_channels=4, dims=wide)
    net, thin = made(plan), TextUNet(dataclasses.replace(plan, dims=narrow)).eval()
    state = {
        key: value[..., value.shape[-1] // 2] if value.ndim == wide + 2 else value
        for key, value in net.state_dict().items()
    }
    thin.load_state_dict(state)
    x = torch.randn(2, 4, 8) if narrow == 1 else torch.randn(2, 4, 6, 4)
    cond = dataclasses.replace(make_cond(), concat=None)
    output = net(x[..., None], TIME, cond)[..., 0]
    assert output.std() > 0.1
    torch.testing.assert_close(thin(x, TIME, cond), output, rtol=0, atol=1e-5)


@torch.no_grad()
def test_channels_last_says_the_same() -> None:
    net, cond, x = made(), make_cond(), torch.randn(2, 4, 8, 8)
    expected = net(x, TIME, cond)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x, TIME, cond), expected, rtol=0, atol=1e-5)


def test_checkpointing_gives_the_same_gradients() -> None:
    net, cond, x = made().train(), make_cond(), torch.randn(2, 4, 8, 8)
    again = TextUNet(dataclasses.replace(PLAN, checkpointing=True)).train()
    again.load_state_dict(net.state_dict())
    for model in (net, again):
        model(x, TIME, cond).square().mean().backward()
    for (name, mine), other in zip(net.named_parameters(), again.parameters()):
        assert mine.grad is not None and other.grad is not None and mine.grad.abs().max() > 0, name
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-6)


@torch.no_grad()
def test_one_graph_serves_all_steps() -> None:
    net, cond = made(), make_cond()
    expected = [net.prepare(cond)(torch.ones(2, 4, 8, 8) * i, torch.tensor(float(i))) for i in range(3)]
    counter = CompileCounter()
    net.denoise = torch.compile(net.denoise, backend=counter, fullgraph=True)
    answer = net.prepare(cond)
    for i, wanted in enumerate(expected):
        torch.testing.assert_close(
            answer(torch.ones(2, 4, 8, 8) * i, torch.tensor(float(i))), wanted, rtol=0, atol=1e-5
        )
    assert counter.frame_count == 1


@torch.no_grad()
def test_it_starts_by_saying_nothing() -> None:
    assert not TextUNet(PLAN)(torch.randn(2, 4, 8, 8), TIME, make_cond()).any()


@torch.no_grad()
def test_transformer_is_the_textbook_one() -> None:
    """One layer against attention, layer norms and GEGLU written out in the plainest way."""
    layer = TransformerLayer(8, 2, 6, cross_only=False)
    randomise(layer)
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 6)

    def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads = []
        for query, key, value in zip(queries.chunk(2, -1), keys.chunk(2, -1), values.chunk(2, -1)):
            heads.append((query @ key.transpose(1, 2) / 2).softmax(-1) @ value)  # heads of 4, whose root is 2
        return torch.cat(heads, dim=-1)

    first, second = layer.first, layer.second
    assert not hasattr(first, "text")
    h = x + first.project(attention(*first.qkv(layer.norm1(x)).chunk(3, -1)))
    h = h + second.project(attention(second.query(layer.norm2(h)), *second.text(tokens).chunk(2, -1)))
    value, gate = layer.expand(layer.norm3(h)).chunk(2, -1)
    h = h + layer.contract(value * nn.functional.gelu(gate))
    torch.testing.assert_close(layer(x, layer.read_text(tokens), None), h, rtol=0, atol=1e-6)


@torch.no_grad()
def test_places_of_a_cross_only_layer_never_meet() -> None:
    for cross_only in (True, False):
        layer = TransformerLayer(8, 2, 6, cross_only)
        randomise(layer)
        x, readings = torch.randn(1, 5, 8), layer.read_text(torch.randn(1, 3, 6))
        moved = x.clone()
        moved[:, 0] += torch.randn(8)
        change = (layer(moved, readings, None) - layer(x, readings, None))[0].abs().amax(dim=1)
        assert change[0] > 1e-2 and bool((change[1:] < 1e-7).all()) == cross_only


@torch.no_grad()
def test_transformer_starts_as_the_identity_on_any_grid() -> None:
    for dims in (1, 2, 3):
        transformer = SpatialTransformer(Style(dims, groups=4), 8, 2, 1, 6)
        x = torch.randn(2, 8, *[3] * dims)
        assert torch.equal(transformer(x, transformer.read_text(torch.randn(2, 4, 6)), None), x)


def test_what_does_not_fit_is_refused() -> None:
    net, cond, x = made(), make_cond(), torch.randn(2, 4, 8, 8)
    wrong = [
        (x, dataclasses.replace(cond, tokens=None), "no tokens"),
        (x, dataclasses.replace(cond, tokens=torch.randn(2, 5, 13)), "tokens of width 13"),
        (x, dataclasses.replace(cond, vector=None), "width None"),
        (x, dataclasses.replace(cond, vector=torch.randn(2, 11)), "width 11"),
        (x, dataclasses.replace(cond, guidance=None), "needs cond.guidance"),
        (x, dataclasses.replace(cond, concat=None), "takes 6 channels"),
        (x[..., 0], cond, "grid of 2 dimensions"),
    ]
    for data, bad, words in wrong:
        with pytest.raises(ValueError, match=words):
            net(data, TIME, bad)
        with pytest.raises(ValueError, match=words):
            net.prepare(bad)(data, TIME)
    with pytest.raises(ValueError, match=r"drop cond\.guidance"):
        made(dataclasses.replace(PLAN, guidance_width=None))(x, TIME, cond)
    with pytest.raises(ValueError, match="one of each a level"):
        Plan(4, 4, (32, 32), (1,), 8)
    with pytest.raises(ValueError, match="32 channels do not divide into 5 heads"):
        Plan(4, 4, (32, 32), (1, 0), 8, heads=5)
    with pytest.raises(ValueError, match="32 channels do not divide into heads of 24"):
        Plan(4, 4, (48, 32), (1, 0), 8, head_width=24)
