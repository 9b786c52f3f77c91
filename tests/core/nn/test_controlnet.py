"""ControlNet: it starts by changing nothing, adds what it says times its scale, and is prepared like any network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from core.cond import Cond
from core.nn.controlnet import ControlCond, ControlledUNet, ControlNet
from core.nn.text_unet import TextUNet
from core.nn.text_unet_plan import Plan
from tests.support.parameters import randomise

PLAN = Plan(6, 4, (16, 32), (1, 1), 12, heads=2, groups=8, guidance_width=8)
TIME = torch.tensor([7.0, 421.0])
WIDTHS = (4, 6, 8)


def made() -> tuple[TextUNet, ControlNet, ControlNet]:
    """A U-Net with a mask and a guidance embedding, a ControlNet with both, and one with neither."""
    unet, full = TextUNet(PLAN), ControlNet(PLAN, 3, WIDTHS)
    simple = ControlNet(dataclasses.replace(PLAN, in_channels=4, guidance_width=None), 1, WIDTHS)
    for net in (unet, full, simple):
        randomise(net)
    return unet, full, simple


def make_cond() -> ControlCond:
    tokens, guidance = torch.randn(2, 5, 12), torch.tensor([7.5, 1.0])
    return ControlCond(
        tokens=tokens, guidance=guidance, concat=torch.randn(2, 2, 8, 8), control=torch.rand(2, 4, 32, 32)
    )


@torch.no_grad()
def test_a_new_one_changes_nothing() -> None:
    unet, x, cond = made()[0], torch.randn(2, 4, 8, 8), make_cond()
    control = ControlNet.of(unet, 4, WIDTHS)
    shared = control.state_dict().keys() & unet.state_dict().keys()
    assert len(shared) > 80 and all(torch.equal(control.state_dict()[k], unet.state_dict()[k]) for k in shared)
    assert torch.equal(ControlledUNet(unet, [control], [1.0])(x, TIME, cond), unet(x, TIME, cond))
    control.conv_in.weight += 1  # a copy, not the U-Net's own
    assert not torch.equal(control.conv_in.weight, unet.conv_in.weight)


@torch.no_grad()
def test_maps_are_added_times_their_scale() -> None:
    unet, full, simple = made()
    x, cond = torch.randn(2, 4, 8, 8), make_cond()
    assert cond.control is not None
    first = full(x, TIME, dataclasses.replace(cond, control=cond.control[:, :3]))
    plain = ControlCond(tokens=cond.tokens, control=cond.control[:, 3:])
    extra = [0.5 * a + 2.0 * b for a, b in zip(first, simple(x, TIME, plain))]
    expected = unet.denoise(x, unet.block_inputs(TIME, cond), extra)
    output = ControlledUNet(unet, [full, simple], [0.5, 2.0])(x, TIME, cond)
    assert (output - unet(x, TIME, cond)).abs().max() > 1e-2
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        ControlledUNet(unet, [full, simple], [0.0, 0.0])(x, TIME, cond), unet(x, TIME, cond), rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_prepared_equals_plain_in_one_graph() -> None:
    unet, full, simple = made()
    net, x, cond = ControlledUNet(unet, [full, simple], [0.5, 2.0]), torch.randn(2, 4, 8, 8), make_cond()
    expected = [net(x, torch.full((2,), float(step)), cond) for step in (3, 2, 1)]
    torch.testing.assert_close(net.prepare(cond)(x, TIME), net(x, TIME, cond), rtol=0, atol=1e-6)
    counter, calls = CompileCounter(), []
    for control in net.controls:
        control.hint.register_forward_hook(lambda *_: calls.append(1))
    net.denoise = torch.compile(net.denoise, backend=counter, fullgraph=True)
    answer = net.prepare(cond)
    output = [answer(x, torch.tensor(float(step))) for step in (3, 2, 1)]
    assert len(calls) == 2 and counter.frame_count == 1
    for mine, wanted in zip(output, expected):  # a time for all samples is embedded as a batch of one
        torch.testing.assert_close(mine, wanted, rtol=0, atol=5e-6)


def test_only_the_control_is_trained_where_the_unet_is_frozen() -> None:
    """At the start the outlets alone have gradients; after one step of theirs the encoder has them too (ibid., 3.1)."""
    unet = made()[0].requires_grad_(False)
    control = ControlNet.of(unet, 4, WIDTHS)
    net, x, cond = ControlledUNet(unet, [control], [1.0]), torch.randn(2, 4, 8, 8), make_cond()
    net(x, TIME, cond).square().mean().backward()
    grads = {name: value.grad.abs().max() for name, value in control.named_parameters() if value.grad is not None}
    assert {name for name, size in grads.items() if size > 0} == {n for n in grads if n.startswith("outlets")}
    with torch.no_grad():
        for parameter in control.outlets.parameters():
            parameter -= parameter.grad
    net(x, TIME, cond).square().mean().backward()
    assert control.hint.conv_out.weight.grad.abs().max() > 0 and control.conv_in.weight.grad.abs().max() > 0


def test_what_does_not_fit_is_refused() -> None:
    unet, full, simple = made()
    net, x, cond = ControlledUNet(unet, [full, simple], [0.5, 2.0]), torch.randn(2, 4, 8, 8), make_cond()
    plain = Cond(tokens=cond.tokens, guidance=cond.guidance, concat=cond.concat)
    for bad, words in (
        (plain, "no pictures"),
        (dataclasses.replace(cond, control=torch.rand(2, 3, 32, 32)), "pictures of 3 channels"),
        (dataclasses.replace(cond, control=torch.rand(2, 4, 16, 16)), "4 times the size"),
    ):
        with pytest.raises(ValueError, match=words):
            net(x, TIME, bad)
        with pytest.raises(ValueError, match=words):
            net.prepare(bad)(x, TIME)
    with pytest.raises(ValueError, match="fill cond.control".replace(".", r"\.")):
        full(x, TIME, dataclasses.replace(cond, control=None))
    with pytest.raises(ValueError, match="takes 3"):
        full(x, TIME, cond)
    with pytest.raises(ValueError, match="one scale to each"):
        ControlledUNet(unet, [full], [1.0, 2.0])
