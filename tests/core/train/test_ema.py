"""Averages against closed forms, over parameters and buffers, and the reconstruction of a length nobody stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from core.train.ema import EMA, Constant, Power, post_hoc


class Walker(nn.Module):
    """A parameter, a floating-point buffer and a counter, set to given values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.buffer = nn.Buffer(torch.zeros(1, dtype=torch.float64))
        self.count = nn.Buffer(torch.tensor(0))

    def go(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.buffer.fill_(-value)
            self.count += 1


VALUES = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0).tolist()


def test_constant_decay_with_warm_up_is_its_closed_form() -> None:
    walker = Walker()
    ema = EMA(walker, {"ema": Constant(0.9)})
    wanted = VALUES[0]
    for n, value in enumerate(VALUES):
        walker.go(value)
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n)) if n else 0.0
        wanted = decay * wanted + (1 - decay) * value
    assert ema.averages["ema"]["weight"].item() == pytest.approx(wanted, rel=1e-12)
    assert ema.averages["ema"]["buffer"].item() == pytest.approx(-wanted, rel=1e-12)
    assert ema.averages["ema"]["count"].item() == 60


@pytest.mark.parametrize("deviation", [0.05, 0.10, 0.25])
def test_power_profile_has_its_deviation_and_its_weights(deviation: float) -> None:
    gamma = Power(deviation).gamma
    assert deviation**2 == pytest.approx((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    walker = Walker()
    ema = EMA(walker, {"power": Power(deviation)})
    for value in VALUES:
        walker.go(value)
        ema.update()
    # The product of later decays ((t - 1) / t)^(gamma + 1) telescopes: value t weighs t^(gamma+1) - (t-1)^(gamma+1).
    edges = np.arange(61) ** (gamma + 1)
    wanted = float((np.diff(edges) * np.array(VALUES)).sum() / edges[-1])
    assert ema.averages["power"]["weight"].item() == pytest.approx(wanted, rel=1e-9)


def test_post_hoc_rebuilds_a_length_that_was_not_stored() -> None:
    walker = Walker()
    stored, other = (Power(0.05), Power(0.10)), Power(0.07)
    ema = EMA(walker, {"a": stored[0], "b": stored[1], "other": other})
    snapshots, profiles = [], []
    for step in range(1, 2001):
        walker.go(float(np.sin(step / 150) + step / 1000))
        ema.update()
        if step % 250 == 0:
            for name, profile in zip("ab", stored):
                snapshots.append({key: value.clone() for key, value in ema.averages[name].items()})
                profiles.append((profile, step))
    found = post_hoc(snapshots, profiles, other, 2000)
    wanted, nearest = ema.averages["other"]["weight"].item(), ema.averages["a"]["weight"].item()
    assert abs(nearest - wanted) > 0.02
    assert found["weight"].item() == pytest.approx(wanted, abs=2e-3)
    assert found["count"].item() == 2000


def test_post_hoc_of_a_stored_length_is_the_stored_one() -> None:
    walker = Walker()
    ema = EMA(walker, {"a": Power(0.05), "b": Power(0.10)})
    for value in VALUES:
        walker.go(value)
        ema.update()
    found = post_hoc([ema.averages["a"], ema.averages["b"]], [(Power(0.05), 60), (Power(0.10), 60)], Power(0.1), 60)
    assert found["weight"].item() == pytest.approx(ema.averages["b"]["weight"].item(), rel=1e-6)


def test_swapped_shows_the_average_and_gives_the_model_back() -> None:
    walker = Walker()
    ema = EMA(walker, {"fast": Constant(0.5), "slow": Constant(0.99)})
    for value in VALUES:
        walker.go(value)
        ema.update()
    with ema.swapped():
        assert torch.equal(walker.weight, ema.averages["fast"]["weight"])
    with pytest.raises(RuntimeError), ema.swapped("slow"):
        assert torch.equal(walker.weight, ema.averages["slow"]["weight"])
        raise RuntimeError
    assert walker.weight.item() == VALUES[-1] and walker.count.item() == 60


def test_state_goes_on_bit_for_bit() -> None:
    walker = Walker()
    ema = EMA(walker, {"ema": Constant(0.9), "power": Power(0.1)})
    for value in VALUES[:30]:
        walker.go(value)
        ema.update()
    again = EMA(walker, ema.profiles)
    again.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    for value in VALUES[30:]:
        walker.go(value)
        ema.update()
        again.update()
    assert all(torch.equal(value, ema.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(ValueError, match="profiles"):
        EMA(walker, {"ema": Constant(0.9)}).load_state_dict(ema.state_dict())
