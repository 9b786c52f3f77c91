"""Networks that can be prepared for a condition, whose text is then read once for all steps."""

from __future__ import annotations

import torch
from torch import Tensor

from core.cond import Cond
from core.nn.flux import Flux
from core.nn.mmdit import MMDiT


def agrees_when_prepared(net: Flux | MMDiT, x: Tensor, time: Tensor, cond: Cond, wide: Tensor) -> None:
    """It answers as it does unprepared, for x (3, ...) and a wider one; of the time only one number is embedded."""
    moments = [400.0, 30.0, 400.0]
    expected = [net(x, torch.full((3,), moment), cond) for moment in moments]
    answer = net.prepare(cond)
    calls = []
    net.text.register_forward_hook(lambda layer, given, found: calls.append("text"))
    net.time.register_forward_hook(lambda layer, given, found: calls.append("time"))
    for moment, wanted in zip(moments, expected):
        torch.testing.assert_close(answer(x, torch.tensor(moment)), wanted, rtol=0, atol=1e-6)
    assert calls == ["time", "time"]
    torch.testing.assert_close(answer(x, time), net(x, time, cond), rtol=0, atol=1e-6)
    torch.testing.assert_close(answer(wide, time), net(wide, time, cond), rtol=0, atol=1e-6)
