"""LoRA: additions equal what they say they add, come out again bit for bit, and are all that training touches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.cond import Cond
from core.nn.lora import Addition, AttachedLoRAs, LoRA, layers_of
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from tests.support.parameters import randomise

PLAN = Plan(4, 4, (32, 64), (1, 1), 16, blocks=1, heads=4, groups=8)


@pytest.fixture(scope="module")
def net() -> TextUNet:
    torch.manual_seed(1)
    found = TextUNet(PLAN)
    randomise(found)
    return found.requires_grad_(False)


X, TIME, COND = torch.randn(2, 4, 8, 8), torch.tensor([7.0, 421.0]), Cond(tokens=torch.randn(2, 5, 16))


@torch.no_grad()
def output_of(net: nn.Module) -> Tensor:
    answer: Tensor = net(X, TIME, COND)
    return answer


def awake(net: nn.Module, rank: int = 3, alpha: float = 6.0, targets: tuple[str, ...] = ("*",)) -> LoRA:
    """A LoRA on layers of the network that says something."""
    lora = LoRA.of(net, rank, alpha, targets)
    for _, parts in lora.items():
        for part in parts:
            nn.init.normal_(part.up, std=0.08)
    return lora


def merged(net: TextUNet, loras: list[LoRA], weights: list[float]) -> TextUNet:
    """A copy whose weights are sums, made by hand."""
    copy = TextUNet(PLAN)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for lora, weight in zip(loras, weights):
        for name, parts in lora.items():
            for part in parts:
                scale = weight * float(part.alpha) / len(part.down)
                product = torch.einsum("or,r...->o...", part.up.detach(), part.down.detach())
                state[f"{name}.weight"][part.start : part.start + len(part.up)] += scale * product
    copy.load_state_dict(state)
    return copy.eval()


def test_a_new_lora_changes_nothing_and_one_on_all_layers_is_a_sum_of_weights(net: TextUNet) -> None:
    before = output_of(net)
    new = AttachedLoRAs(net, [LoRA.of(net, 4)])
    assert torch.equal(output_of(net), before)
    new.detach()
    lora = awake(net)
    assert {name for name, _ in lora.items()} == set(layers_of(net))
    attached = AttachedLoRAs(net, [lora])
    wanted = output_of(merged(net, [lora], [1.0]))
    assert (wanted - before).abs().max() > 0.05
    torch.testing.assert_close(output_of(net), wanted, rtol=0, atol=1e-5)
    prepared = net.prepare(COND)
    with torch.no_grad():
        torch.testing.assert_close(prepared(X, TIME), wanted, rtol=0, atol=1e-5)
    attached.detach()
    assert torch.equal(output_of(net), before)


def test_two_loras_with_weights_fused_and_taken_out_bit_for_bit(net: TextUNet) -> None:
    before, state = output_of(net), {name: value.clone() for name, value in net.state_dict().items()}
    loras = [awake(net), awake(net, 2, 1.0, ("*qkv", "*.conv1"))]
    attached = AttachedLoRAs(net, loras, [0.7, -1.3])
    wanted = output_of(merged(net, loras, [0.7, -1.3]))
    torch.testing.assert_close(output_of(net), wanted, rtol=0, atol=1e-5)
    attached.set_weights([0.0, 2.0])
    torch.testing.assert_close(output_of(net), output_of(merged(net, loras, [0.0, 2.0])), rtol=0, atol=1e-5)
    attached.set_weights([0.7, -1.3])
    for _ in range(3):
        attached.fuse()
        torch.testing.assert_close(output_of(net), wanted, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="fused already"):
            attached.fuse()
        attached.unfuse()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(output_of(net), wanted, rtol=0, atol=1e-5)
    attached.detach()
    assert torch.equal(output_of(net), before)


def test_half_precision_fuses_and_comes_out(net: TextUNet) -> None:
    half = TextUNet(PLAN)
    half.load_state_dict(net.state_dict())
    half = half.to(torch.bfloat16)
    state = {name: value.clone() for name, value in half.state_dict().items()}
    attached = AttachedLoRAs(half, [awake(net)])
    attached.fuse()
    assert any(not torch.equal(value, state[name]) for name, value in half.state_dict().items())
    attached.unfuse()
    assert all(torch.equal(value, state[name]) for name, value in half.state_dict().items())


def test_blocks_of_rows_and_convolutions_of_every_kind() -> None:
    layers: list[tuple[nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, Tensor]] = [
        (nn.Linear(5, 12), torch.randn(2, 3, 5)),
        (nn.Conv1d(5, 12, 3, 2, 1), torch.randn(2, 5, 9)),
        (nn.Conv2d(5, 12, 3, 2), torch.randn(2, 5, 9, 7)),
        (nn.Conv3d(5, 12, 3, 1, 1), torch.randn(2, 5, 4, 4, 4)),
    ]
    for layer, x in layers:
        net = nn.Sequential(layer)
        part = Addition(torch.randn(2, *layer.weight.shape[1:]), torch.randn(4, 2), alpha=3.0, start=5)
        attached = AttachedLoRAs(net, [LoRA({"0": [part]})])
        unfused = net(x)
        attached.fuse()
        torch.testing.assert_close(net(x), unfused, rtol=1e-5, atol=1e-5)
        attached.detach()


def test_training_learns_and_touches_the_lora_only(net: TextUNet) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items()}
    lora = LoRA.of(net, 4, targets=("*qkv", "*query", "*project"))
    attached = AttachedLoRAs(net, [lora])
    wanted, losses = torch.randn(2, 4, 8, 8), []
    adam = torch.optim.Adam(lora.parameters(), lr=1e-2)
    for _ in range(25):
        loss = (net(X, TIME, COND) - wanted).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    attached.detach()
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_does_not_fit_is_refused(net: TextUNet) -> None:
    with pytest.raises(ValueError, match="no layer of the network is called nothing"):
        LoRA.of(net, 4, targets=("nothing",))
    with pytest.raises(ValueError, match="at least 1"):
        LoRA.of(net, 0)
    with pytest.raises(ValueError, match="of one rank"):
        Addition(torch.zeros(2, 5), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="no layer elsewhere"):
        AttachedLoRAs(net, [LoRA({"elsewhere": [Addition(torch.zeros(2, 5), torch.zeros(5, 2))]})])
    with pytest.raises(ValueError, match="another network"):
        AttachedLoRAs(net, [LoRA({"conv_in": [Addition(torch.zeros(2, 5, 3, 3), torch.zeros(32, 2))]})])
    with pytest.raises(ValueError, match="2 weights for 1 LoRAs"):
        AttachedLoRAs(net, [LoRA.of(net, 1)], [1.0, 2.0])
