"""Networks of sequences: frames that do not exist change nothing; what is prepared says the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from core.cond import Cond
from core.denoiser import Preparable
from motion.nn.mdm import MDM, Decoder, Encoder, Recurrent
from motion.nn.motiondiffuse import MotionDiffuse, gather

NETS: dict[str, Callable[[], nn.Module]] = {
    "encoder": lambda: MDM(6, 16, Encoder(16, 24, 2, 4), 64),
    "decoder": lambda: MDM(6, 16, Decoder(16, 24, 2, 4), 8, words=True),
    "recurrent": lambda: MDM(6, 16, Recurrent(16, 2), 64),
    "motiondiffuse": lambda: MotionDiffuse(6, 20, 16, 24, 2, 4, 8),
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = NETS[request.param]()
    for name, value in made.named_parameters():
        nn.init.normal_(value, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.08)
    return made.eval()


def make_cond() -> Cond:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    valid = torch.arange(9) < torch.tensor([[9], [5]])
    return Cond(vector=torch.randn(2, 64), tokens=torch.randn(2, 3, 8), mask=mask, valid=valid)


@torch.no_grad()
def test_frames_that_do_not_exist_touch_no_other(net: nn.Module) -> None:
    cond, time = make_cond(), torch.tensor([3.0, 700.0])
    x = torch.randn(2, 9, 6)
    other = torch.where(torch.arange(9)[None, :, None] < torch.tensor([9, 5])[:, None, None], x, 7.0)
    output, again = net(x, time, cond), net(other, time, cond)
    assert cond.valid is not None and cond.vector is not None and cond.tokens is not None and cond.mask is not None
    torch.testing.assert_close(output[cond.valid], again[cond.valid], atol=1e-6, rtol=0)
    short = Cond(cond.vector[1:], cond.tokens[1:], cond.mask[1:])
    torch.testing.assert_close(net(x[1:, :5], time[1:], short)[0], output[1, :5], atol=1e-5, rtol=0)


@torch.no_grad()
def test_prepared_says_the_same(net: nn.Module) -> None:
    cond, x = make_cond(), torch.randn(2, 9, 6)
    assert isinstance(net, Preparable)
    answer = net.prepare(cond)
    for time in (torch.tensor(40.0), torch.tensor(40.0), torch.tensor([40.0, 2.0])):
        torch.testing.assert_close(answer(x, time), net(x, time.expand(2), cond), atol=1e-6, rtol=0)


@torch.no_grad()
def test_words_that_are_padding_are_not_read() -> None:
    torch.manual_seed(0)
    for made in (NETS["decoder"](), NETS["motiondiffuse"]()):
        for value in made.parameters():
            nn.init.normal_(value, std=0.2)
        cond, x = make_cond(), torch.randn(2, 9, 6)
        assert cond.tokens is not None
        changed = cond.tokens.clone()
        changed[0, 2] = 5.0
        output = made.eval()(x, torch.tensor([3.0, 4.0]), cond)
        same = made(x, torch.tensor([3.0, 4.0]), Cond(cond.vector, changed, cond.mask, valid=cond.valid))
        torch.testing.assert_close(output, same, atol=1e-6, rtol=0)
        changed[0, 1] = 5.0
        assert not torch.allclose(output, made(x, torch.tensor([3.0, 4.0]), Cond(cond.vector, changed, cond.mask)))


def test_linear_attention_reads_a_mean_and_does_not_mind_the_order() -> None:
    torch.manual_seed(0)
    key, value = torch.zeros(1, 1, 5, 3), torch.randn(1, 1, 5, 3)
    exists = torch.tensor([[True, True, True, False, False]])
    mean = value[:, :, :3].mean(2, keepdim=True).expand(1, 1, 3, 3)
    torch.testing.assert_close(gather(key, value, exists), mean)
    key, order = torch.randn(1, 1, 5, 3), torch.randperm(5)
    torch.testing.assert_close(gather(key, value, None), gather(key[:, :, order], value[:, :, order], None))


def test_what_does_not_fit_is_refused() -> None:
    net = MotionDiffuse(6, 4, 16, 24, 1, 4, 8)
    with pytest.raises(ValueError, match="5 frames: this network has places for 4"):
        net(torch.zeros(1, 5, 6), torch.zeros(1))
    with pytest.raises(ValueError, match="a condition of width 3: this network takes 8"):
        MDM(6, 16, Encoder(16, 24, 1, 4), 8)(torch.zeros(1, 5, 6), torch.zeros(1), Cond(vector=torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        Encoder(16, 24, 1, 3)
